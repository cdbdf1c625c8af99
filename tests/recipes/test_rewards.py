"""Every kind of reward, and every way to combine some, in the quickstart's `ppo` by one `--set`: its own scores."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import reward_models
from align.data import examples
from align.recipe import load
from align.registry import Registry

Finished = Callable[[str], Any]

pytestmark = pytest.mark.xdist_group("quickstart")

TWO_UPDATES = ("stages.ppo.ppo.total_episodes=16", "stages.ppo.ppo.eval_steps=1", "stages.ppo.ppo.response_length=24")
OWN = """
class Vowels:
    def __init__(self, of="aeiou"):
        self.of = of

    def score(self, prompts, responses, references=None):
        return [sum(letter in self.of for letter in response) / 10 for response in responses]

def short(prompts, responses):
    return [-len(response) / 100 for response in responses]

def nothing(prompts, responses):
    return [None] * len(responses)

def constant(prompts, responses):
    return [0.25] * len(responses)
"""
LENGTH = {"model": "rules", "length": {"target": 60}, "name": "length"}
FRESH = {"model": "rules", "repetition": {"words": 1}, "name": "fresh"}
SPECS: dict[str, Any] = {
    "rules": {
        "model": "rules",
        "length": {"target": 40},
        "banned": {"phrases": ["lazy", "silly"], "weight": 2},
        "language": {"code": "en", "weight": 0.5},
        "format": {"form": "sentences"},
    },
    "overlap": "overlap",
    "a function": "own_rewards:short",
    "a class": {"model": "own_rewards:Vowels", "of": "e"},
    "an installed package": "vowels",
    "two labels": {"model": "path:two", "label": "nontoxic"},
    "two labels, permuted": {"model": "path:permuted", "label": "nontoxic"},
    "one label": "path:one",
    "several labels": {"model": "path:several", "label": "insult", "sign": -1, "transform": "log_probability"},
    "preference": "path:preference",
    "from the Hub": {"model": "hub:org/polite@v2", "label": "nontoxic"},
    "the recipe's own, read otherwise": {"model": "toxicity", "transform": "probability"},
    "a service": "ADDRESS",
    "a language model": {"model": "llm", "address": "ADDRESS/v1", "llm": "m", "rubric": "Short?", "scale": [0, 100]},
    "normalized": {**LENGTH, "normalize": "samples.jsonl"},
    "weighted sum": {"combine": "weighted_sum", "of": [LENGTH, "toxicity"], "weights": [1, 0.1]},
    "minimum": {"combine": "minimum", "of": [LENGTH, FRESH]},
    "mean - std": {"combine": "mean_minus_std", "of": [LENGTH, FRESH, "overlap"], "uncertainty_coef": 0.5},
    "mean - variance": {"combine": "uncertainty_weighted", "of": [LENGTH, FRESH]},
    "gate": {"combine": "gate", "of": [LENGTH, FRESH], "threshold": 0.8},
}


@pytest.fixture(scope="module")
def quickstart(finished: Finished, tmp_path_factory: pytest.TempPathFactory, make_classifier: Any) -> Any:
    """The finished quickstart in a directory of its own, with rewards of all kinds beside its registry."""
    directory = tmp_path_factory.mktemp("rewards")
    shutil.copytree(finished("quickstart").directory / "registry", directory / "registry")
    (directory / "own_rewards.py").write_text(OWN)
    rows = [{"prompt": "", "response": "x" * length} for length in (10, 30, 55)]
    (directory / "samples.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for name, labels, problem in (
        ("two", ["toxic", "nontoxic"], None),
        ("permuted", ["nontoxic", "toxic"], None),
        ("one", ["politeness"], None),
        ("preference", ["preferred"], None),
        ("several", ["toxic", "insult", "threat"], "multi_label_classification"),
    ):
        shutil.copytree(make_classifier("roberta", labels, problem), directory / name)
    _keep_in_cache(directory / "hub" / "models--org--polite", directory / "two")
    information = directory / "vowels-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: vowels\nVersion: 1.0\n")
    entries = "[align.reward_models]\nvowels = own_rewards:Vowels\nbroken = no_such_module_here:Reward\n"
    (information / "entry_points.txt").write_text(entries)
    return type(finished("quickstart"))("quickstart", directory)


def _keep_in_cache(repository: Path, model: Path) -> None:
    """As huggingface_hub keeps what it downloaded, and that there was no `reward_model.json`."""
    commit = "0" * 40
    shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit)
    (repository / ".no_exist" / commit).mkdir(parents=True)
    (repository / ".no_exist" / commit / "reward_model.json").touch()


@pytest.fixture
def try_out(quickstart: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`try_out(spec, *overrides)` runs `ppo` with a reward; its events are kept."""
    monkeypatch.syspath_prepend(str(quickstart.directory))
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)
    monkeypatch.setattr(Registry, "discard", lambda self, workspace: None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(quickstart.directory / "hub"))

    def run(spec: Any, *overrides: str, command: str = "run") -> Any:
        chosen = (f"stages.ppo.reward={json.dumps(spec)}", *TWO_UPDATES, *overrides)
        settings = [part for override in chosen for part in ("--set", override)]
        return quickstart.align(command, *([] if command == "check" else ["ppo", "--wandb", "disabled"]), *settings)

    return run


def serving(handler: Any, asked: dict[str, Any], number: int) -> None:
    """The protocol of `remote`, and that of chat completions."""
    if "messages" in asked:
        item = json.loads(asked["messages"][1]["content"])
        said = str(max(0, 100 - len(item["response"])))
        handler.answer({"choices": [{"message": {"content": said}}]})
    else:
        scores = [{"id": item["id"], "score": item["response"].count("e") / 4} for item in asked["items"]]
        handler.answer({"request": asked["request"], "scores": scores})


@pytest.mark.parametrize("kind", SPECS)
def test_two_updates_with_its_own_scores(
    try_out: Any, quickstart: Any, serve: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    address, _ = serve(serving)
    spec = json.loads(json.dumps(SPECS[kind]).replace("ADDRESS", address))
    result = try_out(spec)
    assert result.exit_code == 0, result.output
    events = _newest_events(quickstart)
    logged = _logged(quickstart)
    assert len(logged) == 2
    assert all(figures["objective/scores_std"] > 0 for figures in logged)
    rows = [row for event in events if event.get("key") == "samples" for row in event["rows"]]
    prompts, responses, scores, _ = map(list, zip(*rows, strict=True))
    assert len(set(scores)) > 2
    monkeypatch.chdir(quickstart.directory)
    own = reward_models.load(reward_models.located(spec, _directories(quickstart)))
    references = _references()
    expected = own.score(prompts, responses, [references[prompt] for prompt in prompts])
    assert scores == pytest.approx(expected, abs=1e-5)
    for part in own.components():
        assert all(f"objective/scores/{part}" in figures for figures in logged)
    assert bool(own.components()) == (kind == "rules" or "combine" in spec or kind == "normalized")


def test_labels_may_stand_in_any_order(try_out: Any, quickstart: Any) -> None:
    scores = []
    for directory in ("two", "permuted"):
        assert try_out({"model": f"path:{directory}", "label": "nontoxic"}, "seed=3").exit_code == 0
        scores.append(_logged(quickstart)[0]["objective/scores"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


BAD: dict[str, tuple[Callable[[Any, dict[str, Any]], object], str]] = {
    "500s": (lambda handler, answer: handler.answer(b"broken", 500), "asked 2 times, without an answer: status 500"),
    "slow": (lambda handler, answer: time.sleep(0.5), "without an answer"),
    "HTML": (lambda handler, answer: handler.answer(b"<html>Welcome"), "did not answer with JSON, but '<html>Welcome'"),
    "NaN": (lambda handler, answer: handler.answer(_with(answer, float("nan"))), "is nan, not a finite number"),
    "None": (lambda handler, answer: handler.answer(_with(answer, None)), "is None, not a finite number"),
    "reordered": (
        lambda handler, answer: handler.answer(_with_scores(answer, answer["scores"][::-1])),
        "in this order",
    ),
    "one short": (lambda handler, answer: handler.answer(_with_scores(answer, answer["scores"][:-1])), "was asked for"),
}


def _with_scores(answer: dict[str, Any], scores: list[Any]) -> dict[str, Any]:
    return {**answer, "scores": scores}


def _with(answer: dict[str, Any], value: float | None) -> dict[str, Any]:
    return _with_scores(answer, [{**row, "score": value} for row in answer["scores"]])


@pytest.mark.parametrize("fault", BAD)
def test_a_service_that_breaks_stops_ppo_by_its_name_and_keeps_a_checkpoint(
    try_out: Any, quickstart: Any, serve: Any, fault: str
) -> None:
    behave, message = BAD[fault]

    def breaking(handler: Any, asked: dict[str, Any], number: int) -> None:
        """Good for a greeting, an evaluation, an update and its check; bad in the evaluation after it."""
        if number <= 4:
            serving(handler, asked, number)
        else:
            scores = [{"id": item["id"], "score": 1.0} for item in asked["items"]]
            behave(handler, {"request": asked["request"], "scores": scores})

    address, _ = serve(breaking)
    published = quickstart.digests
    result = try_out({"model": address, "retries": 1, "read_timeout": 0.2, "timeout": 0.3})
    assert result.exit_code == 1
    assert f"PPO stopped after update 1: reward model {address}" in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert quickstart.digests == published
    assert (_newest_events_file(quickstart).parent / "checkpoints" / "checkpoint-1" / "COMPLETE.json").is_file()


def test_a_constant_reward_stops_ppo_by_its_name_and_keeps_a_checkpoint(try_out: Any, quickstart: Any) -> None:
    result = try_out("own_rewards:constant", "stages.ppo.ppo.batch_size=80", "stages.ppo.ppo.total_episodes=80")
    assert result.exit_code == 1
    assert "reward model own_rewards:constant is constant: it gave 0.25 to each of" in result.stderr
    assert (_newest_events_file(quickstart).parent / "checkpoints" / "checkpoint-0" / "COMPLETE.json").is_file()


def test_an_inverted_label_is_refused_by_probes(try_out: Any, quickstart: Any) -> None:
    model = reward_models.load(str(quickstart.directory / "two"), label="nontoxic")
    texts = ["You are kind, and I thank you for it.", "a b c d e f g"]
    better, worse = sorted(texts, key=lambda text: -model.score([""], [text])[0])
    spec = {"model": "path:two", "label": "nontoxic", "probes": [[better, worse]]}
    assert try_out(spec).exit_code == 0
    for inverted in ({**spec, "label": "toxic"}, {"combine": "minimum", "of": [{**spec, "sign": -1}, LENGTH]}):
        refused = try_out(inverted)
        assert refused.exit_code == 1
        assert "reward-polarity: two scores the better response higher in 0 of 1 of its own probes" in refused.stderr
    refused = try_out({"model": "toxicity", "label": "toxic"})  # the quickstart publishes probes with its classifier
    assert refused.exit_code == 1
    assert "reward-polarity: toxicity scores the better response higher in 0 of" in refused.stderr


STATIC: dict[str, tuple[Any, str]] = {
    "an unknown label": ({"model": "toxicity", "label": "polite"}, "no label 'polite' (it has nontoxic, toxic)"),
    "a module that does not import": ("no_such_module_here:Reward", "no_such_module_here"),
    "a package that does not import": ("broken", "reward model broken of vowels does not import"),
    "an attribute that is not there": ("own_rewards:long", "has no 'long'"),
    "another machine": ("http://192.0.2.1:80", "Set allow_remote: true if that is intended"),
    "an unknown rule": (
        {"combine": "minimum", "of": ["toxicity", {"model": "rules", "lenght": {}}]},
        "no rule 'lenght'",
    ),
    "an unknown combination": ({"combine": "median", "of": ["toxicity"]}, "'median' is not one of weighted_sum"),
    "a gate without threshold": ({"combine": "gate", "of": ["toxicity", "toxicity"]}, "a threshold that the second"),
    "no file of moments": ({"model": "toxicity", "normalize": "nowhere.jsonl"}, "there is no file nowhere.jsonl"),
    "a key in the recipe": (
        {"model": "llm", "address": "http://127.0.0.1:9", "llm": "m", "rubric": "?", "key": "sk-123"},
        "names an environment variable",
    ),
}


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("fault", STATIC)
def test_what_cannot_score_is_refused_before_anything_runs(
    try_out: Any, quickstart: Any, command: str, fault: str
) -> None:
    spec, message = STATIC[fault]
    before = quickstart.digests
    result = try_out(spec, "stages.sft.train.max_steps=29", command=command)  # training would come first
    assert result.exit_code == 2
    assert message in result.stderr
    assert "stages.ppo.reward" in result.stderr
    assert "Traceback" not in result.stderr
    assert quickstart.digests == before


@pytest.mark.parametrize(
    ("spec", "behave", "message"),
    [
        ("ADDRESS", lambda h, a, n: h.answer(b"", 307, Location="http://example.org/"), "redirects to 'http://example"),
        (
            {"model": "llm", "address": "ADDRESS", "llm": "m", "rubric": "Polite?"},
            lambda h, a, n: h.answer({"choices": [{"message": {"content": "It is rather polite."}}]}),
            "was asked for a number from 1 to 10 and nothing else, but answered 'It is rather polite.'",
        ),
        ("own_rewards:nothing", lambda h, a, n: None, "reward model own_rewards:nothing: score 1 of 1 is None"),
    ],
)
def test_a_scorer_that_answers_nonsense_is_found_out_by_a_greeting(
    try_out: Any, quickstart: Any, serve: Any, spec: Any, behave: Any, message: str
) -> None:
    address, _ = serve(behave)
    before = quickstart.digests
    result = try_out(json.loads(json.dumps(spec).replace("ADDRESS", address)), "stages.sft.train.max_steps=29")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "stages.ppo.reward: reward model" in result.stderr
    assert quickstart.digests == before


def test_what_only_the_artifact_can_tell_is_not_held_against_a_spec(try_out: Any, quickstart: Any) -> None:
    rows = quickstart.directory / "moments.jsonl"
    rows.write_text("".join(json.dumps({"prompt": "p", "response": text}) + "\n" for text in ("a", "b c")))
    nested = {"model": {"model": "toxicity", "label": "nontoxic"}, "normalize": str(rows)}
    assert try_out(nested, command="check").exit_code == 0


def test_a_gate_whose_first_has_no_lowest_score_is_refused_before_it_is_trained(try_out: Any) -> None:
    gate = {"combine": "gate", "of": ["toxicity", {"model": "rules", "repetition": {}}], "threshold": 0.5}
    result = try_out(gate, command="check")
    assert result.exit_code == 2
    assert "gate needs `otherwise`" in result.stderr
    bounded = {**gate, "of": [{"model": "toxicity", "transform": "probability"}, gate["of"][1]]}
    assert try_out(bounded, command="check").exit_code == 0


def test_references_that_a_reward_compares_with_must_be_named(try_out: Any) -> None:
    result = try_out("overlap", "stages.ppo.prompts.0.reference=null", command="check")
    assert result.exit_code == 2
    assert "stages.ppo.prompts.0: reward overlap compares with references: set `reference:` here" in result.stderr
    measured = ("stages.evaluation.reward=overlap", "stages.evaluation.metrics=[reward]")
    assert try_out("toxicity", *measured, command="check").exit_code == 0
    result = try_out("toxicity", *measured, "stages.evaluation.data.0.reference=null", command="check")
    assert "stages.evaluation.data.0: reward overlap compares with references" in result.stderr
    measured = (*measured[:1], "stages.evaluation.metrics=[length]")  # what rows say, or else all there is
    result = try_out("toxicity", *measured, "stages.evaluation.data.0.reference=null", command="check")
    assert "stages.evaluation.data.0: reward overlap compares with references" in result.stderr
    judged = ("stages.ppo.judge=overlap", "stages.ppo.prompts.0.reference=null")  # It never sees the training prompts.
    assert try_out("toxicity", *judged, command="check").exit_code == 0
    result = try_out("toxicity", *judged, "stages.ppo.evaluation_prompts.0.reference=null", command="check")
    assert "stages.ppo.evaluation_prompts.0: judge overlap compares with references" in result.stderr


def _newest_events_file(quickstart: Any) -> Path:
    files = (quickstart.directory / "registry" / "workspaces").glob("ppo-*/events.jsonl")
    return max(files, key=lambda path: path.stat().st_mtime_ns)


def _logged(quickstart: Any) -> list[dict[str, float]]:
    """The figures of each update."""
    events = _newest_events(quickstart)
    return [event["metrics"] for event in events if "objective/scores" in event.get("metrics", {})]


def _newest_events(quickstart: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _newest_events_file(quickstart).read_text(encoding="utf-8").splitlines()]


def _directories(quickstart: Any) -> dict[str, Path]:
    names = ("two", "permuted", "one", "preference", "several")
    return {
        "toxicity": quickstart.registry.resolve("toxicity@v1").path,
        **{f"path:{name}": quickstart.directory / name for name in names},
    }


def _references() -> dict[str, str | None]:
    stage: Any = load("quickstart", ["datasets.tuning_dialogues.size=8"]).stages["ppo"]
    return dict(examples.referenced_prompts(stage.evaluation_prompts))
