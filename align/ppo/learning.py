"""What is learned from a rollout: advantages, and the gradient of one mini-batch."""

from __future__ import annotations

import torch
from torch import Tensor

from align.configs.ppo import PPOConfig
from align.modeling.trunk import token_log_probs
from align.ppo import objective, ranks
from align.ppo.actor_critic import ActorCritic
from align.ppo.rollout import Rollout, micro_batches


def advantages_and_returns(
    rewards: Tensor, scores: Tensor, values: Tensor, mask: Tensor, args: PPOConfig
) -> tuple[Tensor, Tensor]:
    """Advantages, and what values should have been, each [b, t]; without a critic the latter is 0.

    Args:
        rewards: [b, t] of each token: KL penalty, and the score on the last one.
        scores: [b] what of the rewards is score.
        values: [b, t]
        mask: [b, t]
        args: settings.
    """
    match args.advantage:
        case "gae":
            advantages, returns = objective.gae(rewards, values, mask, args.gamma, args.lam)
        case "rloo":
            return objective.leave_one_out(rewards, mask, args.num_generations), torch.zeros_like(rewards)
        case "grpo":
            penalties = scores - (rewards * mask).sum(1)
            return objective.group_relative(scores, penalties, mask, args.num_generations), torch.zeros_like(rewards)
        case "reinforce_pp":
            advantages, returns = objective.returns_to_go(rewards, mask, args.gamma), torch.zeros_like(rewards)
    return (objective.whiten(advantages, mask) if args.whiten_advantages else advantages), returns


def accumulate_gradients(
    actor_critic: ActorCritic, rollout: Rollout, rows: Tensor, advantages: Tensor, returns: Tensor, args: PPOConfig
) -> dict[str, Tensor]:
    """Add the gradient of the loss on some rows [m] of a rollout; returns means over their tokens, for the log.

    Of several ranks, each adds its share of the gradient and of the means: their sums are the whole.

    The loss is a mean over all tokens of the mini-batch, so that how it is split into micro-batches changes nothing.
    Logits exist for a piece of the tokens at a time: each piece's gradient stops at the hidden states, and goes
    through the trunk once, when all have been collected.

    Args:
        actor_critic: what learns.
        rollout: b responses of t tokens.
        rows: which of the responses make up the mini-batch.
        advantages: [b, t]
        returns: [b, t] what the values should have been.
        args: settings.
    """
    tokens_in_step = rollout.mask[rows].sum()
    rows = rows[ranks.rank() :: ranks.count()]
    means: dict[str, Tensor] = {}
    if not len(rows):
        return means
    for index in micro_batches(rollout.batch.lengths[rows], args.tokens_per_micro_batch):
        batch = rollout.batch.select(rows[index])
        mask, width = batch.response_mask, batch.response_ids.shape[1]
        old_log_probs, old_values, advantage, expected = (
            tensor[rows[index], :width][mask] for tensor in (rollout.log_probs, rollout.values, advantages, returns)
        )
        tokens = batch.response_ids[mask]
        with actor_critic.learning():
            states = actor_critic.response_states(batch)[mask]
            value_states = states if actor_critic.shares_trunk else actor_critic.value_states(batch)[mask]
            collected = states.detach().requires_grad_()
            collected_values = collected if actor_critic.shares_trunk else value_states.detach().requires_grad_()
            for piece in torch.arange(len(tokens)).split(actor_critic.tokens_at_once):
                logits = actor_critic.logits(collected[piece])
                log_probs = token_log_probs(logits, tokens[piece], args.temperature)
                values = actor_critic.values(collected_values[piece])
                surrogate, policy_clipped = objective.policy_loss(
                    log_probs, old_log_probs[piece], advantage[piece], args.cliprange, args.dual_clip
                )
                squared, value_clipped = objective.value_loss(
                    values, old_values[piece], expected[piece], args.cliprange_value
                )
                loss = surrogate.sum()
                if args.advantage == "gae":
                    loss = loss + args.vf_coef * squared.sum()
                if args.entropy_coef:
                    loss = loss - args.entropy_coef * objective.entropy(logits.float() / args.temperature).sum()
                (loss / tokens_in_step).backward()
                log_ratio = (log_probs - old_log_probs[piece]).detach()
                measured = {
                    "loss/policy_avg": surrogate.detach(),
                    "loss/value_avg": squared.detach(),
                    "policy/approxkl_avg": 0.5 * log_ratio**2,
                    "policy/clipfrac_avg": policy_clipped.float(),
                    "val/clipfrac_avg": value_clipped.float(),
                    "val/ratio": log_ratio.exp(),
                }
                for name, values_of_tokens in measured.items():
                    means[name] = means.get(name, 0) + values_of_tokens.sum() / tokens_in_step
            states.backward(collected.grad)
            if not actor_critic.shares_trunk:
                value_states.backward(collected_values.grad)
    return means
