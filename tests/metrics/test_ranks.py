"""Rank correlations, by hand and by their properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.metrics.ranks import kendall, percentiles, spearman

Pairs = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30)


def test_by_hand() -> None:
    a, b = [1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 40.0]
    assert spearman(a, b) == pytest.approx(1 - 6 * 2 / (4 * 15))  # two ranks are off by one
    assert kendall(a, b) == pytest.approx((5 - 1) / 6)  # of six pairs, one in opposite order
    assert kendall([1.0, 1.0, 2.0], [1.0, 2.0, 3.0]) == pytest.approx(2 / math.sqrt(2 * 3))  # one tie on one side
    assert percentiles([10.0, 30.0, 30.0, 20.0]) == [0.125, 0.75, 0.75, 0.375]


@given(Pairs)
def test_they_are_of_order_alone_and_symmetric(rows: list[tuple[int, int]]) -> None:
    a, b = [float(one) for one, _ in rows], [float(other) for _, other in rows]
    for correlation in (spearman, kendall):
        found = correlation(a, b)
        if len(set(a)) == 1 or len(set(b)) == 1:
            assert math.isnan(found)
            continue
        assert -1 - 1e-9 <= found <= 1 + 1e-9
        assert correlation(b, a) == pytest.approx(found)
        assert correlation([math.exp(one) for one in a], b) == pytest.approx(found)
        assert correlation([-one for one in a], b) == pytest.approx(-found)
        assert correlation(a, a) == pytest.approx(1)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, math.nan], [1.0, 2.0])])
def test_what_has_no_order_is_refused(a: list[float], b: list[float]) -> None:
    for correlation in (spearman, kendall):
        with pytest.raises(ValueError, match="ranks"):
            correlation(a, b)
