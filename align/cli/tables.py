"""What `align run` ends with: the evaluation as a table and a sentence, samples side by side, and where things are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.registry import Artifact

if TYPE_CHECKING:
    from rich.console import Console

LABELS = {
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "kl": "KL",
    "length_tokens": "tokens",
    "distinct_2": "distinct-2",
    "reward_auc": "reward AUC",
}
DETAILS = {"rouge_1", "rouge_2", "distinct_1", "length_characters", "repetition"}
"""Left to `metrics.json`: what is shown says as much."""
LOWER_IS_BETTER = {"toxicity", "perplexity"}
HIGHER_IS_BETTER = {"rouge_1", "rouge_2", "rouge_l", "bleu", "reward"}
_LONGEST_TEXT = 240
"""Characters of a prompt or response shown on the terminal."""
_MODEL_WIDTH, _METRIC_WIDTH = 20, 17
"""Characters of a column of the table."""


def print_evaluation(console: Console, artifact: Artifact) -> None:
    """Show an evaluation artifact: models as rows, the baseline first, and what changed in one plain sentence."""
    from rich.table import Table
    from rich.text import Text

    results = json.loads((artifact.path / "metrics.json").read_text(encoding="utf-8"))
    models: dict[str, dict[str, Any]] = results["models"]
    baseline = baseline_of(artifact, results)
    order = [baseline, *(name for name in models if name != baseline)]
    metrics = list(dict.fromkeys(m for name in order for m in models[name] if m not in DETAILS and "." not in m))
    grid = [["", *(_heading(metric) for metric in metrics)]]
    for name in order:
        label = f"{name}\n(baseline)" if name == baseline and len(order) > 1 else name
        grid.append([label, *(_cell(models[name].get(metric)) for metric in metrics)])
    if console.width < _MODEL_WIDTH + _METRIC_WIDTH * len(metrics):
        grid = [list(row) for row in zip(*grid, strict=True)]  # a narrow terminal: metrics as rows
    table = Table(
        title=f"{artifact.reference}: means, with 95 % intervals below", title_justify="left", show_lines=True
    )
    for column, heading in enumerate(grid[0]):
        table.add_column(Text(heading), justify="right" if column else "left")
    for row in grid[1:]:
        table.add_row(*map(Text, row))
    console.print()
    console.print(table)
    console.print("↓ lower is better, ↑ higher is better; KL: nats per response from the baseline", style="dim")
    for name in order[1:]:
        console.print(Text(sentence(name, baseline, models, results.get("differences", {}).get(name, {}))))
    _print_samples(console, artifact, order)


def baseline_of(artifact: Artifact, results: Mapping[str, Any]) -> str:
    """The model that the others are compared with."""
    models, config = list(results["models"]), artifact.manifest.config
    for name in (results.get("baseline"), config.get("baseline"), "sft"):
        if name in models:
            return str(name)
    return str(models[0])


def sentence(
    model: str, baseline: str, models: Mapping[str, Mapping[str, Any]], differences: Mapping[str, Any] | None = None
) -> str:
    """What changed from the baseline to a model: `ppo against sft: toxicity 0.360 -> 0.010 (better), ...`.

    Args:
        model: its name.
        baseline: the name of the model it is compared with.
        models: the means of each model by metric.
        differences: intervals of the paired differences by metric, where they were taken; they decide whether a change
            counts. Without them a change counts where the two intervals do not overlap.
    """
    parts = []
    for metric, after in models[model].items():
        if metric in DETAILS or "." in metric:
            continue
        before = models[baseline].get(metric)
        new, old = _value(after), _value(before)
        if metric == "kl" and new is not None:
            parts.append(f"KL {_number(new)} nats per response")
        elif new is not None and old is not None:
            verdict = _verdict(metric, before, after, (differences or {}).get(metric))
            parts.append(f"{_label(metric)} {_number(old)} -> {_number(new)}{verdict}")
    return f"{model} against {baseline}: {', '.join(parts) or 'nothing to compare'}."


def print_artifacts(console: Console, artifacts: Mapping[str, Artifact]) -> None:
    """Say where every stage's artifact lies, and the samples."""
    console.print()
    for name, artifact in artifacts.items():
        console.print(f"{name:<12} {artifact.reference:<16} {_near(artifact.path)}", soft_wrap=True, markup=False)
    for artifact in artifacts.values():
        if (artifact.path / "samples.jsonl").is_file():
            place = _near(artifact.path / "samples.jsonl")
            console.print(f"all samples of {artifact.name}: {place}", soft_wrap=True, markup=False)


def _print_samples(console: Console, artifact: Artifact, order: list[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    wanted = int(artifact.manifest.config.get("samples") or 3)
    path = artifact.path / "samples.jsonl"
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        samples = [json.loads(line) for _, line in zip(range(wanted), file, strict=False)]
    console.print()
    table = Table(title="Samples", title_justify="left", show_lines=True)
    table.add_column("prompt", ratio=3, overflow="fold")
    if any(sample.get("reference") for sample in samples):
        table.add_column("reference", ratio=2, overflow="fold")
    for name in order:
        table.add_column(Text(name), ratio=2, overflow="fold")
    for sample in samples:
        cells = [sample["prompt"]]
        if len(table.columns) > len(order) + 1:
            cells.append(sample.get("reference") or "")
        cells += [_with_scores(sample, name) for name in order]
        table.add_row(*(Text(_clipped(cell)) for cell in cells))
    console.print(table)


def _with_scores(sample: Mapping[str, Any], model: str) -> str:
    response = _clipped(str(sample["responses"].get(model, "")))
    toxicity = sample.get("scores", {}).get(model, {}).get("toxicity")
    return response if toxicity is None else f"{response}\n(toxicity {toxicity:.2f})"


def _heading(metric: str) -> str:
    direction = " ↓" if metric in LOWER_IS_BETTER else " ↑" if metric in HIGHER_IS_BETTER else ""
    return _label(metric) + direction


def _label(metric: str) -> str:
    return LABELS.get(metric, metric.replace("_", " "))


def _cell(measured: Any) -> str:
    value = _value(measured)
    if value is None:
        return "-"
    if not isinstance(measured, Mapping) or "low" not in measured:
        return _number(value)
    return f"{_number(value)}\n[{_number(measured['low'])}, {_number(measured['high'])}]"


def _verdict(metric: str, before: Any, after: Any, difference: Any) -> str:
    if isinstance(difference, Mapping) and "low" in difference:
        rises, falls = difference["low"] > 0, difference["high"] < 0
    elif all(isinstance(measured, Mapping) and "low" in measured for measured in (before, after)):
        rises, falls = after["low"] > before["high"], after["high"] < before["low"]
    else:
        return ""
    if not rises and not falls:
        return " (no clear change)"
    if metric not in LOWER_IS_BETTER | HIGHER_IS_BETTER:
        return ""
    return " (better)" if falls == (metric in LOWER_IS_BETTER) else " (worse)"


def _value(measured: Any) -> float | None:
    value = measured.get("value") if isinstance(measured, Mapping) else measured
    return float(value) if isinstance(value, int | float) else None


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."


def _near(path: Path) -> str:
    """A path as short as it can be said from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
