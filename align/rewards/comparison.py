"""Do two reward models agree on the order of responses, and where do they disagree most?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from align.data.units import units_of
from align.errors import UsageError
from align.metrics import ranks
from align.metrics.bootstrap import bootstrap
from align.progress import track
from align.rewards import data, scoring
from reward_models import CheckedModel

KENDALL_SAMPLES = 200


@dataclass(frozen=True)
class Disagreement:
    """A response that one model ranks high and the other low."""

    row: int
    """Of the data, counted from 1."""
    prompt: str
    response: str
    scores: tuple[float, float]
    percentiles: tuple[float, float]
    """Rank among the responses, from 0 (lowest) to 1, by each model; those that score alike share one."""


def compare(a: CheckedModel, b: CheckedModel, rows: data.Rows, *, most: int = 10) -> dict[str, Any]:
    """Rank correlations with 95 % intervals, and the `most` responses whose percentiles are furthest apart.

    Raises:
        UsageError: too few rows to resample, or one model scores all of them alike.
        AlignError: a model broke its contract.
    """
    rows = data.with_references(rows) if a.needs_references or b.needs_references else rows
    with track("score", total=2 * len(rows.rows)) as advance:
        both = [
            scoring.in_pieces(model, rows.prompts, rows.responses, rows.references, advance=advance) for model in (a, b)
        ]
    for model, scores in zip((a, b), both, strict=True):
        if len(set(scores)) == 1:
            raise UsageError(f"{model.name} scores all {len(scores)} rows alike: there is no order to compare")
    left, right = map(np.asarray, both)
    try:
        units = units_of(rows.prompts, rows.responses)
        spearman = bootstrap(lambda some: ranks.spearman(left[some], right[some]), len(left), units=units)
        kendall = bootstrap(
            lambda some: ranks.kendall(left[some], right[some]), len(left), samples=KENDALL_SAMPLES, units=units
        )
    except ValueError as error:
        raise UsageError(f"{rows.place}: {error}") from error
    shares = [ranks.percentiles(scores) for scores in both]
    apart = [abs(one - other) for one, other in zip(*shares, strict=True)]
    order = sorted(range(len(apart)), key=lambda row: (-apart[row], row))
    disagreements = [
        Disagreement(
            row=rows.numbers[row],
            prompt=rows.prompts[row],
            response=rows.responses[row],
            scores=(both[0][row], both[1][row]),
            percentiles=(shares[0][row], shares[1][row]),
        )
        for row in order[:most]
    ]
    return {
        "models": [a.describe(), b.describe()],
        "data": rows.place,
        "rows": len(left),
        "spearman": asdict(spearman),
        "kendall": asdict(kendall),
        "disagreements": [asdict(one) for one in disagreements],
    }
