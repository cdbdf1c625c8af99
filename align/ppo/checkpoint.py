"""A run written down, and read again: all that the next update depends on."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from align.configs.ppo import PPOConfig
from align.errors import UsageError
from align.modeling.checkpoints import all_in, intact, newest_complete_checkpoint, step_of
from align.ppo.actor_critic import ActorCritic, restore, weights
from align.ppo.mixing import Example
from align.ppo.prompts import Prompt
from align.ppo.state import State

logger = logging.getLogger(__name__)

FILES = ("weights.safetensors", "best.safetensors", "optimizer.pt", "origin.json", "state.json")
"""What a checkpoint holds: `optimizer.pt` also the schedule, `state.json` KL controller, reward moments, position, best
metric."""
FREE = {
    *("total_episodes", "num_train_epochs", "max_steps", "eval_steps", "save_steps", "save_total_limit", "health"),
    *("num_eval_samples", "early_stopping_patience", "tokens_per_micro_batch", "gradient_checkpointing"),
}
"""Settings that a resumed run may change: how far it goes, what it shows and keeps, and how much memory it takes."""


def origin(
    args: PPOConfig, prompts: Sequence[Prompt], eval_prompts: Sequence[Prompt], examples: Sequence[Example]
) -> dict[str, Any]:
    """What a run is made from, besides its models: all that may not change between its parts."""
    settings = args.model_dump(mode="json", include=PPOConfig.model_fields.keys() - FREE)
    rows = {
        "train_dataset": [prompt.token_ids for prompt in prompts],
        "eval_dataset": [prompt.token_ids for prompt in eval_prompts],
        "ptx_dataset": [(example.prompt_ids, example.completion_ids) for example in examples],
    }
    return {**settings, **{name: hashlib.sha256(json.dumps(ids).encode()).hexdigest() for name, ids in rows.items()}}


def write(
    directory: Path,
    made_from: dict[str, Any],
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
    (directory / "origin.json").write_text(json.dumps(made_from, indent=1), encoding="utf-8")
    (directory / "state.json").write_text(state.to_json(), encoding="utf-8")


def read(
    directory: Path,
    made_from: dict[str, Any],
    actor_critic: ActorCritic,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
) -> tuple[State, dict[str, Tensor]]:
    """Put back weights, optimizer and scheduler; returns the state and the best weights.

    Raises:
        UsageError: the run that wrote the checkpoint had other settings, prompts or weights.
    """
    device = actor_critic.device
    before = json.loads((directory / "origin.json").read_text(encoding="utf-8"))
    changed = [
        f"{name} (was {before.get(name)!r:.40}, is {value!r:.40})"
        for name, value in made_from.items()
        if before.get(name) != value
    ]
    if changed:
        raise UsageError(
            f"{directory} comes from a run with other settings: {', '.join(changed)}. Set them back, or start over"
        )
    saved_weights = load_file(directory / "weights.safetensors")
    shapes = {name: weight.shape for name, weight in actor_critic.trainable.items()}
    saved_shapes = {name: weight.shape for name, weight in saved_weights.items()}
    if other := [name for name in sorted(shapes | saved_shapes) if shapes.get(name) != saved_shapes.get(name)]:
        was, now = (tuple(found) if found else None for found in (saved_shapes.get(other[0]), shapes.get(other[0])))
        raise UsageError(
            f"{directory} comes from a run whose model or critic had other weights: {other[0]} was {was}, is {now}. "
            "Load the same model, with the same critic and adapters"
        )
    restore(actor_critic, saved_weights)
    saved = torch.load(directory / "optimizer.pt", weights_only=True, map_location=device)
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    state = State.from_json((directory / "state.json").read_text(encoding="utf-8"))
    return state, load_file(directory / "best.safetensors")


def to_resume(directory: Path | None, wanted: bool | str | Path | None, *, saves: bool) -> Path | None:
    """The checkpoint to go on from; damaged ones are set aside, and so are those of later updates.

    Args:
        directory: where checkpoints are.
        wanted: one of them; True for the newest, None for the newest if there is one.
        saves: whether the run writes any.

    Raises:
        UsageError: the one that is wanted is not there or damaged.
    """
    if isinstance(wanted, str | Path):
        chosen = intact(Path(wanted), FILES)
        _set_later_ones_aside(directory, State.from_json((chosen / "state.json").read_text(encoding="utf-8")).update)
        return chosen
    found = newest_complete_checkpoint(directory, FILES) if directory is not None else None
    if found is None and wanted:
        place = directory or ("output_dir, which is not set" if saves else "a run of save_strategy='no'")
        raise UsageError(f"there is no checkpoint to resume from in {place}: name a checkpoint's directory")
    return found


def _set_later_ones_aside(directory: Path | None, update: int) -> None:
    """They are of the run that is left here, and not to be taken for this one's."""
    for later in all_in(directory):
        if step_of(later) > update:
            aside = later.with_name(f"superseded-{later.name}")
            shutil.rmtree(aside, ignore_errors=True)
            later.rename(aside)
            logger.warning("%s was written after the update being resumed: renamed to %s", later.name, aside.name)
