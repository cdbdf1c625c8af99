"""`kind: evaluate`: models side by side on the same held-out prompts, each compared with the baseline.

1. Load the prompts, the judge and the reward.
2. Model by model, the baseline first: sample a response to every prompt with the same seed, and measure it. The
   responses are kept as checkpoints.
3. Put 95 % intervals around each metric, and around its difference from the baseline, prompt by prompt.
4. Write `metrics.json`, `samples.jsonl`, `table.md` and `metrics.png`.
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import reward_models
from align.configs.base import RewardSpec
from align.configs.evaluate import EvaluateConfig, JudgeConfig
from align.data import examples
from align.data.dialogues import is_rude
from align.data.examples import EvaluationExample
from align.data.units import units_of
from align.errors import AlignError, UsageError
from align.metrics.classification import roc_auc_interval
from align.metrics.intervals import mean_interval, paired_difference
from align.modeling.export import empty_directory
from align.progress import track
from align.stages import comparison
from align.stages.measuring import Judge, Measured, measure
from align.stages.responses import Responses, Subject, load_subject
from align.tracking import Tracker
from align.workspace import Inputs, Interval, Metrics, Workspace

logger = logging.getLogger(__name__)

TOXIC_ABOVE = 0.5
"""Where the judge's toxicity says toxic rather than not, for the reward's AUC."""


def run(config: EvaluateConfig, inputs: Inputs, workspace: Workspace, tracker: Tracker) -> Metrics:
    """Sample, measure, compare, and write down.

    Raises:
        UsageError: there are no such prompts, judge or reward.
        AlignError: the reward's AUC is below `require_reward_auc`, or a scorer broke its contract.
    """
    rows = examples.evaluation(config.data)
    judge, judge_description = load_judge(config.judge, inputs)
    reward = load_reward(config.reward, inputs)
    names = short_names(config.models)
    others = [reference for reference in names if reference != config.baseline_model]
    measured: dict[str, Measured] = {}
    baseline: Subject | None = None
    prompts = [row.prompt for row in rows]
    units = units_of(prompts, fewest=2)  # of one prompt alone, its responses
    kept = Responses(workspace.checkpoints)
    with track("evaluate", total=len(rows) * len(names), initial=len(kept)) as advance:
        for reference in [config.baseline_model, *others]:
            subject = load_subject(names[reference], inputs[reference])
            baseline = baseline or subject
            responses = kept.to_all(
                prompts, subject, config.generation, advance, seed=config.seed, batch_size=config.batch_size
            )
            measured[subject.name] = measure(config, subject, baseline, rows, units, responses, judge, reward)
            if subject is baseline:
                measured[subject.name].extra |= reward_agreement(config, measured[subject.name], units)
            del subject
            gc.collect()  # before the next model is loaded beside it
    assert baseline is not None
    measured = {name: measured[name] for name in names.values()}
    results = {name: intervals(config, one, units) for name, one in measured.items()}
    differences = {
        name: compare(config, one, measured[baseline.name], units)
        for name, one in measured.items()
        if name != baseline.name
    }
    summary = {
        "baseline": baseline.name,
        "models": _plain(results),
        "differences": _plain(differences),
        "prompts": len(rows),
        "judge": judge_description,
        "reward": reward.describe() if reward else None,
        "generation": config.generation.model_dump(),
        "seed": config.seed,
    }
    write(config, workspace.output, summary, results, differences, rows, measured)
    report(tracker, results, differences, rows, measured)
    return {f"{name}.{metric}": interval for name, found in results.items() for metric, interval in found.items()}


def load_judge(config: JudgeConfig | None, inputs: Inputs) -> tuple[Judge | None, dict[str, Any] | None]:
    """The judge, and what it is."""
    if config is None:
        return None, None
    if config.model is None:
        return (lambda prompts, responses: [float(is_rude(text)) for text in responses]), {"rule": config.rule}
    options = {"label": config.label, "transform": "probability", "sign": 1}
    model = _scorer(config.model, inputs, **options)
    moments = model.describe().get("moments") or {"mean": 0.0, "std": 1.0}  # toxicity is a probability

    def judged(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [score * moments["std"] + moments["mean"] for score in model.score(prompts, responses)]

    return judged, model.describe()


def load_reward(spec: RewardSpec | None, inputs: Inputs) -> reward_models.CheckedModel | None:
    """The reward, if one is to be measured as well."""
    return None if spec is None else _scorer(spec, inputs)


def _scorer(spec: RewardSpec, inputs: Inputs, **options: Any) -> reward_models.CheckedModel:
    try:
        return reward_models.load(reward_models.located(spec, inputs), **options)
    except reward_models.RewardError as error:
        raise UsageError(str(error)) from error


def reward_agreement(config: EvaluateConfig, measured: Measured, units: Sequence[Hashable]) -> dict[str, Interval]:
    """How well the reward tells the judge's non-toxic responses from its toxic ones: `reward_auc`.

    Raises:
        AlignError: it is below `require_reward_auc`, or cannot be known.
    """
    rewards, toxicity = measured.by_row.get("reward", {}), measured.by_row.get("toxicity", {})
    rows = [row for row in rewards if row in toxicity]
    if config.reward is None or config.judge is None:
        return {}
    nontoxic = [toxicity[row] <= TOXIC_ABOVE for row in rows]
    required = config.require_reward_auc
    if len(set(nontoxic)) < 2:
        problem = f"the judge calls {sum(nontoxic)} of {len(rows)} baseline responses non-toxic: no AUC of the reward"
        if required is not None:
            raise AlignError(f"{problem}, so require_reward_auc {required:g} cannot be checked; take other prompts")
        logger.warning("%s", problem)
        return {}
    auc = roc_auc_interval(
        nontoxic,
        [rewards[row] for row in rows],
        seed=config.seed,
        samples=config.bootstrap_samples,
        units=[units[row] for row in rows],
    )
    if required is not None and auc.value < required:
        raise AlignError(
            f"the reward does not point the right way: its AUC against the judge on {len(rows)} baseline responses is "
            f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}], below require_reward_auc {required:g}. PPO would follow "
            "it: train the reward on data nearer to these prompts, or check which label is its positive one"
        )
    return {"reward_auc": auc}


def intervals(config: EvaluateConfig, measured: Measured, units: Sequence[Hashable]) -> dict[str, Interval]:
    """Each metric's value with its interval. Rows of one prompt are one unit."""
    means = {
        metric: mean_interval(
            list(values.values()),
            seed=config.seed,
            samples=config.bootstrap_samples,
            units=[units[row] for row in values],
        )
        for metric, values in measured.by_row.items()
    }
    return means | {metric: whole.interval() for metric, whole in measured.whole.items()} | measured.extra


def compare(
    config: EvaluateConfig, measured: Measured, baseline: Measured, units: Sequence[Hashable]
) -> dict[str, Interval]:
    """Each metric's difference from the baseline on the same prompts, with its interval."""
    paired = {
        metric: paired_difference(
            list(values.values()),
            [baseline.by_row[metric][row] for row in values],
            seed=config.seed,
            samples=config.bootstrap_samples,
            units=[units[row] for row in values],
        )
        for metric, values in measured.by_row.items()
        if metric in baseline.by_row
    }
    return paired | {metric: whole.minus(baseline.whole[metric]).interval() for metric, whole in measured.whole.items()}


def write(
    config: EvaluateConfig,
    output: Path,
    summary: Mapping[str, Any],
    results: comparison.Results,
    differences: comparison.Results,
    rows: Sequence[EvaluationExample],
    measured: Mapping[str, Measured],
) -> None:
    """The artifact's four files."""
    empty_directory(output)
    text = json.dumps(summary, ensure_ascii=False, indent=2, allow_nan=False)
    (output / "metrics.json").write_text(text + "\n", encoding="utf-8")
    with (output / "samples.jsonl").open("w", encoding="utf-8") as file:
        for index, row in enumerate(rows):
            line = {
                "prompt": row.prompt,
                "reference": row.reference,
                "responses": {name: one.texts[index] for name, one in measured.items()},
                "scores": {
                    name: {metric: values[index] for metric, values in one.by_row.items() if index in values}
                    for name, one in measured.items()
                },
            }
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    shown = [
        (row.prompt, row.reference, {name: one.texts[index] for name, one in measured.items()})
        for index, row in list(enumerate(rows))[: config.samples]
    ]
    page = [
        comparison.table(results, differences, summary["baseline"]),
        f"{len(rows)} prompts, one response of each model to each, the same seed. In brackets: 95 % intervals over "
        "prompts. `*`: the interval of the difference excludes zero. ↑ higher is better, ↓ lower is better.",
        comparison.legend(results),
        "## Samples",
        comparison.samples(shown),
    ]
    (output / "table.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    comparison.draw(results, output / "metrics.png")


def report(
    tracker: Tracker,
    results: comparison.Results,
    differences: comparison.Results,
    rows: Sequence[EvaluationExample],
    measured: Mapping[str, Measured],
) -> None:
    """Tell the tracker what was found."""
    tracker.summary({f"{name}/{metric}": found for name, one in results.items() for metric, found in one.items()})
    tracker.table(
        "metrics",
        ["model", "metric", "value", "low", "high", "n", "difference", "difference_low", "difference_high"],
        [
            [name, metric, found.value, found.low, found.high, found.n, *_ends(differences.get(name, {}).get(metric))]
            for name, one in results.items()
            for metric, found in one.items()
        ],
    )
    tracker.table(
        "samples",
        ["prompt", "reference", *measured],
        [[row.prompt, row.reference, *(one.texts[i] for one in measured.values())] for i, row in enumerate(rows)],
    )


def short_names(references: Sequence[str]) -> dict[str, str]:
    """What each model is called: its stage, artifact, Hub id, or the last part of its path (no machine's directories).

    Names that would be the same get a number.
    """
    names: dict[str, str] = {}
    for reference in references:
        scheme, colon, rest = reference.partition(":")
        base = Path(rest).name if scheme == "path" else rest if colon else reference
        name, number = base, 2
        while name in names.values() and reference not in names:
            name, number = f"{base} {number}", number + 1
        names.setdefault(reference, name)
    return names


def _ends(interval: Interval | None) -> tuple[float | None, ...]:
    return (None, None, None) if interval is None else (interval.value, interval.low, interval.high)


def _plain(results: comparison.Results) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {metric: dict(vars(interval)) for metric, interval in found.items()} for name, found in results.items()
    }
