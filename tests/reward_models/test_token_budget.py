"""A classifier's memory is bounded: a forward pass holds no more tokens than its budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reward_models
from reward_models import classifier


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_batches_hold_every_text_once_and_stay_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(classifier._batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    longest = [max(lengths[index] for index in batch) for batch in batches]
    assert longest == sorted(longest)


@pytest.mark.parametrize("budget", [16, 64, None])
def test_no_forward_pass_is_larger_than_the_budget(tiny_classifier: Any, budget: int | None) -> None:
    passes: list[int] = []
    texts = [" ".join(["w5"] * (1 + n * 7 % 12)) for n in range(300)]
    model = reward_models.load(tiny_classifier, **({} if budget is None else {"batch_tokens": budget}))
    inner = model._model._model
    inner.register_forward_pre_hook(lambda _, __, given: passes.append(given["input_ids"].numel()), with_kwargs=True)
    scores = model.score([""] * len(texts), texts)
    most = budget or (16_384 if torch.cuda.is_available() else 1_024)
    assert max(passes) <= most
    assert sum(passes) < 1.5 * sum(len(text.split()) for text in texts)  # little of it is padding
    assert scores == pytest.approx([model.score([""], [text])[0] for text in texts], abs=1e-6)
