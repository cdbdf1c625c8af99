"""A run written down, and read again: all that the next update depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from align.ppo.actor_critic import ActorCritic, restore, weights
from align.ppo.state import State

FILES = ("weights.safetensors", "best.safetensors", "optimizer.pt", "state.json")
"""What a checkpoint holds: the last two also schedule, KL controller, reward moments, position, best metric."""


def write(
    directory: Path,
    actor_critic: ActorCritic,
    best_weights: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    state: State,
) -> None:
    """Fill a new checkpoint's directory."""
    save_file(weights(actor_critic), directory / "weights.safetensors")
    save_file(best_weights, directory / "best.safetensors")
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, directory / "optimizer.pt")
    (directory / "state.json").write_text(state.to_json(), encoding="utf-8")


def read(
    directory: Path, actor_critic: ActorCritic, optimizer: torch.optim.Optimizer, scheduler: Any
) -> tuple[State, dict[str, Tensor]]:
    """Put back weights, optimizer and scheduler; returns the state and the best weights."""
    device = actor_critic.device
    restore(actor_critic, load_file(directory / "weights.safetensors"))
    saved = torch.load(directory / "optimizer.pt", weights_only=True, map_location=device)
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    state = State.from_json((directory / "state.json").read_text(encoding="utf-8"))
    return state, load_file(directory / "best.safetensors", device=str(device))
