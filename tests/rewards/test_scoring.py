"""Rows in, scored rows out."""

from __future__ import annotations

from pathlib import Path

import pytest

import reward_models
from align.errors import AlignError, UsageError
from align.rewards import scoring


def test_json_rows_keep_their_keys_and_plain_lines_are_responses() -> None:
    model = reward_models.load("rewards_for_tests:length")
    lines = ['{"prompt": "p", "response": "abc", "id": 7}\n', "\n", '{"response": ""}\n']
    assert list(scoring.score(model, scoring.read(lines, "x"))) == [
        {"prompt": "p", "response": "abc", "id": 7, "score": 3.0},
        {"response": "", "score": 0.0},
    ]
    assert scoring.read(["ab \r\n", "{c\n"], "x") == [{"response": "ab "}, {"response": "{c"}]
    assert scoring.read(['{"response": 1}'], "x", plain=True) == [{"response": '{"response": 1}'}]


def test_prompts_that_are_missing_are_said(tiny_classifier: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = reward_models.load(tiny_classifier, input="prompt_and_response")
    list(scoring.score(model, [{"response": "w5", "promt": "w6"}]))
    assert "reads the prompt as well, and no row has one" in caplog.text
    list(scoring.score(model, [{"response": "w5", "promt": "w6"}, {"response": "w5", "prompt": "w6"}]))
    assert "reads the prompt as well, and 1 of 2 rows have one" in caplog.text
    caplog.clear()
    list(scoring.score(model, [{"response": "w5", "prompt": "w6"}]))
    list(scoring.score(reward_models.load(tiny_classifier), [{"response": "w5"}]))
    assert caplog.text == ""


def test_components_stand_beside_the_score() -> None:
    model = reward_models.load({"model": "rules", "length": {"target": 3, "weight": 2}, "repetition": {}})
    (row,) = scoring.score(model, [{"response": "abc"}])
    assert row["score"] == 3.0
    assert row["components"] == {"length": 1.0, "repetition": 1.0}


def test_many_rows_are_scored_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "AT_ONCE", 3)
    advanced: list[int] = []
    model = reward_models.load("rewards_for_tests:length")
    rows = list(scoring.score(model, [{"response": "a" * n} for n in range(8)], lambda n=1, **_: advanced.append(n)))
    assert [row["score"] for row in rows] == list(range(8))
    assert advanced == [3, 3, 2]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"response": "a"}', "not json"], "x:2: not JSON"),
        (['{"prompt": "a"}'], "x:1: a row is an object with a `response`"),
        (['{"response": "a"}', "[1]"], "x:2: a row is an object"),
        (['{"response": 3}'], "x:1: `response` must be text, not 3"),
        (['{"response": "a", "prompt": null}'], "x:1: `prompt` must be text, not None"),
        (['{"response": "a"}', '{"response": "a", "reference": "b"}'], "give it to all or to none"),
        (['{"response": "a", "score": 5}'], "x:1: the row has a `score` already, which would be overwritten"),
        (['{"response": "a", "components": {}}'], "x:1: the row has a `components` already"),
        (['{"response": "a", "weight": NaN}'], "x:1: not JSON: Out of range float values"),
        (["", "\n"], "x holds no row"),
        (["plain", '{"response": "a"}'], "x:2: a JSON row, but the first line is not one"),
        (["", "[\n", '{"response": "a"}]'], "x:2: a JSON list"),
        (['{"response": "\\ud800"}'], "x:1: half a surrogate pair ('\\ud800') is not text"),
        (['{"response": "a", "id": ' + "[" * 100_000 + "]" * 100_000 + "}"], "x:1: not JSON: maximum recursion depth"),
    ],
)
def test_a_line_that_is_no_row_is_named(lines: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        scoring.read(lines, "x")
    assert message in str(caught.value)


def test_a_table_is_not_scored_as_text() -> None:
    with pytest.raises(UsageError, match=r"w\.csv: give JSON lines .* `align reward evaluate` reads tables"):
        scoring.read(["text,label\n", "a,1\n"], "w.csv")
    assert len(scoring.read(["text,label\n", "a,1\n"], "w.csv", plain=True)) == 2


def test_a_broken_model_is_an_error_and_no_score() -> None:
    with pytest.raises(AlignError, match="rewards_for_tests:nan: score 2 of 2 is nan"):
        list(scoring.score(reward_models.load("rewards_for_tests:nan"), scoring.read(["a", "ashamed"], "x")))
