"""How good a reward model is: against labels, or against preferences. What `align reward evaluate` measures.

A reward is one number, and so is what it is measured by: whether rows that should score high do. Where the number is a
probability in disguise (a classifier's `log_odds`, `log_probability`, `probability`), it also says how sure it is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align.data import cells, sources, templates
from align.data.units import units_of
from align.errors import UsageError
from align.metrics import bias, classification, ranks
from align.metrics.bootstrap import bootstrap
from align.metrics.intervals import mean_interval, share_interval
from align.progress import track
from align.rewards import data, scoring
from align.workspace import Interval
from reward_models import CheckedModel

logger = logging.getLogger(__name__)

GOOD, BAD = "good", "bad"
MOST_SLICES = 100
Result = dict[str, Any]
"""JSON: intervals are `{value, low, high, n}`."""


def labelled(
    model: CheckedModel,
    rows: data.Rows,
    column: str,
    *,
    positive: Sequence[str] = (),
    threshold: float | None = None,
    by: Sequence[str] = (),
    terms: Sequence[str] = (),
) -> Result:
    """A reward against labels.

    Args:
        model: the reward.
        rows: what to score.
        column: of the label.
        positive: labels that should score high (default: the one that the model scores).
        threshold: of the score, from which on a row is taken for a good one (default: where its probability is one
            half; without probabilities there is no accuracy).
        by: columns by whose values to measure again.
        terms: words whose mention should change nothing (see `align.metrics.bias`).

    Raises:
        UsageError: a column or label does not exist, or there is one class only.
        AlignError: the model broke its contract.
    """
    rows, values = data.labels(data.with_references(rows) if model.needs_references else rows, column)
    description = model.describe()
    good = data.good(values, column, description, positive)
    units = units_of(rows.prompts, rows.responses)
    groups = {name: _groups(rows, name) for name in by}
    with track("score", total=len(rows.rows)) as advance:
        scores = scoring.in_pieces(model, rows.prompts, rows.responses, rows.references, advance=advance)
    sure = probabilities(description, scores)
    if sure is not None and not data.are_of_its_label(good, values, description):
        logger.warning("--positive asks for other rows than the model's label: it says nothing of their probability")
        sure = None
    if threshold is None and sure is not None:
        said: list[bool] | None = [p >= 0.5 for p in sure]
    else:
        said = None if threshold is None else [score >= threshold for score in scores]
    result: Result = {
        "model": description,
        "data": rows.place,
        "rows": len(good),
        "good_rows": sum(good),
        "threshold": threshold,
        "metrics": _plain(_metrics(good, scores, said, sure, units)),
        "length": _plain(_length(rows.responses, good, scores, units)),
        "slices": {name: _plain(_by_group(groups[name], good, scores, said, units)) for name in by},
        "terms": {
            term: asdict(one) for term, one in bias.term_bias(rows.responses, good, scores, terms, units).items()
        },
    }
    if said is not None:
        result["confusion"] = classification.confusion(_names(good), _names(said))
    if sure is not None:
        result["reliability"] = [asdict(one) for one in classification.reliability(good, sure)]
    per_row = [
        {"row": number, "score": score, "good": is_good}
        for number, score, is_good in zip(rows.numbers, scores, good, strict=True)
    ]
    return result | {"scores": per_row}


def preferred(model: CheckedModel, pairs: data.Pairs, *, by: Sequence[str] = ()) -> Result:
    """A reward against preferences: how often it scores the chosen response higher. A tie counts half.

    Raises:
        UsageError: a column does not exist.
        AlignError: the model broke its contract.
    """
    pairs = data.with_references(pairs) if model.needs_references else pairs
    groups = {name: _groups(pairs, name) for name in by}
    prompts, responses = [*pairs.prompts, *pairs.prompts], [*pairs.chosen, *pairs.rejected]
    references = None if pairs.references is None else [*pairs.references, *pairs.references]
    with track("score", total=len(responses)) as advance:
        scores = scoring.in_pieces(model, prompts, responses, references, advance=advance)
    chosen, rejected = scores[: len(pairs.rows)], scores[len(pairs.rows) :]
    right = [0.5 * ((c > r) + (c >= r)) for c, r in zip(chosen, rejected, strict=True)]
    longer = [
        "chosen is longer" if len(c) > len(r) else "chosen is not longer"
        for c, r in zip(pairs.chosen, pairs.rejected, strict=True)
    ]
    units = units_of(pairs.prompts, [*zip(pairs.chosen, pairs.rejected, strict=True)])

    def share_of(values: Sequence[float], rows: Sequence[int]) -> Interval:
        return share_interval([values[row] for row in rows], units=[units[row] for row in rows])

    everything = range(len(right))
    slices = {
        column: {value: {"pair_accuracy": share_of(right, rows)} for value, rows in group.items()}
        for column, group in {"which is longer": _grouped(longer), **groups}.items()
    }
    return {
        "model": model.describe(),
        "data": pairs.place,
        "rows": len(right),
        "ties": right.count(0.5),
        "metrics": _plain(
            {
                "pair_accuracy": share_of(right, everything),
                "margin": mean_interval([c - r for c, r in zip(chosen, rejected, strict=True)], units=units),
            }
        ),
        "length": _plain({"correlation": _correlation(responses, scores, [*units, *units])}),
        "slices": _plain(slices),
        "scores": [
            {"row": number, "chosen": c, "rejected": r}
            for number, c, r in zip(pairs.numbers, chosen, rejected, strict=True)
        ],
    }


def probabilities(description: Mapping[str, Any], scores: Sequence[float]) -> list[float] | None:
    """The probability that each text is a good one, where the score is a function of it, by the model's description.

    The log-odds that a model of preferences declares are those between two responses: of one alone they say nothing.
    """
    if description.get("kind") == "preference":
        return None
    sign = description.get("sign", 1)
    numbers = np.asarray(scores, dtype=np.float64)
    for moments in (description.get("normalize"), description.get("moments")):  # the recipe's, over the model's own
        if isinstance(moments, Mapping) and moments.keys() == {"mean", "std"}:
            numbers = numbers * moments["std"] + moments["mean"]
    numbers = sign * numbers
    match description.get("transform"):
        case "probability":
            of_label = numbers
        case "log_probability":
            of_label = np.exp(numbers)
        case "log_odds":
            of_label = np.exp(-np.logaddexp(0.0, -numbers))
        case _:
            return None
    good = np.clip(of_label if sign == 1 else 1 - of_label, 0.0, 1.0)
    result: list[float] = good.tolist()
    return result


def _metrics(
    good: Sequence[bool],
    scores: Sequence[float],
    said: Sequence[bool] | None,
    sure: Sequence[float] | None,
    units: Sequence[Hashable],
) -> dict[str, Interval | None]:
    """None for what too few rows of a class leave without an interval."""
    truth, numbers = np.asarray(good), np.asarray(scores)
    found: dict[str, Interval | None] = {}
    if said is not None:
        predicted = np.asarray(said)
        found["accuracy"] = share_interval((truth == predicted).astype(float).tolist(), units=units)
        found["macro_f1"] = _macro_f1(truth, predicted, units)
    found["roc_auc"] = classification.roc_auc_interval(good, scores, units=units)
    try:
        found["pr_auc"] = bootstrap(lambda rows: _pr_auc(truth[rows], numbers[rows]), len(good), units=units)
    except ValueError as error:  # many resamples have rows of one class alone
        logger.warning("no pr_auc: %s", error)
        found["pr_auc"] = None
    if sure is not None:
        p = np.asarray(sure)
        right, confidence = (p >= 0.5) == truth, np.maximum(p, 1 - p)
        found["calibration_error"] = bootstrap(
            lambda rows: classification.expected_calibration_error(right[rows].tolist(), confidence[rows].tolist()),
            len(good),
            units=units,
        )
        found["classwise_calibration_error"] = bootstrap(
            lambda rows: classification.expected_calibration_error(truth[rows].tolist(), p[rows].tolist()),
            len(good),
            units=units,
        )
    return found


def macro_f1(good: NDArray[np.bool_], said: NDArray[np.bool_]) -> float:
    """Of the two classes: `align.metrics.classification.macro_f1`, fast enough for hundreds of resamples."""
    found = []
    for one in (True, False):
        both = 2 * ((good == one) & (said == one)).sum()
        either = (good == one).sum() + (said == one).sum()
        if either:
            found.append(both / either)
    return float(np.mean(found))


def _pr_auc(good: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    return classification.pr_auc(good.tolist(), scores.tolist()) if good.any() and not good.all() else math.nan


def _length(
    responses: Sequence[str], good: Sequence[bool], scores: Sequence[float], units: Sequence[Hashable]
) -> dict[str, Interval | None]:
    """Rank correlation of score and length in characters; within a class it is not the label that speaks."""

    def of(rows: Sequence[int]) -> Interval | None:
        some = [responses[row] for row in rows]
        return _correlation(some, [scores[row] for row in rows], [units[row] for row in rows])

    return {
        "correlation": of(range(len(good))),
        "among_good": of([row for row, is_good in enumerate(good) if is_good]),
        "among_bad": of([row for row, is_good in enumerate(good) if not is_good]),
    }


def _correlation(responses: Sequence[str], scores: Sequence[float], units: Sequence[Hashable]) -> Interval | None:
    lengths, numbers = np.array([len(text) for text in responses]), np.asarray(scores)
    try:
        return bootstrap(lambda rows: ranks.spearman(lengths[rows], numbers[rows]), len(scores), units=units)
    except ValueError:  # too few rows, all of one length, or a constant score
        return None


def _by_group(
    groups: Mapping[str, Sequence[int]],
    good: Sequence[bool],
    scores: Sequence[float],
    said: Sequence[bool] | None,
    units: Sequence[Hashable],
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for value, rows in groups.items():
        truth, keys = np.array([good[row] for row in rows]), [units[row] for row in rows]
        one: dict[str, Any] = {"rows": len(rows), "good_rows": int(truth.sum())}
        if said is not None:
            predicted = np.array([said[row] for row in rows])
            one["accuracy"] = share_interval((truth == predicted).astype(float).tolist(), units=keys)
            if 0 < truth.sum() < len(truth):  # of one class alone half of it is the F1 of what is not there
                one["macro_f1"] = _macro_f1(truth, predicted, keys)
        if 0 < truth.sum() < len(truth):
            of_rows = [scores[row] for row in rows]
            one["roc_auc"] = classification.roc_auc_interval(truth.tolist(), of_rows, samples=500, units=keys)
        found[value] = one
    return found


def _macro_f1(truth: NDArray[np.bool_], predicted: NDArray[np.bool_], units: Sequence[Hashable]) -> Interval:
    return bootstrap(lambda rows: macro_f1(truth[rows], predicted[rows]), len(truth), units=units)


def _groups(rows: data.Rows | data.Pairs, column: str) -> dict[str, list[int]]:
    sources.require_columns(rows.rows, [column], rows.place)
    values = [cells.spelled(templates.lookup(row, column)) for row in rows.rows]
    groups = _grouped(values)
    if len(groups) > MOST_SLICES:
        raise UsageError(f"--by {column}: {len(groups)} different values are too many to tell apart")
    return groups


def _grouped(values: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {value: [] for value in sorted(set(values))}
    for row, value in enumerate(values):
        groups[value].append(row)
    return groups


def _names(good: Sequence[bool]) -> list[str]:
    return [GOOD if one else BAD for one in good]


def _plain(found: Any) -> Any:
    """Intervals as JSON."""
    if isinstance(found, Interval):
        return asdict(found)
    return {name: _plain(one) for name, one in found.items()} if isinstance(found, Mapping) else found
