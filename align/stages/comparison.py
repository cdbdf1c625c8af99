"""Models side by side as people read them: a table in Markdown, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from align.workspace import Interval

Results = Mapping[str, Mapping[str, Interval]]
"""model -> metric -> interval"""

MEANINGS = {
    "toxicity ↓": "mean of the judge, 0 to 1",
    "rouge_1 ↑": "",
    "rouge_2 ↑": "",
    "rouge_l ↑": "overlap with the reference, 0 to 1",
    "bleu ↑": "overlap with the references, 0 to 100",
    "perplexity ↓": "of the references",
    "reward ↑": "mean",
    "reward_auc ↑": "how well the reward agrees with the judge; 0.5 is chance",
    "kl": "nats per response from the baseline",
    "length_characters": "",
    "length_tokens": "of a response",
    "distinct_1": "different words over all words",
    "distinct_2": "different pairs of words over all pairs",
    "repetition ↓": "share of 3-grams that a response repeats",
}
"""What each metric's number means and which way is good, in the order in which metrics are shown."""
_HEADINGS = {heading.split()[0]: heading for heading in MEANINGS}


def table(results: Results, differences: Results, baseline: str) -> str:
    """One row per metric: each model's value, and each difference from the baseline; `*` where it excludes zero."""
    rows = [["metric", *results, *(f"{model} − {baseline}" for model in differences)]]
    for metric in shown_order(results):
        row = [_HEADINGS.get(metric, metric)]
        row += [_cell(result.get(metric)) for result in results.values()]
        row += [_cell(difference.get(metric), marked=True) for difference in differences.values()]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows
    )


def samples(rows: Sequence[tuple[str, str | None, Mapping[str, str]]]) -> str:
    """Prompts (with references, if any) above what each model answered, as block quotes."""
    parts = []
    for number, (prompt, reference, responses) in enumerate(rows, 1):
        answers = {"prompt": prompt, **({"reference": reference} if reference is not None else {}), **responses}
        parts.append(
            "\n\n".join([f"### {number}", *(f"**{who}**\n\n{_quoted(text)}" for who, text in answers.items())])
        )
    return "\n\n".join(parts)


def draw(results: Results, path: Path) -> None:
    """A bar per model for each metric, with its interval, as PNG. The same results give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = shown_order(results)
    columns = min(4, max(1, len(metrics)))
    lines = max(1, -(-len(metrics) // columns))
    figure = Figure(figsize=(3 * columns, 2.6 * lines))
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.4 / (2.6 * lines), top=0.95, wspace=0.25, hspace=0.4)
    FigureCanvasAgg(figure)
    for place, metric in enumerate(metrics, 1):
        measured = {model: result[metric] for model, result in results.items() if metric in result}
        axes = figure.add_subplot(lines, columns, place)
        values = [interval.value for interval in measured.values()]
        below = [max(0.0, interval.value - interval.low) for interval in measured.values()]
        above = [max(0.0, interval.high - interval.value) for interval in measured.values()]
        colours = [f"C{list(results).index(model) % 10}" for model in measured]
        axes.bar(range(len(measured)), values, yerr=[below, above], color=colours, capsize=4)
        axes.set_xticks(range(len(measured)), list(measured))
        if min((value - down for value, down in zip(values, below, strict=True)), default=0) >= 0:
            axes.set_ylim(bottom=0)
        axes.set_title(_HEADINGS.get(metric, metric), fontsize=10)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def shown_order(results: Results) -> list[str]:
    """All metrics that any model has: the known ones in the order of `MEANINGS`, then the others."""
    found = dict.fromkeys(metric for result in results.values() for metric in result)
    return [metric for metric in _HEADINGS if metric in found] + [m for m in found if m not in _HEADINGS]


def legend(results: Results) -> str:
    """The meanings of the metrics that are shown, in one line."""
    meanings = {metric: MEANINGS.get(_HEADINGS.get(metric, ""), "") for metric in shown_order(results)}
    return "; ".join(f"{metric}: {meaning}" for metric, meaning in meanings.items() if meaning) + "."


def _cell(interval: Interval | None, marked: bool = False) -> str:
    if interval is None:
        return "–"
    sign = "+" if marked else ""
    star = " *" if marked and (interval.low > 0 or interval.high < 0) else ""
    digits = 1 if abs(interval.value) >= 10 else 3
    return (
        f"{interval.value:{sign}.{digits}f} [{interval.low:{sign}.{digits}f}, {interval.high:{sign}.{digits}f}]{star}"
    )


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines()) or "> (nothing)"
