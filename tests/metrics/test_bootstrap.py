"""The bootstrap of any statistic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from align.metrics.bootstrap import bootstrap
from align.metrics.classification import roc_auc_interval
from align.metrics.intervals import mean_interval


def test_of_a_mean_it_is_the_interval_of_means() -> None:
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap(lambda rows: float(values[rows].mean()), 400, samples=2000)
    known = mean_interval(values.tolist())
    assert found.value == pytest.approx(known.value)
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=0.01)
    assert found == bootstrap(lambda rows: float(values[rows].mean()), 400, samples=2000)


def test_it_covers_what_it_should() -> None:
    """Of medians of 40 draws, about 95 in 100 intervals hold the true one."""
    rng = np.random.default_rng(0)
    holds = 0
    for seed in range(200):
        values = rng.normal(size=40)
        found = bootstrap(lambda rows, values=values: float(np.median(values[rows])), 40, seed=seed, samples=200)
        holds += found.low <= 0 <= found.high
    assert 0.9 <= holds / 200 <= 0.99


def test_resamples_without_a_value_are_left_out_but_not_many() -> None:
    few = np.array([1.0] * 5 + [0.0] * 95)
    assert bootstrap(lambda rows: float(few[rows].mean()) or math.nan, 100).low > 0
    with pytest.raises(ValueError, match="too few"):
        bootstrap(lambda rows: float(few[rows][:5].mean()) or math.nan, 100)
    with pytest.raises(ValueError, match="not defined on these 0 rows"):
        bootstrap(lambda rows: 1.0, 0)


def test_rows_of_one_unit_are_drawn_together() -> None:
    values = np.random.default_rng(1).normal(size=50)
    often = np.repeat(values, 8)
    alone = bootstrap(lambda rows: float(values[rows].mean()), 50)
    together = bootstrap(lambda rows: float(often[rows].mean()), 400, units=np.repeat(np.arange(50), 8).tolist())
    apart = bootstrap(lambda rows: float(often[rows].mean()), 400)
    assert (together.value, together.n) == (pytest.approx(alone.value), 50)
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    assert apart.high - apart.low < 0.6 * (alone.high - alone.low)


def test_an_area_of_units_has_no_narrower_interval_for_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    positive = (np.arange(60) % 2).astype(bool)
    scores = rng.normal(size=60) + positive
    alone = roc_auc_interval(positive.tolist(), scores.tolist())
    often = roc_auc_interval(np.tile(positive, 9).tolist(), np.tile(scores, 9).tolist(), units=[*range(60)] * 9)
    assert (often.value, often.n) == (pytest.approx(alone.value), 60)
    assert often.high - often.low == pytest.approx(alone.high - alone.low, rel=0.3)


def test_an_area_of_one_rare_positive_unit_still_has_an_interval() -> None:
    units = [0, 0, *range(1, 40)]
    found = roc_auc_interval([True, True] + [False] * 39, [1.0, 2.0] + [0.5, 1.5] * 19 + [0.1], units=units)
    assert found.low <= found.value <= found.high
    assert found.n == 40
    rows = roc_auc_interval([True] + [False] * 39, [1.5] + [0.5, 1.5] * 19 + [0.1])
    assert found.high - found.low == pytest.approx(rows.high - rows.low, abs=0.05)


def test_copies_of_few_texts_of_a_class_narrow_no_area() -> None:
    rng = np.random.default_rng(4)
    positive, scores = np.arange(30) < 2, rng.normal(size=30)
    alone = roc_auc_interval(positive.tolist(), scores.tolist())
    often = roc_auc_interval(np.tile(positive, 50).tolist(), np.tile(scores, 50).tolist(), units=[*range(30)] * 50)
    assert (often.value, often.n) == (pytest.approx(alone.value), 30)
    assert often.high - often.low == pytest.approx(alone.high - alone.low, rel=0.1)
