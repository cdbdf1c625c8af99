"""Splitting a batch into micro-batches."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from align.ppo.rollout import micro_batches


@given(st.lists(st.integers(1, 100), min_size=1, max_size=80), st.integers(1, 2000))
def test_every_row_is_in_one_micro_batch_that_stays_within_the_budget(lengths: list[int], budget: int) -> None:
    found = list(micro_batches(torch.tensor(lengths), budget))
    assert sorted(torch.cat(found).tolist()) == list(range(len(lengths)))
    for rows in found:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget


@given(st.lists(st.integers(1, 100), min_size=1, max_size=80))
def test_only_small_micro_batches_are_padding_by_more_than_an_eighth(lengths: list[int]) -> None:
    budget = 1000
    for rows in micro_batches(torch.tensor(lengths), budget):
        members = [lengths[row] for row in rows]
        before_the_last = max(members) * (len(members) - 1)
        assert before_the_last < budget // 4 or sum(members) >= max(members) * len(members) * 7 / 8
