"""The mathematics of PPO for language models: functions of tensors alone.

Shapes: b responses, t response tokens. `mask` [b, t] is True on real response tokens, which stand at the front of each
row. Sums and means run over real tokens only; what stands on padding never matters.

Sources: Schulman et al. 2016 (GAE, equation 16), Schulman et al. 2017 (PPO, equation 7), Ziegler et al. 2019 (KL in
the reward and its controller, section 2.2), Huang et al. 2024 (arXiv 2403.17031: the details that matter), Ahmadian et
al. 2024 (RLOO, section 3.2), Shao et al. 2024 (GRPO, section 4.1), Hu et al. 2025 (REINFORCE++, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def token_rewards(scores: Tensor, log_ratios: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Reward of each token, [b, t]: -kl_coef x log(policy / reference), and the score [b] on the last real token.

    Of the ways to place a KL penalty, this one (the k1 estimator in the reward) and k2 as a loss converge to the
    optimum, policy ∝ reference x exp(score / kl_coef).

    Args:
        scores: [b]
        log_ratios: [b, t] log(policy / reference) of each token.
        mask: [b, t]
        kl_coef: units of the score per nat.
    """
    rewards = -kl_coef * log_ratios * mask
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores.unsqueeze(1).to(rewards.dtype))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation: advantages and returns, each [b, t], 0 on padding; inputs are [b, t], too.

    The value after a response's last token is 0: an episode ends there.
    """
    values = values * mask
    advantage = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(advantage)
    advantages = []
    for step in reversed(range(values.shape[1])):
        delta = rewards[:, step] + gamma * next_value - values[:, step]
        advantage = (delta + gamma * lam * advantage) * mask[:, step]
        next_value = values[:, step]
        advantages.append(advantage)
    stacked = torch.stack(advantages[::-1], dim=1)
    return stacked, (stacked + values) * mask


def returns_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Discounted sum of the rewards from each token to the end, [b, t], 0 on padding (REINFORCE++ whitens these)."""
    return gae(rewards, torch.zeros_like(rewards), mask, gamma, 1.0)[0]


def leave_one_out(rewards: Tensor, mask: Tensor, group: int) -> Tensor:
    """A response's whole reward less the mean of the others to its prompt, at each of its tokens, [b, t] (RLOO).

    Responses to one prompt are `group` neighbouring rows of `rewards` [b, t].
    """
    totals = (rewards * mask).sum(1).view(-1, group)
    others = (totals.sum(1, keepdim=True) - totals) / (group - 1)
    return (totals - others).view(-1, 1) * mask


def group_relative(scores: Tensor, penalties: Tensor, mask: Tensor, group: int) -> Tensor:
    """A response's score less its group's mean, by its group's spread, less its KL penalty against the group's, at
    each of its tokens, [b, t] (GRPO).

    Penalties stay outside of the division, as in Shao et al.: where all scores of a group are equal, their noise would
    become advantages as large as any. So `kl_coef` weighs nats against standard deviations of the score.

    Args:
        scores: [b], those of one prompt as `group` neighbouring rows.
        penalties: [b] kl_coef x log(policy / reference), summed over the response.
        mask: [b, t]
        group: responses to one prompt.
    """
    scores, penalties = scores.view(-1, group), penalties.view(-1, group)
    spread = scores.std(1, keepdim=True) + 1e-4
    relative = (scores - scores.mean(1, keepdim=True)) / spread - (penalties - penalties.mean(1, keepdim=True))
    return relative.view(-1, 1) * mask


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens, a scalar."""
    return (values * mask).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Scale `values` [b, t] to variance 1 (and mean 0) over real tokens; 0 on padding.

    Advantages are whitened with, rewards without shifting the mean (Huang et al. 2024, detail 9).
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, cliprange: float, dual_clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate of each token and whether the clip was active, shaped like the arguments.

    `dual_clip` bounds the loss where the advantage is negative and the ratio has run away (Ye et al. 2020).
    """
    ratio = torch.exp(log_probs - old_log_probs)
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    loss = torch.maximum(unclipped, clipped)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    return loss, clipped > unclipped


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, cliprange_value: float) -> tuple[Tensor, Tensor]:
    """Half the squared error of each token, the worse of plain and clipped, and whether the clip was active."""
    clipped = torch.clamp(values, old_values - cliprange_value, old_values + cliprange_value)
    plain_error, clipped_error = (values - returns) ** 2, (clipped - returns) ** 2
    return 0.5 * torch.maximum(plain_error, clipped_error), clipped_error > plain_error


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of each distribution, [...] of logits [..., v]."""
    log_probs = logits.float().log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def adapted_kl_coef(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """The coefficient after `episodes` responses with mean `kl` nats: one step towards `target`, errors clipped.

    `episodes` must be fewer than five times `horizon`, or else one step could make the coefficient negative.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)


@dataclass
class RunningMoments:
    """Mean and variance of all scores so far (Chan et al. 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean."""

    def update(self, scores: Tensor) -> None:
        """Take in scores [b]."""
        values = scores.double()
        count, mean = len(values), float(values.mean())
        total, shift = self.count + count, mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    @property
    def std(self) -> float:
        """Standard deviation; 1 until there are two scores that differ."""
        return (self.squares / self.count) ** 0.5 if self.squares > 0 else 1.0
