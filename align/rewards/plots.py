"""The reliability diagram: what a classifier said against what was true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def reliability(bins: Sequence[Mapping[str, Any]], error: float, title: str, paths: Sequence[Path]) -> None:
    """Draw bins as `align.metrics.classification.reliability` gives them, with their mean distance (`error`) from the
    diagonal; the ending of a path says its format.

    The same bins give the same bytes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "align"}):
        figure = Figure(figsize=(5.2, 5.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        above.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="as sure as right")
        above.plot([one["said"] for one in bins], [one["true"] for one in bins], marker="o", label="measured")
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that was good", title=title)
        above.annotate(f"classwise calibration error {error:.3f}", (0.97, 0.04), ha="right")
        above.legend(loc="upper left", frameon=False)
        middles = [(one["low"] + one["high"]) / 2 for one in bins]
        below.bar(middles, [one["rows"] for one in bins], width=0.09, color="0.7")
        below.set(xlabel="probability of good, as the model says", ylabel="rows")
        for path in paths:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
