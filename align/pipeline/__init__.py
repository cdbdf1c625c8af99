"""From a recipe to artifacts: `plan` says what would run and why, `run` does it.

recipe = align.recipe.load("quickstart")
steps = plan(recipe, Registry("registry"))
artifacts = run(steps)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from align.pipeline.planning import Plan, Step, check, ordered, plan
from align.pipeline.running import run
from align.recipe import Recipe, load
from align.registry import Artifact, Registry

__all__ = ["Plan", "Step", "check", "open_registry", "ordered", "plan", "plan_recipe", "run", "run_recipe"]


def open_registry(recipe: Recipe | None = None, path: str | Path | None = None) -> Registry:
    """The registry at `path`, else at `$ALIGN_REGISTRY`, else where the recipe says, else at `./registry`.

    Raises:
        UsageError: there is something else at that path.
    """
    return Registry.at(path, recipe.registry if recipe else None)


def plan_recipe(
    recipe: str | Path | Recipe,
    stages: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    registry: str | Path | Registry | None = None,
    force: Sequence[str] = (),
) -> Plan:
    """What `run_recipe` with the same arguments would do.

    Args:
        recipe: a path, a shipped recipe's name, or a loaded recipe.
        stages: only these, and what they need (default: all).
        overrides: `key.path=value` each; only with a path or a name.
        registry: see `open_registry`.
        force: stages that run even if nothing changed.

    Raises:
        UsageError: the recipe, its data, a stage's name or the registry is not in order.
    """
    loaded = recipe if isinstance(recipe, Recipe) else load(recipe, overrides)
    store = registry if isinstance(registry, Registry) else open_registry(loaded, registry)
    return plan(loaded, store, stages, force)


def run_recipe(
    recipe: str | Path | Recipe,
    stages: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    registry: str | Path | Registry | None = None,
    force: Sequence[str] = (),
    wandb: Literal["online", "offline", "disabled"] | None = None,
) -> dict[str, Artifact]:
    """Run what has to run, and return the artifact of every stage. Arguments as of `plan_recipe`.

    Args:
        wandb: overrides the recipe's W&B mode.

    Raises:
        UsageError: something is not in order; nothing was run.
        VerificationError: an artifact to be used is not what its manifest says.
        AlignError: a stage failed. Earlier artifacts are kept, and the same call goes on.
        Interrupted: by Ctrl-C or SIGTERM, after a checkpoint.
    """
    return run(plan_recipe(recipe, stages, overrides, registry, force), wandb)
