"""The parts that a `PPOTrainer` is put together from, as they are given or as the settings say."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from align.configs.tracking import WandbConfig
from align.ppo.actor_critic import ActorCritic
from align.ppo.arguments import PPOConfig
from align.tracking import NullTracker, Tracker, WandbTracker
from align.workspace import Workspace

logger = logging.getLogger(__name__)


def move(modules: Sequence[Any], device: str) -> None:
    """Move what is a module; quantized ones are where they were loaded to, and stay."""
    for module in modules:
        if isinstance(module, nn.Module) and not getattr(module, "is_quantized", False):
            module.to(device)


def optimizer_of(
    actor_critic: ActorCritic, args: PPOConfig, given: torch.optim.Optimizer | None
) -> torch.optim.Optimizer:
    """AdamW; or the optimizer given, whose first group also gets what it does not know of, such as the value head.

    (A group of its own would be unknown to a schedule that was made before.)
    """
    if given is None:
        return torch.optim.AdamW(
            actor_critic.trainable.values(),
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
        )
    known = {id(parameter) for group in given.param_groups for parameter in group["params"]}
    if missing := [parameter for parameter in actor_critic.trainable.values() if id(parameter) not in known]:
        given.param_groups[0]["params"] += missing
    return given


def tracker_of(args: PPOConfig) -> Tracker:
    """The tracker that `report_to` asks for."""
    wanted = args.report_to or []
    names = {wanted} if isinstance(wanted, str) else set(wanted)
    if unknown := names - {"wandb", "none", "all"}:
        logger.warning("report_to: nothing is reported to %s; only wandb is supported", ", ".join(sorted(unknown)))
    if not names & {"wandb", "all"}:
        return NullTracker()
    workspace = Workspace(Path(args.output_dir or "ppo"))
    name = args.run_name or workspace.path.name
    return WandbTracker.start(WandbConfig(), None, name, name, workspace, args.model_dump(mode="json"))
