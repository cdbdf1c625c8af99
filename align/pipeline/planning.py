"""What would run, and why: computed from the recipe, the data and the registry, without importing torch."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from align.configs import StageConfig
from align.configs.base_model import BaseModelConfig
from align.configs.evaluate import EvaluateConfig
from align.configs.ppo import PPOStageConfig
from align.data import checking
from align.errors import AlignError, UsageError
from align.pipeline import beginning, handoff, identity, rewards
from align.recipe import Recipe, needs, parse_reference, stage_inputs
from align.recipe.document import suggest
from align.registry import Artifact, Registry

logger = logging.getLogger(__name__)

Action = Literal["cached", "run", "resume"]
_CHANGES_SHOWN = 3


@dataclass(frozen=True)
class Source:
    """What one reference of a stage stands for."""

    reference: str
    """As the configuration spells it."""
    stage: str | None = None
    """The stage of this recipe that makes it."""
    artifact: Artifact | None = None
    """The artifact in the registry, if it is one and is there already."""
    pin: str = ""
    """What the fingerprint knows it by: the producing stage's fingerprint, a digest, a Hub revision."""


@dataclass(frozen=True)
class Step:
    """One stage, and whether it has to run."""

    name: str
    config: StageConfig
    inputs: Mapping[str, Source]
    """By their place in the configuration: `model`, `models.0`, `reward.of.1`."""
    data: Mapping[str, str]
    """The place of each data set in the configuration -> the fingerprint of its content."""
    fingerprint: str
    action: Action
    reason: str
    artifact: Artifact | None = None
    """What a cached step gives; of one that runs only because an input does, what it gives if the input comes out the
    same."""
    forced: bool = False

    @property
    def kind(self) -> str:
        """The kind of stage."""
        return self.config.kind


@dataclass(frozen=True)
class Plan:
    """The steps of a run, each after those it needs."""

    recipe: Recipe
    registry: Registry
    steps: tuple[Step, ...]

    @property
    def to_run(self) -> tuple[Step, ...]:
        """The steps that are not cached."""
        return tuple(step for step in self.steps if step.action != "cached")


def plan(recipe: Recipe, registry: Registry, stages: Sequence[str] | None = None, force: Collection[str] = ()) -> Plan:
    """Decide for each stage whether it is cached, runs, or resumes.

    Args:
        stages: only these, and what they need (default: all).
        force: stages that run even if nothing changed.

    Raises:
        UsageError: an unknown stage is named; a data file, a directory or an artifact that is referred to is missing;
            a stage would take a model that it cannot do with.
        VerificationError: an artifact that would be used is damaged.
    """
    order = ordered(recipe, [*(stages or recipe.stages)])
    unknown = [name for name in force if name not in order]
    if unknown:
        _refuse_unknown(unknown[0], recipe)
        raise UsageError(f"--force {unknown[0]}: this stage is not among those to run: {', '.join(order)}")
    missing = [problem for name in order for problem in _missing(recipe, registry, name)]
    if missing:
        raise UsageError("\n".join(missing))
    steps: dict[str, Step] = {}
    for name in order:
        steps[name] = _step(recipe, registry, name, steps, name in force)
    running = [name for name, step in steps.items() if step.action != "cached"]
    if disagreeing := [problem for name in running for problem in _disagreeing(recipe, registry, name)]:
        raise UsageError("\n".join(disagreeing))
    return Plan(recipe, registry, tuple(steps.values()))


def check(recipe: Recipe, registry: Registry, stages: Collection[str] | None = None, *, ask: bool = False) -> list[str]:
    """What about a valid recipe's data and inputs would stop a run, each as `file:line: key.path: problem`.

    `ask`: let each reward model score something, as a run is about to.
    """
    problems: list[str] = []
    of_data: dict[str, list[tuple[str, str]]] = {}  # what is wrong -> the stages and places where it is: often one file
    for name in stages if stages is not None else recipe.stages:
        wrong = checking.check(recipe.stages[name])
        for problem in wrong:
            place, _, message = problem.partition(": ")
            of_data.setdefault(message, []).append((name, place))
        found = list(_missing(recipe, registry, name, data=not wrong))
        if not wrong and not found:
            of_rewards = rewards.problems(recipe.stages[name], recipe.stages, registry, ask=ask)
            found = [placed(recipe, name, problem) for problem in of_rewards]
        problems += found or (() if wrong else _disagreeing(recipe, registry, name))
    problems = [_said_once(recipe, message, places) for message, places in of_data.items()] + problems
    if not problems:
        _warn_of_a_reward_as_judge(recipe, stages)
    return list(dict.fromkeys(problems or _chosen_on_what_is_measured(recipe, stages)))


def _said_once(recipe: Recipe, message: str, places: Sequence[tuple[str, str]]) -> str:
    (stage, place), *others = places
    again = ", ".join(f"stages.{other}.{there}" for other, there in others)
    return placed(recipe, stage, f"{place}: {message}") + (f" (the same at {again})" if again else "")


def _warn_of_a_reward_as_judge(recipe: Recipe, stages: Collection[str] | None) -> None:
    """A policy always pleases the reward that it was trained on: that measures nothing."""
    for name, policy, ppo, evaluation in _evaluated_policies(recipe, stages):
        rewards_of = {text for place, text in ppo.references().items() if place.partition(".")[0] == "reward"}
        if evaluation.judge is not None and evaluation.judge.model in rewards_of:
            logger.warning(
                "stages.%s.judge is %s, which is also the reward that %s is trained on: that it likes the result shows "
                "nothing. Train another classifier on other data as the judge",
                name,
                evaluation.judge.model,
                policy,
            )


def _evaluated_policies(
    recipe: Recipe, stages: Collection[str] | None
) -> Iterator[tuple[str, str, PPOStageConfig, EvaluateConfig]]:
    """Evaluations by name, each with every `ppo` stage whose policy it measures."""
    for name, config in recipe.stages.items():
        if isinstance(config, EvaluateConfig) and (stages is None or name in stages):
            for policy, ppo in recipe.stages.items():
                if isinstance(ppo, PPOStageConfig) and policy in config.models:
                    yield name, policy, ppo, config


def _chosen_on_what_is_measured(recipe: Recipe, stages: Collection[str] | None) -> Iterator[str]:
    """Policies that a judge chose on prompts of the evaluation which is to show that they are better."""
    for name, policy, ppo, evaluation in _evaluated_policies(recipe, stages):
        if count := checking.prompts_in_common(ppo, evaluation):
            yield placed(
                recipe,
                policy,
                f"evaluation_prompts.0: the judge chooses on {count} prompts that {name} measures on; "
                "take others, so that the evaluation stays honest",
            )


def ordered(recipe: Recipe, wanted: Sequence[str]) -> list[str]:
    """The wanted stages and all that they need, each after what it needs, else in the order of the file."""
    needed: set[str] = set()

    def add(name: str) -> None:
        if name not in needed:
            needed.add(name)
            for other in needs(recipe.stages[name], recipe.stages):
                add(other)

    for name in wanted:
        _refuse_unknown(name, recipe)
        add(name)
    order: list[str] = []
    waiting = [name for name in recipe.stages if name in needed]
    while waiting:
        ready = next(n for n in waiting if all(need in order for need in needs(recipe.stages[n], recipe.stages)))
        waiting.remove(ready)
        order.append(ready)
    return order


def _refuse_unknown(name: str, recipe: Recipe) -> None:
    if name not in recipe.stages:
        raise UsageError(
            f"{recipe.path} has no stage called {name!r}{suggest(name, recipe.stages)}"
            f" (stages: {', '.join(recipe.stages)})"
        )


def _step(recipe: Recipe, registry: Registry, name: str, done: Mapping[str, Step], forced: bool) -> Step:
    config = recipe.stages[name]
    inputs = {
        place: _source(reference, registry, done)
        for place, reference in config.references().items()
        if reference in recipe.stages or not rewards.is_builtin(reference)
    }
    data = identity.data_fingerprints(config)
    pins = {place: source.pin for place, source in inputs.items()}
    fingerprint = identity.fingerprint(identity.stage_identity(config, pins, data, recipe.as_written))
    found = registry.find(name, fingerprint)
    again = [done[stage] for stage in stage_inputs(config, recipe.stages) if done[stage].action != "cached"]
    action: Action = "run"
    if found and not forced and not again and same_inputs(found, inputs):
        return Step(name, config, inputs, data, fingerprint, "cached", f"{found.reference} is up to date", found)
    workspace = registry.find_workspace(name, fingerprint)
    if forced and workspace and beginning.of(workspace).get("forced"):
        action, reason = "resume", "forced, and a checkpoint found"
    elif forced:
        reason = "forced"
    elif workspace:
        action, reason = "resume", "checkpoint found"
    else:
        reason = _why(recipe, registry, name, inputs, data, again)
    return Step(name, config, inputs, data, fingerprint, action, reason, None if forced else found, forced)


def same_inputs(artifact: Artifact, inputs: Mapping[str, Source]) -> bool:
    """Whether an artifact was made from exactly the artifacts that these inputs are now."""
    taken = artifact.manifest.inputs
    return all(
        place in taken and taken[place].digest == source.artifact.digest
        for place, source in inputs.items()
        if source.artifact
    )


def _source(reference: str, registry: Registry, done: Mapping[str, Step]) -> Source:
    parsed = parse_reference(reference)
    if parsed.kind == "stage" and parsed.name in done:
        step = done[parsed.name]
        return Source(reference, step.name, step.artifact if step.action == "cached" else None, step.fingerprint)
    if parsed.kind == "registry":
        artifact = registry.resolve(reference.removeprefix("registry:"))
        return Source(reference, artifact=artifact, pin=artifact.digest)
    return Source(reference, pin=pin_of(reference))


def pin_of(reference: str) -> str:
    """What the fingerprint knows a reference by that is neither a stage nor an artifact, as it is now.

    Raises:
        FileNotFoundError: the directory or module does not exist; the message says which.
    """
    if parse_reference(reference).kind == "stage":  # a reward model of an installed package
        package = rewards.package_of(reference)
        try:
            return f"{package}, {identity.outside_digest(rewards.place_of(reference))}"
        except FileNotFoundError:  # loading it says so
            return package
    return identity.outside_digest(reference)


def _missing(recipe: Recipe, registry: Registry, name: str, *, data: bool = True) -> Iterator[str]:
    """What a stage refers to that is not there: files, directories, modules, artifacts."""
    config = recipe.stages[name]
    for place, reference in config.references().items():
        kind = parse_reference(reference).kind
        try:
            if kind == "registry":
                registry.resolve(reference.removeprefix("registry:"))
            elif kind != "stage":
                identity.outside_digest(reference)
        except (UsageError, FileNotFoundError) as error:
            yield placed(recipe, name, f"{place}: {error}")
    if isinstance(config, BaseModelConfig) and config.model.startswith((".", "/", "~")):
        if not Path(config.model).expanduser().is_dir():
            yield placed(recipe, name, f"model: there is no directory {config.model} (looked from {Path.cwd()})")
    if data:
        try:
            identity.data_fingerprints(config)
        except UsageError as error:
            yield from (placed(recipe, name, problem) for problem in checking.check(config) or [str(error)])


def _disagreeing(recipe: Recipe, registry: Registry, name: str) -> list[str]:
    """What a stage and the models that it takes do not agree on."""
    return [placed(recipe, name, problem) for problem in handoff.problems(recipe, registry, name)]


def placed(recipe: Recipe, stage: str, problem: str) -> str:
    """A problem `data.0: ...` with the line of that key in the recipe before it."""
    place = problem.partition(": ")[0]
    keys = [int(key) if key.isdigit() else key for key in place.split(".")]
    return f"{recipe.where('stages', stage, *keys)}: stages.{stage}.{problem}"


def _why(
    recipe: Recipe,
    registry: Registry,
    name: str,
    inputs: Mapping[str, Source],
    data: Mapping[str, str],
    again: Sequence[Step],
) -> str:
    """What is different from the newest artifact of that name."""
    if not registry.versions(name):
        return "no artifact yet"
    try:
        newest = registry.resolve(name)
    except AlignError:
        return "the newest artifact is damaged"
    config = recipe.stages[name]
    before, now = newest.manifest, identity.portable(config, recipe.as_written)
    reasons = [f"input {step.name} will run again" for step in again]
    changes = _changes(before.config, now)
    if changes:
        more = f" and {len(changes) - _CHANGES_SHOWN} more" if len(changes) > _CHANGES_SHOWN else ""
        reasons.append(f"config changed: {', '.join([*changes.values()][:_CHANGES_SHOWN])}{more}")
    for place, source in inputs.items():
        if source.artifact and (place not in before.inputs or before.inputs[place].digest != source.artifact.digest):
            reasons.append(f"input changed: {place} is now {source.artifact.reference}")
    known = before.environment.get("data", {})
    for place, content in data.items():
        if known.get(place) != content and not any(key.startswith(place) for key in changes):
            reasons.append(f"data changed: {place.removesuffix('.dataset')}")
    for key, value in identity.machine().items():
        if before.environment.get(key) != value:
            reasons.append(f"{key} changed: {_shown(before.environment.get(key))} -> {_shown(value)}")
    return "; ".join(reasons) or "what it takes or how this kind of stage computes has changed"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """By key, `train.learning_rate 0.001 -> 0.002` for each value that differs. Where data lies does not count."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    keys = [key for key in dict.fromkeys([*old, *new]) if not key.endswith(".path") and not key.startswith("after")]
    return {
        key: f"{key} {_shown(old.get(key, 'unset'))} -> {_shown(new.get(key, 'unset'))}"
        for key in keys
        if (key in old, old.get(key)) != (key in new, new.get(key))
    }


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield place, value
    else:
        for key, item in items:
            yield from _leaves(item, f"{place}.{key}" if place else str(key))


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key} {item}" for key, item in value.items())
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
