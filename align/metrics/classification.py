"""How good a classifier is: accuracy, macro-F1, the area under the ROC curve, calibration."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align.metrics.bootstrap import bootstrap
from align.workspace import Interval


def accuracy(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """Share of rows where the prediction is the label."""
    _require_pairs(labels, predictions)
    return sum(label == prediction for label, prediction in zip(labels, predictions, strict=True)) / len(labels)


def macro_f1(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """Mean over classes of F1, each class counting alike; a class that is never predicted has 0."""
    from sklearn.metrics import f1_score  # brings scipy: a second

    _require_pairs(labels, predictions)
    return float(f1_score(list(labels), list(predictions), average="macro", zero_division=0))


def multi_label_macro_f1(truth: Sequence[Sequence[bool]], predicted: Sequence[Sequence[bool]]) -> float:
    """Mean of the F1 of each label that may hold beside others; of rows x labels. A label that holds of no row has no
    F1 and is left out.

    Raises:
        ValueError: no label holds of any row.
    """
    from sklearn.metrics import f1_score

    held = [label for label in range(len(truth[0])) if any(row[label] for row in truth)]
    if not held:
        raise ValueError("no label holds of any row")
    real, guess = ([[row[label] for label in held] for row in rows] for rows in (truth, predicted))
    return float(f1_score(np.array(real), np.array(guess), average="macro", zero_division=0))


def roc_auc(positive: Sequence[bool], scores: Sequence[float]) -> float:
    """Chance that a positive row scores above a negative one; a tie counts half.

    Raises:
        ValueError: only one class is there, or a score is not finite.
    """
    from sklearn.metrics import roc_auc_score

    _by_class(positive, scores)
    return float(roc_auc_score(list(positive), list(scores)))


def roc_auc_interval(
    positive: Sequence[bool],
    scores: Sequence[float],
    *,
    seed: int = 0,
    samples: int = 2000,
    units: Sequence[Hashable] | None = None,
) -> Interval:
    """`roc_auc` with its 95 % bootstrap interval. Each class is resampled within itself, so that both always stay.

    Where several rows share a unit, units are resampled instead, and `n` counts them: all units together, unless they
    are so few that many resamples would have one class alone; then those of each class within it.

    Raises:
        ValueError: as `roc_auc`.
    """
    ups, downs = _by_class(positive, scores)
    if units is not None and len(set(units)) < len(units):
        truth, numbers = np.asarray(positive), np.asarray(scores)

        def area(rows: NDArray[np.int64]) -> float:
            high, low = numbers[rows][truth[rows]], numbers[rows][~truth[rows]]
            return _area(high, low) if len(high) and len(low) else float("nan")

        with suppress(ValueError):
            return bootstrap(area, len(truth), seed=seed, samples=samples, units=units)
    rng = np.random.default_rng(seed)
    shared = list(range(len(positive))) if units is None else units
    high_units, low_units = (
        _by_unit(numbers, [unit for unit, is_up in zip(shared, positive, strict=True) if bool(is_up) == up])
        for numbers, up in ((ups, True), (downs, False))
    )
    areas = [_area(_redrawn(high_units, rng), _redrawn(low_units, rng)) for _ in range(samples)]
    low, high = np.percentile(areas, (2.5, 97.5))
    return Interval(roc_auc(positive, scores), float(low), float(high), len(set(shared)))


def expected_calibration_error(correct: Sequence[float], confidences: Sequence[float], bins: int = 10) -> float:
    """Mean distance between how sure a classifier was and how often it was right, over bins of equal width.

    Args:
        correct: Whether each row's predicted class was its label; one half for a tie.
        confidences: The probability that was given to the predicted class.
        bins: Of confidence, from 0 to 1; each weighs as many rows as fall into it.
    """
    which, hits, sure = _binned(correct, confidences, bins)
    return float(np.abs(np.bincount(which, weights=hits - sure)).sum() / len(hits))


def pr_auc(positive: Sequence[bool], scores: Sequence[float]) -> float:
    """Average precision: the area under precision over recall, as steps. A score that says nothing has the share of
    positive rows.

    Raises:
        ValueError: as `roc_auc`.
    """
    from sklearn.metrics import average_precision_score

    _by_class(positive, scores)
    return float(average_precision_score(list(positive), list(scores)))


def confusion(labels: Sequence[str], predictions: Sequence[str]) -> dict[str, dict[str, int]]:
    """Rows by label and, within it, by prediction; every name that occurs on either side is there on both."""
    _require_pairs(labels, predictions)
    names = sorted({*labels, *predictions})
    counts = {label: dict.fromkeys(names, 0) for label in names}
    for label, prediction in zip(labels, predictions, strict=True):
        counts[label][prediction] += 1
    return counts


@dataclass(frozen=True)
class Bin:
    """Rows that were given about the same probability."""

    low: float
    high: float
    rows: int
    said: float
    """Mean probability that was given."""
    true: float
    """Share of rows of which it held."""


def reliability(holds: Sequence[bool], probabilities: Sequence[float], bins: int = 10) -> list[Bin]:
    """What was said against what held, over bins of equal width from 0 to 1; empty bins are left out."""
    which, held, said = _binned(holds, probabilities, bins)
    return [
        Bin(
            low=index / bins,
            high=(index + 1) / bins,
            rows=int((which == index).sum()),
            said=float(said[which == index].mean()),
            true=float(held[which == index].mean()),
        )
        for index in range(bins)
        if (which == index).any()
    ]


def _binned(
    holds: Sequence[float], probabilities: Sequence[float], bins: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Each row's bin, whether it held (0 or 1), and the probability that was given."""
    _require_pairs(holds, probabilities)
    held, said = np.asarray(holds, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if not ((said >= 0) & (said <= 1)).all():
        raise ValueError("a confidence is a probability, from 0 to 1")
    return np.minimum((said * bins).astype(np.int64), bins - 1), held, said


def _by_unit(scores: NDArray[np.float64], units: Sequence[Hashable]) -> NDArray[np.float64] | list[NDArray[np.float64]]:
    """The scores of each unit together; as they are where no rows share one."""
    places: dict[Hashable, list[int]] = {}
    for place, unit in enumerate(units):
        places.setdefault(unit, []).append(place)
    return scores if len(places) == len(scores) else [scores[members] for members in places.values()]


def _redrawn(
    of_units: NDArray[np.float64] | list[NDArray[np.float64]], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The scores of as many units, drawn at random."""
    which = rng.integers(len(of_units), size=len(of_units))
    return of_units[which] if isinstance(of_units, np.ndarray) else np.concatenate([of_units[unit] for unit in which])


def _area(ups: NDArray[np.float64], downs: NDArray[np.float64]) -> float:
    """The Mann-Whitney statistic: what `roc_auc` is, fast enough for thousands of resamples."""
    downs = np.sort(downs)
    ranks = np.searchsorted(downs, ups, side="left") + np.searchsorted(downs, ups, side="right")
    return float(ranks.mean() / (2 * len(downs)))


def _by_class(positive: Sequence[bool], scores: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    _require_pairs(positive, scores)
    numbers, is_positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if not np.isfinite(numbers).all():
        raise ValueError("ROC AUC of scores that are not finite")
    if is_positive.all() or not is_positive.any():
        raise ValueError(f"ROC AUC needs both classes, but all {len(positive)} rows are of one")
    return numbers[is_positive], numbers[~is_positive]


def _require_pairs(left: Sequence[object], right: Sequence[object]) -> None:
    if len(left) == 0 or len(left) != len(right):
        raise ValueError(f"needs as many rows on both sides, and at least one, not {len(left)} and {len(right)}")
