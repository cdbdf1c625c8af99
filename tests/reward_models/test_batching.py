"""A forward pass holds no more tokens than its budget, and of those that it holds little is padding."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reward_models
from reward_models.batching import batches, filled, of_one_length


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_batches_hold_every_text_once_and_stay_within_the_budget(lengths: list[int], budget: int) -> None:
    found = list(batches(lengths, budget))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    longest = [max(lengths[index] for index in batch) for batch in found]
    assert longest == sorted(longest)


@given(st.lists(st.integers(1, 9), max_size=60), st.integers(1, 40))
def test_texts_of_one_length_alone_share_a_pass_without_padding(lengths: list[int], budget: int) -> None:
    found = list(of_one_length(lengths, budget))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len({lengths[index] for index in batch}) == 1
        assert len(batch) == 1 or len(batch) * lengths[batch[0]] <= budget


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_without_padding_a_pass_is_filled_until_the_next_text_does_not_fit(lengths: list[int], budget: int) -> None:
    found = [[lengths[index] for index in batch] for batch in filled(lengths, budget)]
    assert [length for batch in found for length in batch] == sorted(lengths)
    assert sorted(index for batch in filled(lengths, budget) for index in batch) == list(range(len(lengths)))
    for batch, following in itertools.pairwise([*found, [budget]]):
        assert len(batch) == 1 or sum(batch) <= budget
        assert sum(batch) + following[0] > budget


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(4, 64))
def test_no_division_into_groups_costs_less(lengths: list[int], budget: int) -> None:
    def cost(group: list[int]) -> float:  # as if all its passes were padded to its longest text
        return len(group) * max(group) + math.ceil(len(group) / max(1, budget // max(group))) * budget / 16

    ordered = sorted(lengths)
    edges = [at for at in range(1, len(ordered)) if ordered[at - 1] != ordered[at]]
    cuts = (cut for n in range(len(edges) + 1) for cut in itertools.combinations(edges, n))
    divisions = ([ordered[a:b] for a, b in itertools.pairwise([0, *cut, len(ordered)])] for cut in cuts)
    least = min(sum(map(cost, division)) for division in divisions)
    found = [[lengths[index] for index in batch] for batch in batches(lengths, budget)]
    assert sum(len(batch) * max(batch) + budget / 16 for batch in found) <= least + 1e-9


def test_little_is_padding_where_lengths_are_mixed() -> None:
    generator = random.Random(0)
    lengths = [round(80 ** generator.random()) for _ in range(192)]
    cut_where_full: list[list[int]] = [[]]
    for length in sorted(lengths):
        if (len(cut_where_full[-1]) + 1) * length > 1_024:
            cut_where_full.append([])
        cut_where_full[-1].append(length)
    assert sum(len(batch) * max(batch) for batch in cut_where_full) > 1.3 * sum(lengths)
    held = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches(lengths, 1_024))
    assert held < 1.15 * sum(lengths)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("budget", [16, 64, None])
def test_no_forward_pass_is_larger_than_the_budget(tiny_classifier: Any, budget: int | None, padded: bool) -> None:
    passes: list[int] = []
    texts = [" ".join(["w5"] * (1 + n * 7 % 12)) for n in range(300)]
    model = reward_models.load(tiny_classifier, **({} if budget is None else {"batch_tokens": budget}))
    if padded:
        model._model._unpadded = None  # as on a GPU
    called = model._model._unpadded or model._model._model
    called.register_forward_pre_hook(lambda _, __, given: passes.append(given["input_ids"].numel()), with_kwargs=True)
    scores = model.score([""] * len(texts), texts)
    most = budget or (16_384 if torch.cuda.is_available() else 1_024)
    assert max(passes) <= most
    tokens = sum(len(ids) for ids in model._model._token_ids(texts))
    assert sum(passes) == tokens if model._model._unpadded else tokens <= sum(passes) < 1.5 * tokens
    # Not closer: products of another shape may add up in another order, by 2e-6 on one CPU and by less on another.
    assert scores == pytest.approx([model.score([""], [text])[0] for text in texts], abs=1e-5)
