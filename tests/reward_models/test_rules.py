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
    ],
)
def test_a_rule_that_cannot_work_is_refused_when_it_is_loaded(rules, message):
    with pytest.raises(RewardError, match=message):
        reward_models.load({"model": "rules", **rules})
