"""A look at a stage's data before anything runs: what would stop it an hour from now is said at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from align.configs import StageConfig
from align.configs.base import EvaluationData, InstructionData, LabelledData, PromptData, SelectionConfig, TextData
from align.configs.evaluate import EvaluateConfig
from align.configs.ppo import PPOStageConfig
from align.configs.reward import RewardConfig
from align.data import examples, sources
from align.data.examples import Labelled
from align.errors import UsageError

_READERS: dict[type[SelectionConfig], Callable[[list[Any]], Sequence[object]]] = {
    TextData: examples.texts,
    InstructionData: examples.instructions,
    PromptData: examples.prompts,
    EvaluationData: examples.evaluation,
    LabelledData: examples.labelled,
}


def check(config: StageConfig) -> list[str]:
    """The problems of a stage's data, each with its place in the configuration; empty where there are none."""
    problems: list[str] = []
    labelled: dict[str, list[Labelled]] = {}
    for field, index, data in _selections(config):
        if sources.waits_for_an_artifact(data.dataset):
            continue
        try:
            found = _READERS[type(data)]([data])
        except UsageError as error:
            problems.append(f"{field}.{index}: {error}")
            continue
        labelled.setdefault(field, []).extend(example for example in found if isinstance(example, Labelled))
    if isinstance(config, RewardConfig) and labelled.get("data") and not problems:
        problems += _label_problems(
            config, {field: Counter(x.label for x in found) for field, found in labelled.items()}
        )
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


def _selections(config: StageConfig) -> Iterator[tuple[str, int, SelectionConfig]]:
    for field in type(config).model_fields:
        value = getattr(config, field)
        if isinstance(value, list):
            yield from ((field, i, item) for i, item in enumerate(value) if isinstance(item, SelectionConfig))


def _label_problems(config: RewardConfig, counts: dict[str, Counter[str]]) -> list[str]:
    problems: list[str] = []
    training = counts["data"]
    if config.labels.positive not in training:
        problems.append(
            f"labels.positive: {config.labels.positive!r} is not among the labels of the data: {_counted(training)}"
        )
    for field, labels in counts.items():
        if len(labels) < 2:
            problems.append(f"{field}: all rows have one label, {_counted(labels)}; a classifier needs two")
        if unknown := labels.keys() - training.keys():
            problems.append(f"{field}: labels that `data` lacks: {', '.join(sorted(unknown))}")
    return problems


def _counted(labels: Counter[str]) -> str:
    return ", ".join(f"{label} ({count} rows)" for label, count in sorted(labels.items()))
