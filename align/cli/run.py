"""`align check`, `align plan`, `align run`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from align.cli.commands import (
    AsJson,
    Debug,
    Force,
    Overrides,
    RecipeArgument,
    RegistryOption,
    Stages,
    WandbMode,
    console,
    print_json,
    readable,
)
from align.errors import UsageError

if TYPE_CHECKING:
    from align.pipeline import Plan
    from align.pipeline.estimates import Estimate

WandbOption = Annotated[WandbMode | None, typer.Option("--wandb", help="Overrides the recipe's W&B mode.")]


def check(
    recipe: RecipeArgument, overrides: Overrides = None, registry: RegistryOption = None, debug: Debug = False
) -> None:
    """Validate a recipe and look at its data.

    Everything that is wrong is said at once; nothing runs.
    """
    from align import pipeline
    from align.recipe import load

    loaded = load(recipe, overrides or ())
    problems = pipeline.check(loaded, pipeline.open_registry(loaded, registry))
    if problems:
        raise UsageError("\n".join(problems))
    console().print(
        f"{loaded.path} is fine: {' -> '.join(pipeline.ordered(loaded, list(loaded.stages)))}", markup=False
    )


def plan(
    recipe: RecipeArgument,
    stages: Stages = None,
    overrides: Overrides = None,
    registry: RegistryOption = None,
    force: Force = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say which stages are cached, run or resume, and why. Nothing runs.

    Memory is that of weights, gradients and optimizer; activations come on top.
    """
    from align import pipeline
    from align.pipeline import estimates

    planned = pipeline.plan_recipe(recipe, stages, overrides or (), registry, force or ())
    estimated = estimates.estimates(planned.steps)
    if as_json:
        print_json(
            [
                {
                    "stage": step.name,
                    "kind": step.kind,
                    "action": step.action,
                    "reason": step.reason,
                    "fingerprint": step.fingerprint,
                    "artifact": step.artifact.reference if step.artifact and step.action == "cached" else None,
                    "parameters": estimated[step.name].parameters,
                    "trainable_parameters": estimated[step.name].trainable,
                    "memory_bytes": estimated[step.name].memory,
                    "disk_bytes": estimated[step.name].disk,
                }
                for step in planned.steps
            ]
        )
    else:
        _print_plan(planned, estimated)


def run(
    recipe: RecipeArgument,
    stages: Stages = None,
    overrides: Overrides = None,
    registry: RegistryOption = None,
    force: Force = None,
    wandb: WandbOption = None,
    debug: Debug = False,
) -> None:
    """Run what has to run, and show the evaluation.

    Every stage publishes an artifact into the registry.

    After an interruption or a failure, the same command resumes where it stopped.
    """
    from align import pipeline
    from align.cli import tables

    planned = pipeline.plan_recipe(recipe, stages, overrides or (), registry, force or ())
    artifacts = pipeline.run(planned, wandb.value if wandb else None, lambda: _print_plan(planned))
    for step in planned.steps:
        if step.kind == "evaluate":
            tables.print_evaluation(console(), artifacts[step.name])
    tables.print_artifacts(console(), artifacts)


def _print_plan(planned: Plan, estimated: Mapping[str, Estimate] | None = None) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("stage", "kind", "action", *(("trains", "of", "memory") if estimated else ()), "why"):
        right = column in ("trains", "of", "memory")
        table.add_column(column, overflow="fold", no_wrap=column != "why", justify="right" if right else "left")
    for step in planned.steps:
        style = "dim" if step.action == "cached" else "bold"
        sizes = _sizes(estimated[step.name]) if estimated else []
        table.add_row(step.name, step.kind, Text(step.action, style=style), *sizes, Text(step.reason))
    printer = console()
    printer.print(Text(f"{planned.recipe.name}, registry {planned.registry.root}"), soft_wrap=True)
    printer.print(table)


def _sizes(estimate: Estimate) -> list[str]:
    """Trained parameters, all parameters, and memory, for people."""
    trained, parameters = (
        "-" if number is None else readable(number).strip() for number in (estimate.trainable, estimate.parameters)
    )
    return [trained, parameters, f"{readable(estimate.memory)}B" if estimate.memory else "-"]
