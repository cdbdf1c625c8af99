"""Rewards against labels and preferences, with every number known beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reward_models
from align.errors import UsageError
from align.metrics import classification
from align.rewards import data, evaluation, plots


def rows(*given: tuple[Any, ...]) -> data.Rows:
    """(text, label, group) each."""
    made = [dict(zip(("text", "label", "group"), one, strict=False)) for one in given]
    return data.texts([{name: str(value) for name, value in row.items()} for row in made], "rows")


TEN = [(2, "nice", "a"), (1, "nice", "a"), (-1, "rude", "a"), (-2, "rude", "b"), (0.5, "rude", "b")] * 2
"""Two of ten are wrong: a rude text that scores above 0."""


def test_each_metric_by_hand() -> None:
    result = evaluation.labelled(reward_models.load("rewards_for_tests:LogOdds"), rows(*TEN), "label", by=["group"])
    value = {name: one["value"] for name, one in result["metrics"].items()}
    assert (result["rows"], result["good_rows"]) == (10, 4)
    assert value["accuracy"] == 0.8
    assert value["macro_f1"] == pytest.approx((2 * 4 / (4 + 6) + 2 * 4 / (4 + 6)) / 2)
    assert value["roc_auc"] == 1.0  # 0.5 is below 1 and 2: only the threshold is wrong
    assert value["pr_auc"] == 1.0
    assert result["confusion"] == {"bad": {"bad": 4, "good": 2}, "good": {"bad": 0, "good": 4}}
    sure = {score: 1 / (1 + math.exp(-abs(score))) for score in (2, 1, 0.5)}
    by_bin = [(sure[2] * 4, 4), (sure[1] * 4, 4), (sure[0.5] * 2, 0)]  # 0.88, 0.73 and 0.62: three bins
    assert value["calibration_error"] == pytest.approx(sum(abs(said - right) for said, right in by_bin) / 10)
    slices = result["slices"]["group"]
    assert slices["a"]["accuracy"]["value"] == 1.0
    assert slices["b"]["accuracy"]["value"] == 0.5
    assert "roc_auc" not in slices["b"]  # all rude
    assert all(one["low"] <= one["value"] <= one["high"] for one in result["metrics"].values())


def test_without_probabilities_there_is_accuracy_only_at_a_threshold() -> None:
    model = reward_models.load("rewards_for_tests:number")
    result = evaluation.labelled(model, rows(*TEN), "label", positive=["nice"])
    assert result["metrics"].keys() == {"roc_auc", "pr_auc"}
    result = evaluation.labelled(model, rows(*TEN), "label", positive=["nice"], threshold=0.75)
    assert result["metrics"]["accuracy"]["value"] == 1.0
    assert "reliability" not in result


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_the_fast_f1_is_the_f1(pairs: list[tuple[bool, bool]]) -> None:
    import numpy as np

    good, said = (np.array(side) for side in zip(*pairs, strict=True))
    slow = classification.macro_f1([str(one) for one in good], [str(one) for one in said])
    assert evaluation.macro_f1(good, said) == pytest.approx(slow)


@given(st.floats(-30, 30), st.sampled_from([1, -1]), st.floats(-3, 3), st.floats(0.1, 5))
def test_every_transform_gives_the_same_probability(log_odds: float, sign: int, mean: float, std: float) -> None:
    p = 1 / (1 + math.exp(-log_odds))
    numbers = {"log_odds": log_odds, "probability": p, "log_probability": math.log(p)}
    for transform, number in numbers.items():
        about = {"transform": transform, "sign": sign, "moments": {"mean": mean, "std": std}}
        (good,) = evaluation.probabilities(about, [(sign * number - mean) / std]) or ()
        assert good == pytest.approx(p if sign == 1 else 1 - p, abs=1e-9)
        about |= {"moments": {"mean": 0.5, "std": 2.0}, "normalize": {"mean": mean, "std": std}}
        (good,) = evaluation.probabilities(about, [((sign * number - 0.5) / 2 - mean) / std]) or ()
        assert good == pytest.approx(p if sign == 1 else 1 - p, abs=1e-9)
    assert evaluation.probabilities({"transform": "logit"}, [1.0]) is None


def test_the_log_odds_of_a_preference_are_no_probability_of_a_label() -> None:
    about = {"kind": "preference", "transform": "log_odds", "sign": 1}
    assert evaluation.probabilities(about, [1.0]) is None


def test_a_rare_class_leaves_all_that_can_be_measured(caplog: pytest.LogCaptureFixture) -> None:
    model = reward_models.load("rewards_for_tests:LogOdds")
    with caplog.at_level("WARNING", "align"):
        metrics = evaluation.labelled(model, rows(*([(-1, "nice")] + [(-1.5, "rude")] * 199)), "label")["metrics"]
    assert metrics["pr_auc"] is None
    assert metrics["roc_auc"]["value"] == 1.0
    calibration = {"calibration_error", "classwise_calibration_error"}
    assert metrics.keys() == {"accuracy", "macro_f1", "roc_auc", "pr_auc", *calibration}
    assert "no pr_auc: 200 rows are too few: the statistic is defined on" in caplog.text
    for count in (2, 3, 5):
        result = evaluation.labelled(model, rows(*([(1, "nice"), (-1, "rude")] * 3)[:count]), "label")
        assert result["metrics"]["accuracy"]["value"] == 1.0


def test_rows_keep_their_numbers(caplog: pytest.LogCaptureFixture) -> None:
    made = [{"text": "1", "label": "nice"}, {"text": None, "label": "nice"}, {"text": "2", "label": math.nan}]
    made += [{"text": "3", "label": ""}, {"text": "-1", "label": "rude"}]
    caplog.set_level("INFO", "align")
    found = data.texts(made, "x.jsonl")
    result = evaluation.labelled(reward_models.load("rewards_for_tests:LogOdds"), found, "label")
    assert [(one["row"], one["score"]) for one in result["scores"]] == [(1, 1.0), (5, -1.0)]
    assert caplog.messages[:2] == [
        "x.jsonl: 1 of 5 rows left out, without text for '{text}'",
        "x.jsonl: 2 of 4 rows left out, without 'label'",
    ]
    pairs = data.pairs([{"chosen": None, "rejected": "1"}, {"chosen": "2", "rejected": "1"}], "y.jsonl")
    (one,) = evaluation.preferred(reward_models.load("rewards_for_tests:number"), pairs)["scores"]
    assert one == {"row": 2, "chosen": 2.0, "rejected": 1.0}
    assert "y.jsonl: 1 of 2 rows left out, without both chosen and rejected" in caplog.messages


def test_pairs_are_measured_with_their_references() -> None:
    made = [{"chosen": "a b", "rejected": "c", "reference": "a b"}, {"chosen": "c", "rejected": "a", "reference": "a"}]
    model = reward_models.load({"model": "overlap"})
    result = evaluation.preferred(model, data.pairs(made, "rows"))
    assert [(one["chosen"], one["rejected"]) for one in result["scores"]] == [(1.0, 0.0), (0.0, 1.0)]
    assert data.pairs(made, "rows", reference="{rejected}").references == ["c", "a"]


def test_a_bad_label_with_its_sign_changed_is_the_same_reward() -> None:
    nice = reward_models.load("rewards_for_tests:LogOdds")
    rude = reward_models.load({"model": "rewards_for_tests:LogOdds", "label": "RUDE", "sign": -1})
    results = [evaluation.labelled(model, rows(*TEN), "label")["metrics"] for model in (nice, rude)]
    for name, one in results[0].items():
        assert results[1][name] == pytest.approx(one), name


def test_the_probability_is_that_of_the_rows_that_should_score_high() -> None:
    model = reward_models.load("rewards_for_tests:LogOdds")  # of nice
    three = rows(*TEN, (0.2, "odd", "a"), (-0.2, "odd", "b"))

    def has_probabilities(model: reward_models.CheckedModel, found: data.Rows, *positive: str) -> bool:
        return "reliability" in evaluation.labelled(model, found, "label", positive=positive)

    assert has_probabilities(model, three, "nice")
    assert not has_probabilities(model, three, "odd")
    assert not has_probabilities(model, three, "nice", "odd")
    against = reward_models.load({"model": "rewards_for_tests:LogOdds", "label": "rude", "sign": -1})
    assert has_probabilities(against, three, "nice", "odd")
    assert not has_probabilities(against, three, "nice")
    # Of two labels the other one is the opposite: a model that is upside down is seen to be.
    result = evaluation.labelled(model, rows(*TEN), "label", positive=["rude"])
    assert result["metrics"]["accuracy"]["value"] == pytest.approx(0.2)
    assert "reliability" in result


def test_copies_of_a_pair_narrow_no_interval() -> None:
    made = [{"chosen": str(n), "rejected": str(n % 7 + 10)} for n in range(30)]
    result = evaluation.preferred(reward_models.load("rewards_for_tests:number"), data.pairs(made * 4, "rows"))
    assert result["rows"] == 120
    assert result["metrics"]["pair_accuracy"]["n"] == result["metrics"]["margin"]["n"] == 30


def test_length_and_terms() -> None:
    made = [{"text": "cat " * n, "label": "nice" if n % 2 else "rude"} for n in range(1, 31)]
    found = data.texts(made, "rows")

    def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Longer ones of the good are better, and worse of the bad."""
        words = [response.count("cat") for response in responses]
        return [float(count if count % 2 else -count) for count in words]

    result = evaluation.labelled(reward_models.load(score), found, "label", positive=["nice"], terms=["cat", "dog"])
    assert [result["length"][name]["value"] for name in ("among_good", "among_bad")] == pytest.approx([1, -1])
    assert abs(result["length"]["correlation"]["value"]) < 0.2
    assert result["terms"]["cat"]["rows"] == 30
    assert result["terms"]["cat"]["bpsn"] is None  # there is no text without it
    assert result["terms"]["dog"]["rows"] == 0


@pytest.mark.parametrize(
    ("label", "given", "message"),
    [
        ("label", {}, "the model scores 'kind', and column 'label' holds 'nice', 'rude': which should score high?"),
        ("label", {"positive": ["good"]}, "--positive good: column 'label' holds 'nice', 'rude'"),
        ("label", {"positive": ["nice", "rude"]}, "all 10 rows should score high"),
        ("lable", {}, "rows has no column 'lable'; did you mean 'label'?"),
        ("label", {"positive": ["nice"], "by": ["subgroup"]}, "rows has no column 'subgroup'"),
    ],
)
def test_what_cannot_be_measured_is_said(label: str, given: dict[str, Any], message: str) -> None:
    model = reward_models.load({"model": "rewards_for_tests:LogOdds", "label": "kind"})
    with pytest.raises(UsageError) as caught:
        evaluation.labelled(model, rows(*TEN), label, **given)
    assert message in str(caught.value)


def test_pairs_by_hand() -> None:
    made = [("3", "11"), ("11", "3"), ("2", "1"), ("1", "1.0")]
    pairs = data.pairs(
        [{"chosen": c, "rejected": r, "kind": k} for (c, r), k in zip(made, "xxyy", strict=True)], "rows"
    )
    result = evaluation.preferred(reward_models.load("rewards_for_tests:number"), pairs, by=["kind"])
    assert result["metrics"]["pair_accuracy"]["value"] == (0 + 1 + 1 + 0.5) / 4
    assert result["metrics"]["margin"]["value"] == (-8 + 8 + 1 + 0) / 4
    assert result["ties"] == 1
    accuracy = {value: one["pair_accuracy"]["value"] for value, one in result["slices"]["which is longer"].items()}
    assert accuracy == {"chosen is longer": 1.0, "chosen is not longer": 0.5}
    assert result["slices"]["kind"]["x"]["pair_accuracy"]["value"] == 0.5


def test_equal_pairs_are_refused_by_their_row() -> None:
    made = [{"chosen": "a", "rejected": "b"}, {"chosen": "a ", "rejected": "a"}]
    with pytest.raises(UsageError, match="rows: in row 2 chosen and rejected are equal"):
        data.pairs(made, "rows")


@settings(max_examples=4, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=20), st.randoms())
def test_the_order_of_rows_changes_no_value(made: list[tuple[int, bool]], random: Any) -> None:
    some = [(9, "nice"), (-9, "rude"), *((score, "nice" if good else "rude") for score, good in made)] * 5
    shuffled = list(some)
    random.shuffle(shuffled)
    model = reward_models.load("rewards_for_tests:LogOdds")
    one, other = (evaluation.labelled(model, rows(*order), "label") for order in (some, shuffled))
    assert one["confusion"] == other["confusion"]
    for name, interval in one["metrics"].items():
        if interval and other["metrics"][name]:  # of so few texts a resample may lack a class
            assert other["metrics"][name]["value"] == pytest.approx(interval["value"])


def test_the_reliability_diagram_is_the_same_bytes_for_the_same_bins(tmp_path: Path) -> None:
    result = evaluation.labelled(reward_models.load("rewards_for_tests:LogOdds"), rows(*TEN), "label")
    for name in ("a", "b"):
        plots.reliability(result["reliability"], 0.1, "title", [tmp_path / f"{name}.png", tmp_path / f"{name}.svg"])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert b"</svg>" in (tmp_path / "a.svg").read_bytes()
    for ending in (".png", ".svg"):
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_what_one_prompt_says_again_narrows_no_interval() -> None:
    number = reward_models.load("rewards_for_tests:number")
    pairs = [{"prompt": f"p{n}", "chosen": str(n % 3), "rejected": str(n % 4 + 0.5)} for n in range(30)]
    once, often = (evaluation.preferred(number, data.pairs(pairs * times, "rows")) for times in (1, 8))
    for name in ("pair_accuracy", "margin"):
        assert often["metrics"][name] == pytest.approx(once["metrics"][name])
    assert often["length"]["correlation"]["n"] == 30
    texts = [{"prompt": f"p{n}", "text": str(n % 5), "label": "ab"[n % 2]} for n in range(30)]
    once, often = (
        evaluation.labelled(number, data.texts(texts * times, "rows"), "label", positive=["a"], threshold=2.0)
        for times in (1, 8)
    )
    for name in ("accuracy", "macro_f1", "pr_auc"):
        assert often["metrics"][name] == pytest.approx(once["metrics"][name])
    assert often["metrics"]["roc_auc"]["n"] == 30
    # Without prompts, one text is one unit.
    sure = reward_models.load("rewards_for_tests:LogOdds")
    texts = [{"text": f"{n % 7 - 3}.{n}", "label": "nice" if n % 3 else "rude"} for n in range(40)]
    once, often = (evaluation.labelled(sure, data.texts(texts * times, "rows"), "label") for times in (1, 8))
    for name, interval in once["metrics"].items():
        assert often["metrics"][name]["n"] == interval["n"] == 40, name
        if name != "roc_auc":  # which draws from each class by itself while every row is a unit
            assert often["metrics"][name] == pytest.approx(interval), name
    assert [often["length"][name]["n"] for name in ("correlation", "among_good", "among_bad")] == [40, 26, 14]


def test_copies_of_a_text_narrow_no_interval_of_its_terms() -> None:
    sure = reward_models.load("rewards_for_tests:length")
    texts = [{"text": f"cat {'x' * n}", "label": "nice" if n % 2 else "rude"} for n in range(1, 41)]
    often = evaluation.labelled(sure, data.texts(texts * 8, "rows"), "label", positive=["nice"], terms=["cat"])
    assert often["terms"]["cat"]["subgroup"]["n"] == 40


def test_the_diagram_s_error_sees_probabilities_that_are_all_too_high() -> None:
    """In the confidence of both classes together, too high above one half and too low below it cancel."""
    sure = math.log(3)  # a probability of .75, or .25
    made = [(sure, "nice")] * 54 + [(sure, "rude")] * 46 + [(-sure, "nice")] * 4 + [(-sure, "rude")] * 96
    result = evaluation.labelled(reward_models.load("rewards_for_tests:LogOdds"), rows(*made), "label")
    value = {name: one["value"] for name, one in result["metrics"].items() if one}
    assert value["calibration_error"] == pytest.approx(0, abs=1e-9)
    assert value["classwise_calibration_error"] == pytest.approx(0.21)
    drawn = [one["rows"] * abs(one["said"] - one["true"]) for one in result["reliability"]]
    assert sum(drawn) / 200 == pytest.approx(0.21)


def test_other_labels_than_the_model_s_have_no_probability(caplog: pytest.LogCaptureFixture) -> None:
    made = rows(*[(2, "nice"), (1, "kind"), (-1, "rude"), (-2, "rude")] * 3)
    model = reward_models.load("rewards_for_tests:LogOdds")
    with caplog.at_level("WARNING", "align"):
        assert "accuracy" in evaluation.labelled(model, made, "label", positive=["nice"])["metrics"]
        assert "other rows" not in caplog.text
        result = evaluation.labelled(model, made, "label", positive=["nice", "kind"])
    assert result["metrics"].keys() == {"roc_auc", "pr_auc"}
    assert "other rows than the model's label" in caplog.text
