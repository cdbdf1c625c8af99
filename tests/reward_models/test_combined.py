from __future__ import annotations

import json
import statistics

import pytest

import reward_models
from reward_models import RewardError

LENGTH = {"model": "rules", "length": {"target": 10}, "name": "length"}
POLITE = {"model": "rules", "required": {"pattern": "please"}, "name": "polite"}
FRESH = {"model": "rules", "repetition": {"words": 1}, "name": "fresh"}
TEXTS = ["please", "please please", "no", "x" * 10]
COLUMNS = [[0.6, 0.7, 0.2, 1.0], [1.0, 1.0, 0.0, 0.0], [1.0, 0.5, 1.0, 1.0]]
ROWS = [*zip(*COLUMNS, strict=True)]


def score(combine, members=(LENGTH, POLITE, FRESH), **options):
    model = reward_models.load({"combine": combine, "of": [*members], **options})
    return model.score([""] * len(TEXTS), TEXTS)


@pytest.mark.parametrize(
    ("combine", "options", "expected"),
    [
        ("weighted_sum", {}, [sum(row) for row in ROWS]),
        ("weighted_sum", {"weights": [1, -2, 0.5]}, [a - 2 * b + c / 2 for a, b, c in ROWS]),
        ("minimum", {}, [min(row) for row in ROWS]),
        ("minimum", {"weights": [1, 3, 3]}, [min(a, 3 * b, 3 * c) for a, b, c in ROWS]),
        ("mean_minus_std", {}, [statistics.mean(row) - statistics.pstdev(row) for row in ROWS]),
        ("mean_minus_std", {"uncertainty_coef": 0}, [statistics.mean(row) for row in ROWS]),
        (
            "uncertainty_weighted",
            {"uncertainty_coef": 2},
            [statistics.mean(row) - 2 * statistics.pvariance(row) for row in ROWS],
        ),
    ],
)
def test_each_combination(combine, options, expected):
    assert score(combine, **options) == pytest.approx(expected)


def test_a_gate_lets_the_first_through_where_the_second_is_above_the_threshold():
    assert score("gate", [LENGTH, POLITE], threshold=0.5, otherwise=-1) == pytest.approx([0.6, 0.7, -1, -1])
    assert score("gate", [LENGTH, FRESH], threshold=0.5) == pytest.approx([0.6, 0.0, 0.2, 1.0])  # the lowest there is


def test_members_of_different_scale_are_normalised_by_frozen_moments():
    given = {**LENGTH, "normalize": {"mean": 0.5, "std": 0.1}}
    assert score("weighted_sum", [given]) == pytest.approx([1, 2, -3, 5])
    model = reward_models.load(given)
    assert model.describe()["range"] == pytest.approx([-5, 5])
    assert model.describe()["digest"] != reward_models.load(LENGTH).describe()["digest"]
    assert model.components() == {}
    assert model.name == "length"


def test_moments_around_moments_are_told_as_one():
    given = {"model": {**LENGTH, "normalize": {"mean": 0.5, "std": 0.1}}, "normalize": {"mean": 2, "std": 4}}
    model = reward_models.load(given)
    moments = model.describe()["normalize"]
    assert moments == pytest.approx({"mean": 0.7, "std": 0.4})
    plain = reward_models.load(LENGTH).score([""] * len(TEXTS), TEXTS)
    scores = model.score([""] * len(TEXTS), TEXTS)
    assert [score * moments["std"] + moments["mean"] for score in scores] == pytest.approx(plain)


def test_moments_are_measured_once_and_stay(tmp_path):
    rows = [{"prompt": "", "response": text} for text in TEXTS]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for normalize in (rows, str(path)):
        model = reward_models.load({**LENGTH, "normalize": normalize})
        scores = model.score([""] * 4, TEXTS)
        assert statistics.fmean(scores) == pytest.approx(0, abs=1e-12)
        assert statistics.pstdev(scores) == pytest.approx(1)
        assert model.score([""], TEXTS[:1]) == scores[:1]
    path.write_text("")
    assert model.score([""], TEXTS[:1]) == scores[:1]


def test_moments_of_a_marked_file_whose_texts_hold_other_line_ends(tmp_path):
    rows = [{"prompt": "a\u2028b", "response": f"{text}\u0085"} for text in TEXTS]
    path = tmp_path / "samples.jsonl"
    content = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    descriptions = [reward_models.load({**LENGTH, "normalize": one}).describe() for one in (str(path), rows)]
    assert descriptions[0] == descriptions[1]


def test_components_show_what_each_member_said():
    inner = {"combine": "minimum", "of": [FRESH, LENGTH], "name": "inner"}
    model = reward_models.load({"combine": "weighted_sum", "of": [inner, POLITE, POLITE], "weights": [1, 2, 3]})
    assert model.name == "weighted_sum(inner, polite, polite 2)"
    model.score([""] * 4, TEXTS)
    assert model.components() == {
        "inner": pytest.approx([min(row[0], row[2]) for row in ROWS]),
        "inner.fresh": COLUMNS[2],
        "inner.fresh.repetition": COLUMNS[2],
        "inner.length": pytest.approx(COLUMNS[0]),
        "inner.length.length": pytest.approx(COLUMNS[0]),
        "polite": COLUMNS[1],
        "polite.required": COLUMNS[1],
        "polite 2": COLUMNS[1],
        "polite 2.required": COLUMNS[1],
    }
    described = model.describe()
    assert [member["weight"] for member in described["of"]] == [1.0, 2.0, 3.0]
    assert [member["name"] for member in model.members()[0].describe()["of"]] == ["fresh", "length"]


def test_an_error_names_the_member(tmp_path, monkeypatch):
    (tmp_path / "planted_none.py").write_text("def none(prompts, responses):\n    return [None] * len(responses)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RewardError, match="reward model third: score 1 of 4 is None"):
        score("minimum", [LENGTH, {"model": "planted_none:none", "name": "third"}])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"combine": "gate", "of": [LENGTH], "threshold": 0}, "gate needs two models"),
        ({"combine": "gate", "of": [LENGTH, POLITE]}, "a threshold that the second must be above"),
        ({"combine": "gate", "of": ["http://127.0.0.1:9", POLITE], "threshold": 0}, "gate needs `otherwise`"),
        (
            {"combine": "gate", "of": [LENGTH, POLITE], "threshold": 0, "weights": [1, 1]},
            "`weights` is for weighted_sum",
        ),
        ({"combine": "minimum", "of": [LENGTH], "threshold": 1}, "`threshold` is for gate, not for minimum"),
        ({"combine": "mean_minus_std", "of": [LENGTH]}, "needs two models or more"),
        ({"combine": "mean_minus_std", "of": [LENGTH, POLITE], "uncertainty_coef": -1}, "would reward disagreement"),
        ({"combine": "mean_minus_std", "of": [LENGTH, POLITE], "uncertainty_coef": "1"}, "must be a number"),
        ({"combine": "minimum", "of": [LENGTH], "weights": [float("nan")]}, "as many numbers as weights"),
        ({**LENGTH, "normalize": {"mean": 1}}, "normalize: {mean: 0.3, std: 1.2}, or a JSONL file"),
        ({**LENGTH, "normalize": {"mean": 1, "std": 0}}, "must be above 0"),
        ({**LENGTH, "normalize": "nowhere.jsonl"}, "nowhere.jsonl cannot be read"),
        ({**LENGTH, "normalize": [{"prompt": "p"}]}, "two rows or more, each with `prompt` and `response`"),
        ({**LENGTH, "normalize": [{"prompt": "p", "response": "r"}] * 2}, "the standard deviation is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(spec, message):
    with pytest.raises(RewardError) as caught:
        reward_models.load(spec)
    assert message in str(caught.value)
