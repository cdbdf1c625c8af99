"""The learning rate over a run."""

from __future__ import annotations

import math

from align.configs.ppo import PPOConfig


def learning_rate_share(update: int, updates: int, args: PPOConfig) -> float:
    """Share of `learning_rate` at an update: warm-up, then the schedule, which reaches 0 after the last."""
    warmup = args.warmup_steps if args.warmup_steps >= 1 else args.warmup_steps * updates
    if update < warmup:
        return (update + 1) / (warmup + 1)
    done = min((update - warmup) / max(updates - warmup, 1), 1.0)
    shares = {
        "constant": 1.0,
        "constant_with_warmup": 1.0,
        "linear": 1 - done,
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
    }
    return shares[args.lr_scheduler_type]


def in_updates(rhythm: float, updates: int) -> int:
    """Every so many updates; a rhythm below 1 is a share of all."""
    return int(rhythm) if rhythm >= 1 else max(1, math.ceil(rhythm * updates))
