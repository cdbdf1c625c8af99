from __future__ import annotations

from pathlib import Path

import pytest

import reward_models
from reward_models import RewardError

MODULE = """
class Fixed:
    name = "fixed"

    def __init__(self, value=1.0):
        self.value = value

    def score(self, prompts, responses, references=None):
        return [self.value] * len(responses)

def by_length(prompts, responses):
    return [len(response) for response in responses]

ready = Fixed(3.0)
number = 3
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    name = f"own_reward_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_code_of_ones_own(own_module):
    assert reward_models.load(f"{own_module}:Fixed").score(["p"], ["r"]) == [1.0]
    assert reward_models.load({"model": f"{own_module}:Fixed", "value": 2.0}).score(["p"], ["r"]) == [2.0]
    assert reward_models.load(f"{own_module}:by_length").score(["p"], ["four"]) == [4.0]
    assert reward_models.load(f"{own_module}:ready").name == "fixed"
    assert reward_models.load(f"{own_module}:by_length").name == f"{own_module}:by_length"


@pytest.mark.parametrize(
    ("attribute", "options", "message"),
    [
        (":missing", {}, "has no 'missing'"),
        (":number", {}, "is no reward model"),
        (":Fixed", {"colour": 1}, "could not be made: TypeError"),
        (":by_length", {"value": 1}, "is not a class, so it takes no options; it was given value"),
    ],
)
def test_code_that_does_not_fit_is_refused(own_module, attribute, options, message):
    with pytest.raises(RewardError, match=message):
        reward_models.load(own_module + attribute, **options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_module_here:f", "cannot import no_such_module_here: ModuleNotFoundError"),
        ("org/classifier", "is written hub:org/classifier"),
        ("path:./nowhere", "no reward model at 'path:./nowhere'"),
        ({"label": "toxic"}, "by `model:` or by `combine:`, but this has .'label'."),
        ({"model": 3}, "must be a name or an address, not 3"),
        ({"combine": "maximum", "of": [{"model": "rules", "repetition": {}}]}, "'maximum' is not one of"),
        ({"combine": "minimum", "of": []}, "at least one"),
        ({"combine": "minimum"}, "needs a list of reward models under `of:`"),
        ({"combine": "minimum", "of": [{"model": "rules", "repetition": {}}], "weight": [1]}, "unexpected keyword"),
        ({"combine": "minimum", "of": [{"model": "rules", "repetition": {}}], "weights": [1, 2]}, "as many numbers"),
        ("rules", "name at least one of length, banned, required, repetition"),
    ],
)
def test_what_cannot_be_loaded_says_why(spec, message):
    with pytest.raises(RewardError, match=message):
        reward_models.load(spec)


def test_combined_models_show_their_parts(own_module):
    spec = {
        "combine": "weighted_sum",
        "of": [f"{own_module}:by_length", f"{own_module}:ready", {"model": f"{own_module}:Fixed", "value": -1.0}],
        "weights": [0.5, 1, 2],
    }
    model = reward_models.load(spec)
    assert model.name == f"weighted_sum({own_module}:by_length, fixed, fixed 2)"
    assert model.score(["p", "p"], ["ab", "abcd"]) == [2.0, 3.0]
    assert model.components() == {
        f"{own_module}:by_length": [2.0, 4.0],
        "fixed": [3.0, 3.0],
        "fixed 2": [-1.0, -1.0],
    }
    assert reward_models.load({"combine": "minimum", "of": spec["of"]}).score(["p"], ["r"]) == [-1.0]
    assert [part["weight"] for part in model.describe()["of"]] == [0.5, 1.0, 2.0]


def test_combined_models_nest_and_an_error_names_the_member(own_module):
    inner = {"combine": "minimum", "of": [{"model": "rules", "repetition": {}}, f"{own_module}:ready"], "name": "inner"}
    model = reward_models.load({"combine": "weighted_sum", "of": [inner, f"{own_module}:ready"], "name": "outer"})
    assert model.score(["p"], ["a b a b"]) == [pytest.approx(2 / 3 + 3)]
    assert model.components()["inner.rules.repetition"] == [pytest.approx(2 / 3)]
    broken = {"combine": "minimum", "of": [{"model": f"{own_module}:Fixed", "value": None, "name": "third"}]}
    with pytest.raises(RewardError, match="reward model third: score 0 of 1 is None"):
        reward_models.load(broken).score(["p"], ["r"])


def test_names_are_replaced_by_directories():
    directories = {"toxicity": Path("/models/toxicity")}
    located = {"name": "toxicity", "model": Path("/models/toxicity")}
    assert reward_models.located("toxicity", directories) == located
    assert reward_models.located("module:f", directories) == "module:f"
    spec = {"combine": "minimum", "of": ["toxicity", {"model": "toxicity", "sign": -1}, "rules"]}
    assert reward_models.located(spec, directories) == {
        "combine": "minimum",
        "of": [located, {**located, "sign": -1}, "rules"],
    }


def test_a_located_classifier_bears_the_name_of_the_spec(make_classifier):
    directory = make_classifier("roberta", ["toxic", "nontoxic"])
    spec = {"model": "toxicity", "label": "nontoxic"}
    assert reward_models.load(reward_models.located(spec, {"toxicity": directory})).name == "toxicity"
