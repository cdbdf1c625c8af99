"""95 % intervals by the percentile bootstrap over rows, or over units that several rows share."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from align.workspace import Interval

_CHUNK = 4_000_000  # indices drawn at a time: bounds memory at 32 MB


def mean_interval(
    values: Sequence[float], *, seed: int = 0, samples: int = 2000, units: Sequence[Hashable] | None = None
) -> Interval:
    """The mean of the values, with the range of means that resampled data would give.

    Args:
        values: One number per row.
        seed: Of the resampling.
        samples: Resamples; more make the ends steadier, not the interval narrower.
        units: One key per row: rows of one unit (three references of one dialogue) are drawn together, since they
            tell less than as many independent rows. Default: every row is a unit.

    Returns:
        The interval; its `n` counts units. One unit alone gives an interval of no width.

    Raises:
        ValueError: no values, a value that is not finite, or as many units as there are not values.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size == 0 or not np.isfinite(numbers).all():
        raise ValueError("a mean needs values, all of them finite" if numbers.size else "the mean of no values")
    keys: Sequence[Hashable] = range(len(numbers)) if units is None else units
    if len(keys) != len(numbers):
        raise ValueError(f"{len(keys)} units for {len(numbers)} values")
    index = {key: position for position, key in enumerate(dict.fromkeys(keys))}
    unit_of_row = np.array([index[key] for key in keys])
    # Through differences, so that the interval of equal values is exactly that value.
    mean = float(numbers[0] + (numbers - numbers[0]).mean())
    deviations = np.bincount(unit_of_row, weights=numbers - mean)
    sizes = np.bincount(unit_of_row)
    means = np.concatenate(
        [deviations[drawn].sum(1) / sizes[drawn].sum(1) for drawn in _draws(len(index), samples, seed)]
    )
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(mean, mean + float(low), mean + float(high), len(index))


def share_interval(right: Sequence[float], *, seed: int = 0, units: Sequence[Hashable] | None = None) -> Interval:
    """The share of what is right: `mean_interval` of zeros and ones.

    Where all are right, or none is, resampling shows no other share, and the end that is left is exact (Clopper and
    Pearson 1934): with n units .025^(1/n), as for three units .29 to 1.
    """
    found = mean_interval(right, seed=seed, units=units)
    if set(right) == {1.0}:
        return replace(found, low=0.025 ** (1 / found.n))
    if set(right) == {0.0}:
        return replace(found, high=1 - 0.025 ** (1 / found.n))
    return found


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    *,
    seed: int = 0,
    samples: int = 2000,
    units: Sequence[Hashable] | None = None,
) -> Interval:
    """The mean of `a - b`, row by row: both were measured on the same prompts, so that the prompts' own differences
    cancel. An interval without zero is a difference that another draw of prompts would show as well.

    Raises:
        ValueError: as `mean_interval`, or different numbers of rows.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs need as many values on both sides, not {len(a)} and {len(b)}")
    return mean_interval([x - y for x, y in zip(a, b, strict=True)], seed=seed, samples=samples, units=units)


def _draws(count: int, samples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Chunks of resamples, each `[some, count]` indices below `count`."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _CHUNK // count)
    for start in range(0, samples, at_once):
        yield rng.integers(count, size=(min(at_once, samples - start), count))
