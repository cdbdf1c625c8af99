from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from align.metrics.intervals import mean_interval, paired_difference, share_interval

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(VALUES, st.integers(0, 5))
def test_an_interval_lies_within_the_values_and_repeats_itself(values, seed):
    interval = mean_interval(values, seed=seed, samples=200)
    slack = 1e-9 * max(1, *map(abs, values))
    assert min(values) - slack <= interval.low <= interval.high <= max(values) + slack
    assert interval.value == pytest.approx(np.mean(values), abs=1e-6)
    assert interval == mean_interval(values, seed=seed, samples=200)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.integers(1, 30))
def test_equal_values_have_an_interval_of_no_width(value, count):
    interval = mean_interval([value] * count, samples=20)
    assert interval.low == interval.value == interval.high
    assert interval.value == pytest.approx(value)


@pytest.mark.parametrize(("rows", "units", "n"), [(3, None, 3), (6, [0, 0, 1, 1, 2, 2], 3), (1, None, 1)])
def test_a_share_of_all_or_nothing_has_the_exact_bound(rows, units, n):
    everything, nothing = share_interval([1.0] * rows, units=units), share_interval([0.0] * rows, units=units)
    bound = binomtest(n, n).proportion_ci(0.95, "exact").low
    assert astuple(everything) == pytest.approx((1, bound, 1, n))
    assert astuple(nothing) == pytest.approx((0, 0, 1 - bound, n))
    assert share_interval([1.0, 0.0, 1.0] * 9) == mean_interval([1.0, 0.0, 1.0] * 9)


def test_the_interval_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(size=400)
    interval = mean_interval(values.tolist(), seed=1, samples=4000)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.06)


def test_rows_of_one_unit_tell_less_than_independent_ones():
    values = np.random.default_rng(0).normal(size=100).tolist()
    alone = mean_interval(values)
    repeated = mean_interval(values * 3, units=list(range(100)) * 3)
    naive = mean_interval(values * 3)
    assert repeated.n == alone.n == 100
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, rel=1e-9)
    assert naive.high - naive.low < 0.7 * (alone.high - alone.low)


@settings(max_examples=25, deadline=None)
@given(VALUES, st.floats(-100, 100))
def test_a_constant_difference_is_certain_however_the_values_scatter(values, shift):
    difference = paired_difference([value + shift for value in values], values, samples=100)
    assert difference.low == pytest.approx(shift, abs=1e-6)
    assert difference.high == pytest.approx(shift, abs=1e-6)


def test_chunks_bound_memory_without_losing_resamples(monkeypatch):
    monkeypatch.setattr("align.metrics.intervals._CHUNK", 100)
    interval = mean_interval(list(range(30)), samples=1000)
    assert interval.low < interval.value < interval.high


@pytest.mark.parametrize(("values", "units"), [([], None), ([1.0, float("nan")], None), ([1.0, 2.0], ["a"])])
def test_bad_values_are_refused(values, units):
    with pytest.raises(ValueError, match=r"mean|units"):
        mean_interval(values, units=units)


def test_pairs_must_be_pairs():
    with pytest.raises(ValueError, match="not 1 and 2"):
        paired_difference([1.0], [1.0, 2.0])
