"""The reward models that a stage names: loaded before anything runs, as far as they need no artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import reward_models
from align.configs import StageConfig
from align.configs.base import EvaluationData, PromptData
from align.configs.base_model import BaseModelConfig
from align.configs.evaluate import EvaluateConfig
from align.configs.ppo import PPOStageConfig
from align.configs.reward import RewardConfig
from align.data import examples, sources
from align.recipe.references import REWARD_KEYS, parse_reference
from align.registry import Registry
from reward_models import nesting
from reward_models.options import check as check_options
from reward_models.options import score_range
from reward_models.overlap import Overlap

_GREETING = "Hello there."
"""What each reward is asked about first: ROUGE-2 compares two words at a time."""
_NAMES = ("model", "name", "probes", "normalize", "label", "key")
"""Options whose value is no file that one's own code reads, whatever is called so in the working directory."""
_TRANSPORT = ("connect_timeout", "read_timeout", "timeout", "retries", "parallel")


class _StandIn:
    """What is scored by an artifact, which may not be there yet."""

    name = "classifier"

    def __init__(self, range: Sequence[float | None]) -> None:
        self._range = range

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
    ) -> list[float]:
        return [0.0] * len(responses)

    def describe(self) -> dict[str, Any]:
        return {"kind": "classifier", "range": list(self._range)}


def problems(
    config: StageConfig, stages: Mapping[str, StageConfig], registry: Registry, *, ask: bool = False
) -> Iterator[str]:
    """What is wrong with a stage's reward models, `reward: ...` each: code that does not import, an address that is
    refused, options that make no sense, references that a reward needs and the prompts lack.

    An evaluation's judge is looked at as well.

    Args:
        config: the stage's.
        stages: all stages of the recipe, by name.
        registry: where artifacts that are named by `registry:` are.
        ask: let each score a greeting as well, those that lie on disk, in the registry or on the Hub among them, so
            that a server or a classifier is found out now, not after hours of training.
    """
    for key, spec in _scorers(config):
        try:
            there = _in_registry(config, registry) if ask else {}
            model = reward_models.load(_without_artifacts(reward_models.located(spec, there), stages, whole=ask))
            lacking = [place for place, data in _compared(config, key) if data.reference is None]
            if ask:  # with a reference only where the stage will have them all: a server may need one and not say so
                has_reference = model.needs_references or not lacking
                model.score(["Say hello."], [_GREETING], [_GREETING] if has_reference else None)
        except reward_models.RewardError as error:
            yield f"{key}: {error}"
            continue
        for place in lacking if model.needs_references else ():
            yield f"{place}: {key} {model.name} compares with references: set `reference:` here"
        if not lacking:
            yield from _unread_references(config, key, spec)


def _scorers(config: StageConfig) -> Iterator[tuple[str, Any]]:
    """What a stage scores with, by its key."""
    for key in REWARD_KEYS.get(config.kind, ()):
        if (spec := getattr(config, key)) is not None:
            yield key, spec
    if isinstance(config, EvaluateConfig) and config.judge and config.judge.model:
        yield "judge", {"model": config.judge.model, "label": config.judge.label, "transform": "probability"}


def _unread_references(config: StageConfig, key: str, spec: Any) -> Iterator[str]:
    """Those that ROUGE could not compare with: all of them, as a stage would meet one after the other."""
    for metric in sorted(_rouge_of(spec)):
        rouge = Overlap(metric)
        for place, data in _compared(config, key):
            if sources.waits_for_an_artifact(data.dataset):
                continue
            references = [reference for _, reference in examples.referenced_prompts([data])]
            unread = [said for reference in references if reference and (said := rouge.unreadable(reference))]
            if unread:
                yield f"{place}: {len(unread)} of {len(references)} references cannot be compared with: {unread[0]}"


def _rouge_of(spec: Any) -> set[str]:
    """The metrics of all `overlap` within a spec."""
    found = set()
    for place, inner in nesting.walk(spec):
        if isinstance(inner, Mapping) and inner.get("model") == "overlap":
            found.add(inner.get("metric", "rouge_l"))
        elif inner == "overlap" and place[-1:] != ("model",):
            found.add("rouge_l")
    return found


def is_builtin(name: str) -> bool:
    """Whether a bare name stands for a reward model of this package, which needs no pin."""
    return name in reward_models.BUILTIN


def package_of(name: str) -> str:
    """The installed package that offers a reward model under this name, with its version."""
    entry = reward_models.plugins()[name]
    return f"{entry.value} of {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def place_of(name: str) -> str:
    """`module:attribute` of a reward model that an installed package offers under this name."""
    return reward_models.plugins()[name].value


def moment_files(spec: Any, place: str) -> Iterator[tuple[str, str]]:
    """The files that moments are measured on, by their place in the configuration (`reward.of.0.normalize`)."""
    for keys, inner in nesting.walk(spec):
        if isinstance(inner, Mapping) and isinstance(file := inner.get("normalize"), str):
            yield ".".join([place, *map(str, keys), "normalize"]), file


def option_paths(spec: Any, place: str) -> Iterator[tuple[str, str]]:
    """The files that options of one's own code name, and directories by an absolute path, each by its place."""
    for keys, inner in nesting.walk(spec):
        if isinstance(inner, Mapping) and _is_own_code(inner.get("model")):
            options = {key: value for key, value in inner.items() if key not in _NAMES}
            yield from _paths(options, ".".join([place, *map(str, keys)]))


def _paths(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if _is_path(value):
            yield place, value
    elif isinstance(value, Mapping | list):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            if "." not in str(key):  # which would be no place
                yield from _paths(item, f"{place}.{key}")


def _is_path(value: str) -> bool:
    try:
        path = Path(value).expanduser()
        return path.is_file() or (path.is_absolute() and path.is_dir())
    except (OSError, RuntimeError, ValueError):  # too long for a path, no such home, a NUL
        return False


def _is_own_code(model: object) -> bool:
    if not isinstance(model, str) or _is_service(model):
        return False
    return parse_reference(model).kind == "other" or model in reward_models.plugins()


def without_transport(spec: Any) -> Any:
    """The spec without what decides only how long a service is waited for: its numbers are the same."""
    if not isinstance(spec, Mapping):
        return spec
    is_service = _is_service(spec.get("model"))
    kept = {key: value for key, value in spec.items() if not (is_service and key in _TRANSPORT)}
    return nesting.rebuilt(kept, without_transport)


def _is_service(model: object) -> bool:
    return isinstance(model, str) and (model == "llm" or model.lower().startswith(("http://", "https://")))


def _compared(config: StageConfig, key: str) -> Iterator[tuple[str, PromptData | EvaluationData]]:
    """The data that a stage's `reward` or `judge` sees, by its place in the configuration."""
    match config:
        case PPOStageConfig():
            for field in ("evaluation_prompts",) if key == "judge" else ("prompts", "evaluation_prompts"):
                yield from ((f"{field}.{index}", data) for index, data in enumerate(getattr(config, field)))
        case EvaluateConfig():
            for index, data in enumerate(config.data):
                if data.metrics is None or "reward" in data.metrics:
                    yield f"data.{index}", data


def _in_registry(config: StageConfig, registry: Registry) -> dict[str, Path]:
    """The artifacts that a stage names by `registry:`, as directories."""
    named = (reference for reference in config.references().values() if reference.startswith("registry:"))
    found = {reference: registry.resolve(reference.removeprefix("registry:")) for reference in named}
    for artifact in found.values():
        registry.check(artifact)
    return {reference: artifact.path for reference, artifact in found.items()}


def _without_artifacts(spec: Any, stages: Mapping[str, StageConfig], *, whole: bool) -> Any:
    """What can be loaded now: something else stands for artifacts, and unless `whole` for any other classifier."""
    if isinstance(spec, Mapping) and "combine" in spec:
        known = _without_unmeasured(spec)
        return nesting.rebuilt(known, lambda inner: _without_artifacts(inner, stages, whole=whole))
    model = spec.get("model") if isinstance(spec, Mapping) else spec
    if isinstance(model, Mapping):
        inner = reward_models.load(_without_artifacts(model, stages, whole=whole))
        around = _without_unmeasured(spec)
        return reward_models.load(inner, **{key: value for key, value in around.items() if key != "model"})
    if not isinstance(model, str):
        return spec
    parsed = parse_reference(model)
    needs_none = parsed.kind == "other" or (parsed.kind == "stage" and model in reward_models.builtin_names())
    if model not in stages and (needs_none or (whole and parsed.kind in ("path", "hub"))):
        # Its moments would be measured now, of which a check asks no service.
        return _without_unmeasured(spec) if isinstance(spec, Mapping) and _is_service(model) and not whole else spec
    options = {key: value for key, value in spec.items() if key != "model"} if spec is not model else {}
    made = stages.get(model)
    # What a stage takes from a directory is there already. (Of the Hub, the stage may have an artifact of it by now.)
    if whole and isinstance(made, BaseModelConfig) and Path(made.model).expanduser().is_dir():
        return {"name": model, **options, "model": f"path:{made.model}"}
    return _stand_in(model, options, made)


def _without_unmeasured(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Without moments that are yet to be measured: they would be those of what stands in."""
    return {key: value for key, value in spec.items() if key != "normalize" or isinstance(value, Mapping)}


def _stand_in(model: str, options: Mapping[str, Any], trained: StageConfig | None) -> reward_models.CheckedModel:
    """For a classifier, whose options are checked as if it were there.

    Args:
        model: its name.
        options: what its spec says of it.
        trained: the stage of this recipe that makes it, if one does.
    """
    common = {key: options[key] for key in ("name", "probes", "normalize") if key in options}
    check_options(model, {key: value for key, value in options.items() if key not in common})
    if isinstance(trained, RewardConfig):
        bad = (trained.labels and trained.labels.negative) or ""
        bad_names = (bad.casefold(), str((options.get("names") or {}).get(bad)).casefold())
        is_bad = bad and str(options.get("label") or bad).casefold() in bad_names
        sign = options.get("sign") or (-1 if is_bad else 1)
        scores = score_range(options.get("transform") or trained.transform, sign)
    else:  # nothing is known of it here, and no lowest score is missed in it
        scores = [0.0, 1.0]
    return reward_models.load(_StandIn(scores), **_without_unmeasured(common))
