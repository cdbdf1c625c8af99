from __future__ import annotations

import json
import shutil
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
        (":number", {}, "is not a reward model"),
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
        (
            {"combine": "minimum", "of": [{"model": "rules", "repetition": {}}], "weight": [1]},
            "it takes combine, weights",
        ),
        ({"combine": "minimum", "of": [{"model": "rules", "repetition": {}}], "weights": [1, 2]}, "as many numbers"),
        ({"combine": "minimum", "of": [5]}, "`of:` must list reward models, each by a name, .* not 5"),
        ({"combine": "minimum", "of": [{"model": "rules", "repetition": {}}], "weights": 5}, "as weights, not 5"),
        ("", "a reward model's name is empty"),
        ("path:", "a reward model's name is empty"),
        ("rules", "name at least one of length, banned, required, repetition, language, format"),
        ("no_such_name", "not one of llm, overlap, rules"),
    ],
)
def test_what_cannot_be_loaded_says_why(spec, message):
    with pytest.raises(RewardError, match=message):
        reward_models.load(spec)


def test_names_are_replaced_by_directories():
    directories = {"toxicity": Path("/models/toxicity")}
    located = {"name": "toxicity", "model": Path("/models/toxicity")}
    assert reward_models.located("toxicity", directories) == located
    assert reward_models.located("module:f", directories) == "module:f"
    assert reward_models.located({"model": {"model": "toxicity"}, "sign": -1}, directories) == {
        "model": located,
        "sign": -1,
    }
    spec = {"combine": "minimum", "of": ["toxicity", {"model": "toxicity", "sign": -1}, "rules"]}
    assert reward_models.located(spec, directories) == {
        "combine": "minimum",
        "of": [located, {**located, "sign": -1}, "rules"],
    }


def test_a_located_classifier_bears_the_name_of_the_spec(make_classifier):
    directory = make_classifier("roberta", ["toxic", "nontoxic"])
    spec = {"model": "toxicity", "label": "nontoxic"}
    assert reward_models.load(reward_models.located(spec, {"toxicity": directory})).name == "toxicity"


@pytest.fixture
def plugin(own_module, tmp_path):
    """An installed package that offers two reward models, one of which does not import."""
    information = tmp_path / "polite_rewards-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: polite-rewards\nVersion: 1.0\n")
    entries = f"[align.reward_models]\npolite = {own_module}:Fixed\nbroken = no_such_module_here:Reward\n"
    (information / "entry_points.txt").write_text(entries)


def test_an_installed_package_offers_reward_models_by_name(plugin):
    assert {"polite", "broken", "rules"} <= reward_models.builtin_names()
    assert reward_models.load({"model": "polite", "value": 2.0}).score(["p"], ["r"]) == [2.0]
    assert reward_models.load("polite").name == "fixed"


def test_a_plugin_that_does_not_import_says_whose_it_is(plugin):
    with pytest.raises(
        RewardError, match="broken of polite-rewards does not import: no_such_module_here:Reward: Modul"
    ):
        reward_models.load("broken")


def test_probes_may_be_given_to_any_model(own_module):
    pairs = [["long enough", "no"]]
    assert reward_models.load(f"{own_module}:by_length", probes=pairs).probes() == [("long enough", "no")]
    with pytest.raises(RewardError, match="probes must be pairs of texts"):
        reward_models.load(f"{own_module}:by_length", probes=["long enough"])


def test_a_hub_id_at_a_revision_comes_from_the_cache(make_classifier, tmp_path, monkeypatch):
    from huggingface_hub import constants

    repository = tmp_path / "models--org--polite"
    shutil.copytree(make_classifier("roberta", ["toxic", "nontoxic"]), repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    # What was downloaded by something else: whether a declaration turns its sign is not known offline.
    with pytest.raises(RewardError, match=r"`hf download org/polite reward_model\.json`"):
        reward_models.load("hub:org/polite@v2", label="nontoxic")
    missing = repository / ".no_exist" / ("0" * 40)
    missing.mkdir(parents=True)
    (missing / "reward_model.json").touch()
    model = reward_models.load("hub:org/polite@v2", label="nontoxic")
    assert model.name == "hub:org/polite@v2"
    assert model.describe()["digest"] == "0" * 40
    local = reward_models.load(str(repository / "snapshots" / ("0" * 40)), label="nontoxic")
    assert model.score([""], ["You are kind."]) == local.score([""], ["You are kind."])
    with pytest.raises(RewardError, match="no sequence classifier can be loaded"):
        reward_models.load("hub:org/polite@v3", label="nontoxic")


def test_around_a_spec_stands_what_every_kind_takes(own_module):
    inner = {"model": f"{own_module}:by_length", "normalize": {"mean": 1, "std": 1}}
    outer = {"model": inner, "name": "outer", "normalize": {"mean": 0, "std": 100}}
    model = reward_models.load(outer)
    assert (model.name, model.score([""], ["abc"])) == ("outer", [0.02])
    with pytest.raises(RewardError, match="unexpected keyword argument 'sign'; it takes no options"):
        reward_models.load({"model": inner, "sign": -1})


def test_a_logit_that_the_spec_names_is_read_as_a_classifier(make_classifier):
    directory = make_classifier("llama", ["LABEL_0"])
    described = reward_models.load(directory, names={"LABEL_0": "toxicity"}, sign=-1).describe()
    assert [described[key] for key in ("kind", "input", "label", "sign")] == ["classifier", "response", "toxicity", -1]


def test_a_name_means_the_same_in_the_spec_and_in_the_declaration(make_classifier, tmp_path):
    directory = tmp_path / "declared"
    shutil.copytree(make_classifier("llama", ["LABEL_0"]), directory)
    said = reward_models.load(str(directory), names={"LABEL_0": "toxicity"})
    (directory / "reward_model.json").write_text('{"names": {"LABEL_0": "toxicity"}}')
    declared = reward_models.load(str(directory))
    assert declared.describe()["kind"] == said.describe()["kind"] == "classifier"
    assert declared.score(["Hello?"], ["Yes."]) == said.score(["Hello?"], ["Yes."])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"model": "rules", 5: {}}, "must have text as names: put 5 in quotes"),
        ({"model": "rules", True: {}}, "must have text as names: put True in quotes"),
        ("x" * 5000, "no reward model at"),
    ],
)
def test_what_makes_no_sense_is_said_in_words(spec, message):
    with pytest.raises(RewardError, match=message):
        reward_models.load(spec)


def test_code_beside_the_weights_is_not_run(make_classifier, tmp_path, monkeypatch):
    directory = tmp_path / "custom"
    shutil.copytree(make_classifier("llama", ["toxic", "nontoxic"]), directory)
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nOwnConfig = dict\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(RewardError, match="no sequence classifier can be loaded"):
        reward_models.load(str(directory), label="toxic")
    assert not (tmp_path / "ran").exists()
