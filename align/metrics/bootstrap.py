"""95 % bootstrap intervals of statistics that are no plain means: areas, F1, correlations."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from align.workspace import Interval

Statistic = Callable[[NDArray[np.int64]], float]
"""Of the rows with these indices, some of them more than once."""

_LEAST_DEFINED = 0.9


def bootstrap(
    statistic: Statistic,
    count: int,
    *,
    seed: int = 0,
    samples: int = 500,
    units: Sequence[Hashable] | None = None,
) -> Interval:
    """`statistic` of all `count` rows, and the range in which 95 % of its values on resampled rows lie.

    A resample on which the statistic is not defined (NaN: of one class alone) is left out. Rows of one unit are drawn
    together (default: every row is one); `n` counts units.

    Raises:
        ValueError: no rows, a statistic that is not defined on all of them, or on fewer than nine resamples in ten.
    """
    value = statistic(np.arange(count)) if count else float("nan")
    if not np.isfinite(value):
        raise ValueError(f"the statistic is not defined on these {count} rows")
    rng = np.random.default_rng(seed)
    rows_of: dict[Hashable, list[int]] = {}
    for row, unit in enumerate(range(count) if units is None else units):
        rows_of.setdefault(unit, []).append(row)
    rows = [np.array(members) for members in rows_of.values()]

    def drawn() -> NDArray[np.int64]:
        which = rng.integers(len(rows), size=len(rows))
        return which if len(rows) == count else np.concatenate([rows[unit] for unit in which])

    values = np.array([statistic(drawn()) for _ in range(samples)])
    defined = values[np.isfinite(values)]
    if len(defined) < _LEAST_DEFINED * samples:
        raise ValueError(f"{count} rows are too few: the statistic is defined on {len(defined)} of {samples} resamples")
    low, high = np.percentile(defined, (2.5, 97.5))
    return Interval(float(value), float(low), float(high), len(rows))
