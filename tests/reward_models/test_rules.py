from __future__ import annotations

import pytest

import reward_models
from reward_models import RewardError


def test_each_rule_is_between_nought_and_one():
    spec = {
        "model": "rules",
        "length": {"target": 4},
        "banned": {"pattern": r"\bsilly\b", "weight": 2},
        "required": {"pattern": "please"},
        "repetition": {"words": 1},
    }
    model = reward_models.load(spec)
    texts = ["four", "", "Silly silly please"]
    assert model.score(["p"] * 3, texts) == pytest.approx([1 + 2 + 0 + 1, 0 + 2 + 0 + 1, 0 + 0 + 1 + 2 / 3])
    assert model.components()["banned"] == [1.0, 1.0, 0.0]
    assert model.describe()["range"] == [0.0, 5.0]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"lenght": {"target": 3}}, "there is no rule 'lenght'; there are length, banned"),
        ({"length": {}}, "length with no settings: missing a required argument: 'target'"),
        ({"length": {"target": "long"}}, "length with {'target': 'long'}"),
        ({"length": 3}, "length wants a mapping"),
        ({"banned": {"pattern": "("}}, "banned with"),
        ({"repetition": {"weight": "much"}}, "the weight of repetition must be a number"),
        ({"repetition": {"weight": float("nan")}}, "the weight of repetition must be a number"),
        ({"length": {"target": 3, "unit": "lines"}}, "unit is characters or words, not 'lines'"),
        ({"length": {"target": 0}}, "target must be a number above 0, not 0"),
        ({"length": {"target": -3}}, "target must be a number above 0, not -3"),
        ({"length": {"target": float("nan")}}, "target must be a number above 0, not nan"),
        ({"length": {"target": float("inf")}}, "target must be a number above 0, not inf"),
        ({"length": {"target": 40, "width": -5}}, "width must be a number above 0, not -5"),
        ({"length": {"target": 40, "width": 0}}, "width must be a number above 0, not 0"),
        ({"repetition": {"words": 0}}, "words must be a whole number, 1 or more, not 0"),
        ({"repetition": {"words": -3}}, "words must be a whole number, 1 or more, not -3"),
        ({"repetition": {"words": True}}, "words must be a whole number, 1 or more, not True"),
        ({"banned": {"phrases": ["x", ""]}}, "phrases must be texts that are not empty"),
        ({"banned": {"phrases": [3]}}, "phrases must be texts that are not empty"),
        ({"banned": {}}, "name a pattern, or a list of phrases"),
        ({"banned": {"phrases": "silly"}}, "name a pattern, or a list of phrases"),
        ({"language": {"code": "xx"}}, "'xx' is not one of en, de"),
        ({"format": {"form": "xml"}}, "'xml' is not one of json, bullets"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_when_it_is_loaded(rules, message):
    with pytest.raises(RewardError, match=message):
        reward_models.load({"model": "rules", **rules})


@pytest.mark.parametrize(
    ("rule", "settings", "expected"),
    [
        ("length", {"target": 2, "unit": "words"}, {"one two": 1.0, "one": 0.5, "one two three four": 0.0}),
        ("length", {"target": 10, "width": 5}, {"x" * 10: 1.0, "x" * 8: 0.6, "x" * 20: 0.0}),
        (
            "banned",
            {"phrases": ["as an AI", "a.b"]},
            {"As an ai I am": 0.0, "has an aim": 1.0, "axb": 1.0, "(a.b)": 0.0},
        ),
        (
            "banned",
            {"phrases": ["!!!", "'s", "…", "as an AI ", "5%"]},
            {
                "No!!! You": 0.0,
                "Anna's": 0.0,
                "So…": 0.0,
                "as an\nAI": 0.0,
                "as an aim": 1.0,
                "5% off": 0.0,
                "15%": 1.0,
            },
        ),
        ("banned", {"phrases": ["ខ្មែ", "မြန်"]}, {"ភាសាខ្មែរ": 0.0, "ဘာသာမြန်မာ": 0.0, "Khmer": 1.0}),
        ("banned", {"pattern": "x+", "phrases": ["y"]}, {"x": 0.0, "y": 0.0, "yy": 1.0}),
        ("language", {"code": "de"}, {"Das ist nicht gut": 1.0, "This is not the end": 0.0}),
        ("format", {"form": "json"}, {' {"a": [1]} ': 1.0, "[]": 1.0, "3": 0.0, "{a}": 0.0, "[" * 100_000: 0.0}),
        ("format", {"form": "bullets"}, {"- a\n- b": 1.0, "1. a\n\nb": 0.5, "a-b": 0.0, "": 0.0}),
        ("format", {"form": "sentences"}, {"He came. He saw.": 1.0, "he came.": 0.0, "He came": 0.0, "«Ja»": 0.0}),
        ("format", {"form": "sentences"}, {"über alles.": 0.0, "Über uns.": 1.0, "привет.": 0.0, "": 0.0, "雨。": 1.0}),
        ("format", {"form": "line"}, {"one": 1.0, "one\ntwo": 0.0, "\none\n": 1.0}),
        ("format", {"form": "plain"}, {"Plain - text.": 1.0, "# Head": 0.0, "**bold**": 0.0, "see https://a.b": 0.0}),
    ],
)
def test_each_rule_by_itself(rule, settings, expected):
    model = reward_models.load({"model": "rules", rule: settings})
    assert model.score([""] * len(expected), [*expected]) == pytest.approx([*expected.values()])


@pytest.mark.parametrize(
    ("phrase", "within", "apart"),
    [("坏人", "他是坏人吗", "他是好人"), ("sap", "sap.", "asap"), ("été", "un été", "étété"), ("ไม่", "ฉันไม่รู้", "ฉันรู้")],
)
def test_a_banned_phrase_is_found_as_its_script_has_words(phrase: str, within: str, apart: str) -> None:
    model = reward_models.load({"model": "rules", "banned": {"phrases": [phrase]}})
    assert model.score(["", ""], [within, apart]) == [0.0, 1.0]
