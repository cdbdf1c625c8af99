"""A look at a stage's data before anything runs: what would stop it an hour from now is said at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from align.configs import StageConfig
from align.configs.base import (
    Config,
    EvaluationData,
    InstructionData,
    LabelledData,
    PreferenceData,
    PromptData,
    SelectionConfig,
    TextData,
)
from align.configs.evaluate import EvaluateConfig
from align.configs.ppo import PPOStageConfig
from align.configs.reward import RewardConfig, RewardLabels
from align.data import division, examples, sources
from align.data.examples import Labelled, MultiLabelled
from align.errors import UsageError

_READERS: dict[type[SelectionConfig], Callable[[list[Any]], Sequence[object]]] = {
    TextData: examples.texts,
    InstructionData: examples.instructions,
    PromptData: examples.prompts,
    EvaluationData: examples.evaluation,
    LabelledData: lambda data: examples.multi_labelled(data) if data[0].labels else examples.labelled(data),
    PreferenceData: examples.preferences,
}


def check(config: StageConfig) -> list[str]:
    """The problems of a stage's data, each with its place in the configuration; empty where there are none."""
    problems: list[str] = []
    labels: dict[str, Counter[str]] = {}
    rows: Counter[str] = Counter()
    waiting = False
    for field, index, data in _selections(config):
        if sources.waits_for_an_artifact(data.dataset):
            waiting = True
            continue
        try:
            found = _READERS[type(data)]([data])
        except UsageError as error:
            problems.append(f"{field}.{index}: {error}")
            continue
        rows[field] += len(found)
        if isinstance(data, LabelledData):
            labels.setdefault(field, Counter()).update(name for example in found for name in _label_names(example))
    if isinstance(config, RewardConfig) and labels.get("data") and config.labels is not None and not problems:
        problems += _label_problems(config.labels, labels)
        problems += _weight_problems(config, labels["data"])
    if isinstance(config, RewardConfig) and not problems and not waiting:
        problems += _division_problems(config)
    if isinstance(config, RewardConfig) and config.normalize and rows["normalize.prompts"] == 1:
        problems.append("normalize.prompts: one prompt, and moments need two or more")
    return problems


def prompts_in_common(ppo: PPOStageConfig, evaluation: EvaluateConfig) -> int:
    """On how many prompts of an evaluation a judge has chosen the policy already: it must be none.

    Raises:
        UsageError: the data of either cannot be read.
    """
    waiting = (sources.waits_for_an_artifact(data.dataset) for data in (*ppo.evaluation_prompts, *evaluation.data))
    if ppo.judge is None or any(waiting):
        return 0
    seen = {" ".join(prompt.split()) for prompt in examples.prompts(ppo.evaluation_prompts)}
    return sum(" ".join(example.prompt.split()) in seen for example in examples.evaluation(evaluation.data))


def _selections(config: Config, prefix: str = "") -> Iterator[tuple[str, int, SelectionConfig]]:
    for field in type(config).model_fields:
        value = getattr(config, field)
        if isinstance(value, list):
            items = ((f"{prefix}{field}", index, item) for index, item in enumerate(value))
            yield from (found for found in items if isinstance(found[2], SelectionConfig))
        elif isinstance(value, Config):
            yield from _selections(value, f"{prefix}{field}.")


def _label_names(example: object) -> tuple[str, ...]:
    if isinstance(example, Labelled):
        return (example.label,)
    return example.labels if isinstance(example, MultiLabelled) else ()


def _label_problems(wanted: RewardLabels, counts: dict[str, Counter[str]]) -> list[str]:
    problems: list[str] = []
    training = counts["data"]
    if wanted.scored not in training:
        key = "positive" if wanted.positive else "negative"
        problems.append(f"labels.{key}: {wanted.scored!r} is not among the labels of the data: {_counted(training)}")
    if problem := examples.ambiguity(training):
        problems.append(f"data: {problem}")
    for field, labels in counts.items():
        if len(labels) < 2:
            problems.append(f"{field}: all rows have one label, {_counted(labels)}; a classifier needs two")
        if unknown := labels.keys() - training.keys():
            problems.append(f"{field}: has labels that `data` lacks: {', '.join(sorted(unknown))}")
    return problems


def _division_problems(config: RewardConfig) -> list[str]:
    """What is found out when rows are set aside: the stage does the same, later."""
    try:
        if config.pairs:
            division.of_pairs(config)
        else:
            division.of_labels(config)
    except UsageError as error:
        return [f"{'pairs' if config.pairs else 'data'}: {error}"]
    return []


def _weight_problems(config: RewardConfig, training: Counter[str]) -> list[str]:
    known = config.data[0].labels or training
    weights = config.class_weights
    if isinstance(weights, str) or weights.keys() == set(known):
        return []
    return [f"class_weights: names {', '.join(weights)}, but the labels are {', '.join(sorted(known))}"]


def _counted(labels: Counter[str]) -> str:
    return ", ".join(f"{label} ({count} rows)" for label, count in sorted(labels.items()))
