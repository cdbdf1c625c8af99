from __future__ import annotations

import pytest

import reward_models
from align.metrics import overlap
from reward_models import RewardError

RESPONSES = ["Anna met Ben at the station.", "", "They were walking to the market"]
REFERENCES = ["Anna meets Ben at noon.", "Nothing at all.", "They walk to the market."]


@pytest.mark.parametrize("metric", ["rouge_1", "rouge_2", "rouge_l"])
def test_the_same_rouge_as_that_of_an_evaluation(metric):
    model = reward_models.load("overlap", metric=metric)
    expected = [row[metric] for row in overlap.rouge(RESPONSES, REFERENCES)]
    assert model.score(["p"] * 3, RESPONSES, REFERENCES) == pytest.approx(expected)
    assert model.score(["p"], ["same words"], ["same words"]) == [1.0]
    assert model.describe()["range"] == [0.0, 1.0]


def test_without_references_there_is_nothing_to_compare_with():
    model = reward_models.load("overlap")
    assert model.needs_references
    for references in (None, ["one", ""]):
        with pytest.raises(RewardError, match="overlap needs a reference for every response"):
            model.score(["p"] * 2, ["a", "b"], references)
    assert reward_models.load({"combine": "minimum", "of": ["overlap"]}).needs_references


def test_unknown_metrics_are_refused():
    with pytest.raises(RewardError, match="'bleu' is not one of rouge_1, rouge_2, rouge_l"):
        reward_models.load("overlap", metric="bleu")


def test_a_reference_that_rouge_cannot_read_is_no_zero():
    with pytest.raises(RewardError, match="reads the letters a-z and digits alone, and finds none in '你好'"):
        reward_models.load("overlap").score(["p", "p"], ["a", "你好"], ["one", "你好"])
    with pytest.raises(RewardError, match="a-z and digits alone, and finds few in 'Привет, друг 5'"):
        reward_models.load("overlap").score(["p"], ["nothing alike 5"], ["Привет, друг 5"])
    with pytest.raises(RewardError, match=r"rouge_2 compares two words at a time, and 'Yes\.' has one"):
        reward_models.load("overlap", metric="rouge_2").score(["p"], ["Yes."], ["Yes."])
    assert reward_models.load("overlap").score(["p"], ["Yes, Zoë."], ["Yes, Zoë."]) == [1.0]
