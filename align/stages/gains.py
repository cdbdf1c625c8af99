"""What a policy gained by its reward and by its judge, the further it went: the figure of a PPO stage with a judge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from align.metrics.overoptimization import fitted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = {"reward": "eval/objective/scores", "judge": "eval/judge/scores"}
"""What is drawn, and its name in the evaluations."""


def draw(evaluations: Sequence[Mapping[str, float]], path: Path) -> None:
    """The figure as PNG. The same evaluations give the same bytes."""
    figure(evaluations).savefig(path, dpi=100, metadata={"Software": None})


def figure(evaluations: Sequence[Mapping[str, float]]) -> Figure:
    """Gains since the first evaluation over √KL, and the fitted curves of Gao et al. 2022.

    A reward that rises while the judge falls is being exploited.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    distances = [math.sqrt(max(0.0, row["eval/objective/kl"])) for row in evaluations]
    result = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(result)
    axes = result.add_subplot()
    for colour, (label, name) in enumerate(SCORES.items()):
        gains = [row[name] - evaluations[0][name] for row in evaluations]
        axes.plot(distances, gains, "o", color=f"C{colour}", label=label)
        if len({distance for distance in distances if distance > 0}) > 2:
            curve = fitted("rl", distances, gains)
            steps = [max(distances) * step / 100 for step in range(1, 101)]
            axes.plot(steps, [curve.gain(step) for step in steps], color=f"C{colour}", alpha=0.5)
    axes.set_xlabel("√KL from the reference (nats per response)")
    axes.set_ylabel("gain in mean score, held-out prompts")
    axes.legend()
    return result
