"""Whether two scores put the same rows in the same order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[float] | NDArray[np.float64]


def spearman(a: Numbers, b: Numbers) -> float:
    """Correlation of ranks, from -1 to 1, ties sharing their mean rank; NaN where all values of one side are equal.

    Raises:
        ValueError: fewer than two rows, different numbers of them, or a value that is not finite.
    """
    from scipy.stats import spearmanr  # a second to import

    return float(spearmanr(a, b).statistic) if _differ(a, b) else float("nan")


def kendall(a: Numbers, b: Numbers) -> float:
    """Kendall's tau-b: by how much more pairs of rows are in the same order than in opposite ones, from -1 to 1.

    NaN where all values of one side are equal. Raises as `spearman`.
    """
    from scipy.stats import kendalltau

    return float(kendalltau(a, b).statistic) if _differ(a, b) else float("nan")


def percentiles(values: Sequence[float]) -> list[float]:
    """Each value's rank as a share of all, above 0 and below 1; equal values share the mean of their ranks."""
    from scipy.stats import rankdata

    shares: list[float] = ((rankdata(values) - 0.5) / len(values)).tolist()
    return shares


def _differ(a: Numbers, b: Numbers) -> bool:
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(left) != len(right) or len(left) < 2:
        raise ValueError(f"ranks are compared of as many values on both sides, two or more, not {len(a)} and {len(b)}")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise ValueError("ranks of values that are not finite")
    return bool(np.ptp(left) > 0 and np.ptp(right) > 0)
