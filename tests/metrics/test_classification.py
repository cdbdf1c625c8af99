from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from align.metrics import classification


def test_accuracy_and_macro_f1():
    labels, predictions = ["a", "a", "a", "b"], ["a", "a", "a", "a"]
    assert classification.accuracy(labels, predictions) == 0.75
    assert classification.macro_f1(labels, predictions) == pytest.approx((6 / 7 + 0) / 2)


def test_macro_f1_of_labels_that_hold_together_is_that_of_their_yes():
    truth = [[True, False, False], [False, False, False], [True, True, False], [False, False, False]]
    nothing = [[False] * 3] * 4
    assert classification.multi_label_macro_f1(truth, nothing) == 0
    found = [[True, False, True], [True, False, False], [True, True, False], [False, True, False]]
    assert classification.multi_label_macro_f1(truth, found) == pytest.approx((4 / 5 + 2 / 3) / 2)
    with pytest.raises(ValueError, match="no label holds of any row"):
        classification.multi_label_macro_f1(nothing, nothing)


def test_ties_count_half():
    assert classification.roc_auc([True, False], [1.0, 1.0]) == 0.5
    assert classification.roc_auc([True, True, False], [2.0, 1.0, 1.0]) == 0.75


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), max_size=30))
def test_the_fast_area_is_the_area(rows):
    rows = [*rows, (True, 0), (False, 1)]
    positive, scores = zip(*rows, strict=True)
    ups, downs = classification._by_class(positive, scores)
    assert classification._area(ups, downs) == pytest.approx(roc_auc_score(positive, scores))


def test_the_interval_of_the_area_holds_it_and_narrows_with_rows():
    rng = np.random.default_rng(0)
    intervals = []
    for count in (100, 1600):
        positive = (np.arange(count) % 2).astype(bool)
        interval = classification.roc_auc_interval(positive.tolist(), rng.normal(size=count) + positive, samples=300)
        assert interval.low < interval.value < interval.high
        assert interval.n == count
        intervals.append(interval.high - interval.low)
    assert intervals[1] < intervals[0] / 2.5


@pytest.mark.parametrize(
    ("positive", "scores", "message"),
    [
        ([True, True], [0.1, 0.2], "both classes"),
        ([True, False], [0.1, float("nan")], "finite"),
        ([], [], "at least one"),
    ],
)
def test_an_area_that_is_undefined_is_refused(positive, scores, message):
    with pytest.raises(ValueError, match=message):
        classification.roc_auc(positive, scores)


def test_calibration_error():
    assert classification.expected_calibration_error([True, False] * 50, [0.5] * 100) == pytest.approx(0)
    assert classification.expected_calibration_error([False, False], [1.0, 1.0]) == pytest.approx(1)
    assert classification.expected_calibration_error([True, True, False, False], [1, 1, 0.5, 0.5]) == pytest.approx(
        0.25
    )
    with pytest.raises(ValueError, match="from 0 to 1"):
        classification.expected_calibration_error([True], [1.1])


def test_pr_auc_by_hand() -> None:
    """Ranked good, bad, good, bad: precision 1 at recall 1/2, and 2/3 at recall 1."""
    assert classification.pr_auc([True, False, True, False], [4.0, 3.0, 2.0, 1.0]) == pytest.approx((1 + 2 / 3) / 2)
    with pytest.raises(ValueError, match="both classes"):
        classification.pr_auc([True, True], [1.0, 2.0])


def test_confusion_counts_each_row_once() -> None:
    assert classification.confusion(["a", "a", "b"], ["a", "b", "c"]) == {
        "a": {"a": 1, "b": 1, "c": 0},
        "b": {"a": 0, "b": 0, "c": 1},
        "c": {"a": 0, "b": 0, "c": 0},
    }


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=50))
def test_reliability_keeps_rows_and_means(rows: list[tuple[bool, float]]) -> None:
    bins = classification.reliability([held for held, _ in rows], [said for _, said in rows])
    assert sum(one.rows for one in bins) == len(rows)
    assert sum(one.rows * one.true for one in bins) == pytest.approx(sum(held for held, _ in rows))
    assert all(one.low - 1e-9 <= one.said <= one.high + 1e-9 for one in bins)
    # The error of all bins is their distances, weighed by rows.
    error = sum(one.rows * abs(one.said - one.true) for one in bins) / len(rows)
    assert error == pytest.approx(
        classification.expected_calibration_error([held for held, _ in rows], [said for _, said in rows])
    )
