"""What is logged of an update, under TRL's names."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from align.metrics.diversity import repetition
from align.ppo import objective
from align.ppo.rollout import Rollout


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Rows with the same keys as a table on the terminal; nothing where there are none."""
    if not rows:
        return
    table = Table(*rows[0], show_lines=True)
    for row in rows:
        table.add_row(*(Text(f"{value:.4g}" if isinstance(value, float) else str(value)) for value in row.values()))
    Console().print(table)


def of_held_out(rollouts: Sequence[Rollout], judged: Sequence[float]) -> dict[str, float]:
    """Means over held-out prompts: of scores, their components and KL; and of a judge's scores, where there are any."""

    def mean(values: Iterable[Tensor]) -> float:
        return float(torch.cat(list(values)).mean())

    return {
        "eval/objective/scores": mean(rollout.scores for rollout in rollouts),
        "eval/objective/kl": mean(rollout.kl for rollout in rollouts),
        **{
            f"eval/objective/scores/{name}": mean(rollout.components[name] for rollout in rollouts)
            for name in rollouts[0].components
        },
        **({"eval/judge/scores": statistics.fmean(judged)} if judged else {}),
    }


def of_update(
    rollout: Rollout, rewards: Tensor, steps: Sequence[Mapping[str, Tensor]], kl_coef: float
) -> dict[str, float]:
    """Figures of a rollout with token `rewards` [b, t], and means over the optimizer steps taken on it."""
    figures: dict[str, Tensor] = {
        "objective/kl": rollout.kl.mean(),
        "objective/scores": rollout.scores.mean(),
        "objective/scores_std": rollout.scores.std(correction=0),
        **{f"objective/scores/{name}": values.mean() for name, values in rollout.components.items()},
        "objective/entropy": rollout.entropies.sum(1).mean(),
        "objective/non_score_reward": rollout.kl.mean() * -kl_coef,
        "objective/rlhf_reward": rewards.sum(1).mean(),
        "objective/response_length": rollout.mask.sum(1).float().mean(),
        "policy/entropy_avg": objective.masked_mean(rollout.entropies, rollout.mask),
        "val/num_eos_tokens": rollout.finished.sum(),
        **{name: torch.stack([step[name] for step in steps]).mean() for name in steps[0]},
    }
    return {
        **{name: value.item() for name, value in figures.items()},
        "objective/kl_coef": kl_coef,
        "objective/repetition": sum(map(repetition, rollout.responses)) / len(rollout.responses),
    }
