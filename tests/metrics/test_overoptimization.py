from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.metrics.overoptimization import Curve, best_of, fitted, kl_of_best_of


@pytest.mark.parametrize("method", ["rl", "best_of_n"])
def test_a_fit_finds_the_curve_that_made_the_points(method: str) -> None:
    curve = Curve(method, 1.3, 0.4)  # type: ignore[arg-type]
    distances = [0.0, 0.5, 1.0, 2.0, 4.0]
    found = fitted(curve.method, distances, [0.0, *(curve.gain(d) for d in distances[1:])])
    assert (found.alpha, found.beta) == pytest.approx((1.3, 0.4))


@pytest.mark.parametrize(("method", "peak"), [("rl", math.exp(1.3 / 0.4 - 1)), ("best_of_n", 1.3 / 0.8)])
def test_the_score_falls_on_both_sides_of_the_peak(method: str, peak: float) -> None:
    curve = Curve(method, 1.3, 0.4)  # type: ignore[arg-type]
    assert curve.gain(peak) > max(curve.gain(0.9 * peak), curve.gain(1.1 * peak))


def test_one_distance_makes_no_curve() -> None:
    with pytest.raises(ValueError, match="two different distances"):
        fitted("rl", [0.0, 1.0, 1.0], [0.0, 1.0, 2.0])


@pytest.mark.parametrize(("n", "kl"), [(1, 0.0), (4, 0.636), (16, 1.835), (64, 3.175), (256, 4.549)])
def test_kl_of_best_of_n(n: int, kl: float) -> None:
    assert kl_of_best_of(n) == pytest.approx(kl, abs=5e-4)


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(-5, 5)), min_size=3, max_size=8, unique_by=lambda row: row[0])
)
def test_best_of_n_is_the_mean_over_all_groups(rows: list[tuple[int, float]]) -> None:
    proxy, gold = [float(row[0]) for row in rows], [row[1] for row in rows]
    groups = list(itertools.combinations(rows, 3))
    wanted = sum(max(group)[1] for group in groups) / len(groups)
    assert best_of(3, proxy, gold) == pytest.approx(wanted, abs=1e-9)
    assert best_of(1, proxy, gold) == pytest.approx(sum(gold) / len(gold), abs=1e-9)
    assert best_of(len(rows), proxy, gold) == pytest.approx(max(rows)[1])


def test_the_best_of_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="best of 3 among 2"):
        best_of(3, [1, 2], [1, 2])
