from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.ppo import objective

lengths = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def masks(sizes: list[int], width: int) -> torch.Tensor:
    return torch.arange(width) < torch.tensor(sizes).unsqueeze(1)


def test_gae_by_hand() -> None:
    """Two tokens, gamma .9, lambda .5: delta_1 = 2 - .3, delta_0 = 1 + .9 x .3 - .5."""
    rewards, values = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.3]])
    advantages, returns = objective.gae(rewards, values, torch.ones(1, 2, dtype=torch.bool), 0.9, 0.5)
    last = 2 - 0.3
    first = 1 + 0.9 * 0.3 - 0.5 + 0.9 * 0.5 * last
    torch.testing.assert_close(advantages, torch.tensor([[first, last]]))
    torch.testing.assert_close(returns, torch.tensor([[first + 0.5, last + 0.3]]))


def test_without_discount_returns_are_the_rewards_still_to_come() -> None:
    rewards = torch.tensor([[1.0, -2.0, 4.0]])
    _, returns = objective.gae(rewards, torch.randn(1, 3), torch.ones(1, 3, dtype=torch.bool), 1.0, 1.0)
    torch.testing.assert_close(returns, torch.tensor([[3.0, 2.0, 4.0]]))


@given(lengths, st.integers(0, 4), st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_padding_changes_nothing(sizes: list[int], extra: int, seed: int) -> None:
    torch.manual_seed(seed)
    width = max(sizes)
    rewards, values, log_ratios = torch.randn(3, len(sizes), width)
    scores, mask = torch.randn(len(sizes)), masks(sizes, width)

    def everything(pad: int) -> list[torch.Tensor]:
        wide = [torch.nn.functional.pad(tensor, (0, pad), value=7.0) for tensor in (rewards, values, log_ratios)]
        wide_mask = torch.nn.functional.pad(mask, (0, pad))
        token_rewards = objective.token_rewards(scores, wide[2], wide_mask, 0.3)
        advantages, returns = objective.gae(token_rewards, wide[1], wide_mask, 0.95, 0.9)
        whitened = objective.whiten(advantages, wide_mask)
        return [tensor[:, :width] * mask for tensor in (token_rewards, advantages, returns, whitened)]

    for narrow, wide in zip(everything(0), everything(extra), strict=True):
        torch.testing.assert_close(narrow, wide)


@given(lengths, st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_score_lands_on_the_last_real_token(sizes: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    mask, scores = masks(sizes, 6), torch.randn(len(sizes))
    rewards = objective.token_rewards(scores, torch.zeros(len(sizes), 6), mask, 0.1)
    for row, size in enumerate(sizes):
        assert rewards[row, size - 1] == scores[row]
        assert rewards[row].count_nonzero() <= 1


def test_leave_one_out_by_hand() -> None:
    """Two prompts with two responses each: totals 3, 1 and 4, 0, so that each is compared with the other one."""
    rewards = torch.tensor([[1.0, 2.0], [1.0, 9.0], [4.0, 9.0], [-1.0, 1.0]])
    mask = torch.tensor([[True, True], [True, False], [True, False], [True, True]])
    expected = torch.tensor([[2.0, 2.0], [-2.0, 0.0], [4.0, 0.0], [-4.0, -4.0]])
    torch.testing.assert_close(objective.leave_one_out(rewards, mask, 2), expected)


def test_group_relative_by_hand() -> None:
    """Scores 0, 3, 6 have mean 3 and spread 3; a group of equals has nothing to learn but to stay where it is."""
    scores, penalties = torch.tensor([0.0, 3.0, 6.0, 5.0, 5.0, 5.0]), torch.tensor([0.0, 0.0, 0.0, 0.01, 0.02, 0.03])
    expected = torch.tensor([[-1.0], [0.0], [1.0], [0.01], [0.0], [-0.01]])
    advantages = objective.group_relative(scores, penalties, torch.ones(6, 1, dtype=torch.bool), 3)
    torch.testing.assert_close(advantages, expected, atol=1e-4, rtol=0)


def test_returns_to_go_by_hand() -> None:
    rewards = torch.tensor([[1.0, -2.0, 4.0], [1.0, 2.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    expected = torch.tensor([[1 - 0.5 * 2 + 0.25 * 4, -2 + 0.5 * 4, 4.0], [1 + 0.5 * 2, 2.0, 0.0]])
    torch.testing.assert_close(objective.returns_to_go(rewards, mask, 0.5), expected)


@given(st.integers(0, 10_000), st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_baselines_of_a_group_add_up_to_nothing(seed: int, group: int) -> None:
    torch.manual_seed(seed)
    rewards, mask = torch.randn(2 * group, 3), torch.ones(2 * group, 3, dtype=torch.bool)
    for advantages in (
        objective.leave_one_out(rewards, mask, group),
        objective.group_relative(rewards[:, 0], rewards[:, 1], mask, group),
    ):
        torch.testing.assert_close(advantages.view(2, group, 3).sum(1), torch.zeros(2, 3), atol=1e-4, rtol=0)


def test_whitening_counts_real_tokens_only() -> None:
    values = torch.tensor([[1.0, 3.0, 100.0]])
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(objective.whiten(values, mask), torch.tensor([[-1.0, 1.0, 0.0]]))
    torch.testing.assert_close(objective.whiten(values, mask, shift_mean=False), torch.tensor([[1.0, 3.0, 0.0]]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "is_clipped"),
    [(1.5, 1.0, -1.2, True), (1.1, 1.0, -1.1, False), (0.5, -1.0, 0.8, True), (1.5, -1.0, 1.5, False)],
)
def test_policy_loss_by_hand(ratio: float, advantage: float, expected: float, is_clipped: bool) -> None:
    loss, clipped = objective.policy_loss(
        torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([advantage]), 0.2
    )
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert bool(clipped) == is_clipped


def test_dual_clip_bounds_a_ratio_that_ran_away() -> None:
    arguments = torch.tensor([math.log(50.0)]), torch.zeros(1), torch.tensor([-1.0]), 0.2
    assert objective.policy_loss(*arguments)[0].item() == pytest.approx(50.0, rel=1e-5)
    assert objective.policy_loss(*arguments, dual_clip=3.0)[0].item() == pytest.approx(3.0)


def test_value_loss_takes_the_worse_of_plain_and_clipped() -> None:
    loss, clipped = objective.value_loss(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0]), 0.2)
    assert loss.item() == pytest.approx(0.5 * 0.8**2)
    assert bool(clipped)


def test_entropy_of_a_uniform_distribution() -> None:
    assert objective.entropy(torch.zeros(3, 8)).tolist() == pytest.approx([math.log(8)] * 3)


def test_kl_coefficient_moves_towards_its_target() -> None:
    assert objective.adapted_kl_coef(0.1, kl=9.0, target=6.0, episodes=64, horizon=6400) == pytest.approx(0.1 * 1.002)
    assert objective.adapted_kl_coef(0.1, kl=0.0, target=6.0, episodes=64, horizon=6400) == pytest.approx(0.1 * 0.998)
    assert objective.adapted_kl_coef(0.1, kl=6.0, target=6.0, episodes=64, horizon=6400) == 0.1


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=8), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_running_moments_are_those_of_all_scores(batches: list[list[float]]) -> None:
    moments = objective.RunningMoments()
    for batch in batches:
        moments.update(torch.tensor(batch, dtype=torch.float64))
    every = torch.tensor([score for batch in batches for score in batch], dtype=torch.float64)
    assert moments.mean == pytest.approx(every.mean().item(), abs=1e-6)
    std = every.std(correction=0).item()
    assert moments.std == pytest.approx(std, abs=1e-4) or std < 1e-4
