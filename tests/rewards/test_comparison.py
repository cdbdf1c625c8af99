"""Two rewards side by side."""

from __future__ import annotations

import pytest

import reward_models
from align.errors import UsageError
from align.rewards import comparison, data

LENGTH = "rewards_for_tests:length"


def rows(*responses: str) -> data.Rows:
    return data.texts([{"response": response} for response in responses], "rows")


def test_a_reward_agrees_with_itself_and_not_with_its_opposite() -> None:
    model = reward_models.load(LENGTH)
    some = rows(*("a" * n for n in range(1, 21)))
    same = comparison.compare(model, model, some)
    assert same["spearman"]["value"] == pytest.approx(1)
    assert same["kendall"]["value"] == pytest.approx(1)
    opposite = reward_models.load({"combine": "weighted_sum", "of": [LENGTH], "weights": [-1]})
    result = comparison.compare(model, opposite, some, most=2)
    assert result["spearman"]["value"] == pytest.approx(-1)
    assert [one["row"] for one in result["disagreements"]] == [1, 20]
    assert result["disagreements"][0]["percentiles"] == (0.025, 0.975)


def test_the_row_that_one_sees_differently_is_listed_first() -> None:
    shout = reward_models.load({"model": "rules", "banned": {"pattern": "rude"}, "length": {"target": 100}})
    some = rows(*("a" * n for n in range(1, 20)), "rude" * 5)
    result = comparison.compare(reward_models.load(LENGTH), shout, some, most=1)
    (one,) = result["disagreements"]
    assert (one["row"], one["scores"]) == (20, pytest.approx((20.0, 0.2)))
    assert 0 < result["spearman"]["value"] < 1


def test_a_row_bears_its_number_in_the_file() -> None:
    some = data.texts([{"response": None}] + [{"response": "a" * n} for n in range(1, 21)], "rows")
    opposite = reward_models.load({"combine": "weighted_sum", "of": [LENGTH], "weights": [-1]})
    result = comparison.compare(reward_models.load(LENGTH), opposite, some, most=2)
    assert [one["row"] for one in result["disagreements"]] == [2, 21]


def test_copies_of_a_response_narrow_no_interval() -> None:
    opposite = reward_models.load({"combine": "weighted_sum", "of": [LENGTH], "weights": [-1]})
    result = comparison.compare(
        reward_models.load(LENGTH), opposite, rows(*("a" * n for n in range(1, 21)), *["b"] * 20)
    )
    assert [result[name]["n"] for name in ("spearman", "kendall")] == [21, 21]


def test_a_constant_has_no_order() -> None:
    with pytest.raises(UsageError, match="rewards_for_tests:constant scores all 3 rows alike"):
        comparison.compare(
            reward_models.load(LENGTH), reward_models.load("rewards_for_tests:constant"), rows("a", "bb", "ccc")
        )
