"""Plans and runs. The stages are small fakes that write files; registry, recipe and data are the real ones."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import align
import reward_models
from align import pipeline, stages
from align.configs import StageConfig
from align.configs.base import TrainConfig
from align.configs.sft import SftConfig
from align.errors import AlignError, Interrupted, UsageError, VerificationError
from align.pipeline import Plan, identity, planning, rewards
from align.recipe import load
from align.registry import Registry, collection, files
from align.tracking import Tracker
from align.workspace import Inputs, Metrics, Workspace

RECIPE = """\
name: tiny
seed: 17
datasets: {rows: {path: rows.jsonl}}
stages:
  evaluation:
    kind: evaluate
    models: [sft, ppo]
    metrics: [rouge]
    data: [{dataset: rows, prompt: "{prompt}"}]
  base: {kind: base, model: ./model}
  sft:
    kind: sft
    model: base
    data: [{dataset: rows, prompt: "{prompt}", completion: " {answer}"}]
    train: {learning_rate: 0.001}
  toxicity:
    kind: reward
    model: base
    data: [{dataset: rows, text: "{answer}", label: {column: label}}]
    labels: {positive: nontoxic}
  ppo: {kind: ppo, policy: sft, reward: toxicity, prompts: [{dataset: rows, prompt: "{prompt}"}]}
"""
ORDER = ["base", "sft", "toxicity", "ppo", "evaluation"]


class FakeStage:
    """Publishes what it was told and given, so that equal work gives equal files."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.configs: dict[str, Any] = {}
        self.fail: Exception | None = None
        self.salt = ""
        self.at_work: Callable[[str], object] = lambda kind: None

    def run(self, config: StageConfig, inputs: Inputs, workspace: Workspace, tracker: Tracker) -> Metrics:
        self.ran.append(config.kind)
        self.at_work(config.kind)
        self.configs[config.kind] = config
        (workspace.checkpoints / "step-1").mkdir(exist_ok=True)
        if self.fail and config.kind == "ppo":
            raise self.fail
        given = {reference: sorted(p.name for p in Path(path).iterdir()) for reference, path in inputs.items()}
        content = {"kind": config.kind, "seed": config.seed, "inputs": given, "salt": self.salt}
        (workspace.output / "content.json").write_text(json.dumps(content), encoding="utf-8")
        tracker.log({"loss": 1.0}, 1)
        return {"loss": 1.0}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> FakeStage:
    fake = FakeStage()
    monkeypatch.setattr(stages, "load", lambda kind: fake)
    return fake


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the recipe, its data and its base model."""
    rows = [{"prompt": c, "answer": c * 2, "label": ("toxic", "nontoxic")[c in "ab"]} for c in "abcd"]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALIGN_REGISTRY", raising=False)
    return tmp_path


def actions(plan: Plan) -> dict[str, str]:
    return {step.name: step.action for step in plan.steps}


def reasons(plan: Plan) -> dict[str, str]:
    return {step.name: step.reason for step in plan.steps}


def test_stages_run_in_order_of_need_and_then_come_from_the_registry(here: Path, stage: FakeStage) -> None:
    first = align.plan("tiny.yaml")
    assert list(actions(first)) == ORDER
    assert set(reasons(first).values()) == {"no artifact yet"}
    assert not (here / "registry").exists()

    artifacts = align.run("tiny.yaml")
    assert stage.ran == ["base", "sft", "reward", "ppo", "evaluate"]
    assert list(artifacts) == ORDER
    ppo = artifacts["ppo"].manifest
    assert {place: taken.reference for place, taken in ppo.inputs.items()} == {
        "policy": "sft@v1",
        "reward": "toxicity@v1",
    }
    assert ppo.config["seed"] == 17
    assert ppo.metrics == {"loss": 1.0}
    assert str(here) not in artifacts["base"].path.parent.joinpath("manifest.json").read_text()
    assert ppo.environment["packages"]["torch"]

    assert set(actions(align.plan("tiny.yaml")).values()) == {"cached"}
    assert {name: a.reference for name, a in align.run("tiny.yaml").items()} == {name: f"{name}@v1" for name in ORDER}
    assert len(stage.ran) == 5


def test_one_stage_brings_what_it_needs(here: Path) -> None:
    assert list(actions(align.plan("tiny.yaml", ["toxicity"]))) == ["base", "toxicity"]
    with pytest.raises(UsageError, match="no stage called 'toxicty'; did you mean `toxicity`"):
        align.plan("tiny.yaml", ["toxicty"])
    with pytest.raises(UsageError, match="not among those to run: base, toxicity"):
        align.plan("tiny.yaml", ["toxicity"], force=["ppo"])


def test_only_what_a_change_touches_runs_again_and_the_reason_names_it(here: Path, stage: FakeStage) -> None:
    align.run("tiny.yaml")
    plan = align.plan("tiny.yaml", overrides=["stages.sft.train.learning_rate=0.002", "stages.sft.max_length=9"])
    assert actions(plan) == {"base": "cached", "sft": "run", "toxicity": "cached", "ppo": "run", "evaluation": "run"}
    assert reasons(plan)["sft"] == "config changed: max_length 512 -> 9, train.learning_rate 0.001 -> 0.002"
    assert reasons(plan)["ppo"] == "input sft will run again"
    pipeline.run(plan)
    assert actions(align.plan("tiny.yaml"))["ppo"] == "cached"  # the old artifacts are still there


def test_changed_data_is_noticed_and_a_moved_file_is_not(here: Path, stage: FakeStage) -> None:
    align.run("tiny.yaml")
    (here / "elsewhere").mkdir()
    (here / "rows.jsonl").rename(here / "elsewhere" / "moved.jsonl")
    moved = ["datasets.rows.path=elsewhere/moved.jsonl"]
    assert set(actions(align.plan("tiny.yaml", overrides=moved)).values()) == {"cached"}
    with (here / "elsewhere" / "moved.jsonl").open("a") as file:
        file.write('{"prompt": "e", "answer": "f", "label": "toxic"}\n')
    plan = align.plan("tiny.yaml", overrides=moved)
    assert actions(plan)["base"] == "cached"
    assert reasons(plan)["sft"] == "data changed: data.0"
    assert reasons(plan)["ppo"] == "input sft will run again; input toxicity will run again; data changed: prompts.0"


def test_a_changed_base_model_is_noticed(here: Path, stage: FakeStage) -> None:
    align.run("tiny.yaml")
    (here / "model" / "config.json").write_text('{"a": 1}')
    assert set(actions(align.plan("tiny.yaml")).values()) == {"run"}


@pytest.mark.parametrize(
    ("kind", "file", "named"),
    [
        ("base", "model/config.json", "model: ./model"),
        ("sft", "rows.jsonl", "data.0.dataset: rows.jsonl"),
        ("ppo", "my_reward.py", "reward.model: my_reward:score"),
        ("ppo", "moments.jsonl", "reward.normalize: moments.jsonl"),
    ],
)
def test_what_changes_while_a_stage_is_at_work_is_not_published(
    here: Path, stage: FakeStage, monkeypatch: pytest.MonkeyPatch, kind: str, file: str, named: str
) -> None:
    """Neither under the fingerprint of what was planned, nor later, when the file is as it was."""
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "my_reward", raising=False)
    (here / "my_reward.py").write_text(
        "def score(prompts, responses):\n    return [float(len(r)) for r in responses]\n"
    )
    (here / "moments.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": "dd"}\n')
    reward = "stages.ppo.reward={model: my_reward:score, normalize: moments.jsonl}"
    arguments: dict[str, Any] = {"recipe": "tiny.yaml", "overrides": [reward]}
    before = (here / file).read_text()
    stage.at_work = lambda at: at == kind and (here / file).write_text(before + "\n")
    with pytest.raises(UsageError, match=rf"stages\.{kind}\.{named} has changed since .*\nNothing of stage {kind}"):
        align.run(**arguments)
    (here / file).write_text(before)
    assert actions(align.plan(**arguments))[kind] == "run"
    assert Registry("registry").versions(kind) == []


def test_moments_of_a_nested_reward_are_part_of_what_is_done(
    here: Path, stage: FakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "nested_reward", raising=False)
    (here / "nested_reward.py").write_text(
        "def score(prompts, responses):\n    return [1.0 * len(r) for r in responses]\n"
    )
    rows = here / "moments.jsonl"
    rows.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": "dd"}\n')
    reward = "stages.ppo.reward={name: x, model: {model: nested_reward:score, normalize: moments.jsonl}}"
    align.run("tiny.yaml", overrides=[reward])
    assert actions(align.plan("tiny.yaml", overrides=[reward]))["ppo"] == "cached"
    rows.write_text(rows.read_text().replace("dd", "ddd"))
    assert actions(align.plan("tiny.yaml", overrides=[reward]))["ppo"] == "run"


def test_files_that_a_rewards_options_name_are_part_of_what_is_done(
    here: Path, stage: FakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "lexicon_reward", raising=False)
    (here / "lexicon_reward.py").write_text(
        "class Lexicon:\n"
        "    def __init__(self, path):\n        self.words = open(path).read()\n\n"
        "    def score(self, prompts, responses):\n        return [float(r in self.words) for r in responses]\n"
    )
    for directory, words in {"v1": "fine", "v2": "kind", "v3": "fine"}.items():
        (here / directory).mkdir()
        (here / directory / "words.txt").write_text(words)

    def reward(path: Path) -> list[str]:
        return [f"stages.ppo.reward={{model: lexicon_reward:Lexicon, path: {path}}}"]

    align.run("tiny.yaml", overrides=reward(here / "v1" / "words.txt"))
    assert str(here) not in (here / "registry" / "artifacts" / "ppo" / "v1" / "manifest.json").read_text()
    action = {
        version: actions(align.plan("tiny.yaml", overrides=reward(here / version / "words.txt")))["ppo"]
        for version in ("v1", "v2", "v3")
    }
    assert action == {"v1": "cached", "v2": "run", "v3": "cached"}
    (here / "v1" / "words.txt").write_text("fine, kind")
    assert actions(align.plan("tiny.yaml", overrides=reward(here / "v1" / "words.txt")))["ppo"] == "run"


@pytest.fixture
def own_reward(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Overrides that make `ppo` score with one's own code, which takes any options."""
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "open_reward", raising=False)
    (here / "open_reward.py").write_text(
        "class Open:\n    def __init__(self, **options):\n        pass\n\n"
        "    def score(self, prompts, responses):\n        return [1.0 * len(r) for r in responses]\n"
    )
    return lambda **options: [f"stages.ppo.reward={json.dumps({'model': 'open_reward:Open', **options})}"]


@pytest.mark.parametrize(
    "options",
    [
        lambda path: {"settings": {"path": path}},
        lambda path: {"paths": ["en", path]},
        lambda path: {"settings": {"model": path}},
        lambda path: {"a.b": "rows.jsonl", "words": path},
    ],
)
def test_files_may_be_named_anywhere_in_a_rewards_options(
    here: Path, stage: FakeStage, own_reward: Callable[..., list[str]], options: Callable[[str], dict[str, Any]]
) -> None:
    for directory, words in {"v1": "fine", "v2": "kind"}.items():
        (here / directory).mkdir()
        (here / directory / "words.txt").write_text(words)
    first, second = (own_reward(**options(str(here / directory / "words.txt"))) for directory in ("v1", "v2"))
    align.run("tiny.yaml", overrides=first)
    assert str(here) not in (here / "registry" / "artifacts" / "ppo" / "v1" / "manifest.json").read_text()
    assert actions(align.plan("tiny.yaml", overrides=first))["ppo"] == "cached"
    assert actions(align.plan("tiny.yaml", overrides=second))["ppo"] == "run"
    (here / "v1" / "words.txt").write_text("fine, kind")
    assert actions(align.plan("tiny.yaml", overrides=first))["ppo"] == "run"


def test_a_directory_in_a_rewards_options_is_known_by_where_it_is(
    here: Path, stage: FakeStage, own_reward: Callable[..., list[str]]
) -> None:
    for directory in ("v1", "v2"):
        (here / directory / "words").mkdir(parents=True)
    first, second = (own_reward(path=str(here / directory / "words")) for directory in ("v1", "v2"))
    align.run("tiny.yaml", overrides=first)
    assert str(here) not in (here / "registry" / "artifacts" / "ppo" / "v1" / "manifest.json").read_text()
    assert actions(align.plan("tiny.yaml", overrides=first))["ppo"] == "cached"
    assert actions(align.plan("tiny.yaml", overrides=second))["ppo"] == "run"


def test_what_a_reward_writes_throws_nothing_away(
    here: Path, stage: FakeStage, own_reward: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    log = here / "scores.log"
    log.write_text("begun\n")
    stage.at_work = lambda kind: log.write_text(f"{log.read_text()}{kind}\n")
    align.run("tiny.yaml", overrides=own_reward(log="scores.log"))
    assert Registry("registry").versions("ppo")
    assert "stages.ppo.reward.log: scores.log changed while the stage was at work. If the reward reads" in caplog.text


def test_a_damaged_reward_is_put_into_quarantine(
    here: Path, stage: FakeStage, make_classifier: Callable[..., Path]
) -> None:
    nothing: dict[str, Any] = {"inputs": {}, "config": {}, "metrics": {}, "environment": {}}
    copy = shutil.copytree(make_classifier("roberta", ["toxic", "nontoxic"]), here / "copy")
    kept = Registry("registry").publish(copy, name="kept", kind="base", fingerprint="0" * 16, **nothing)
    weights = kept.path / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:3] + b"?" + weights.read_bytes()[4:])
    with pytest.raises(VerificationError, match="kept@v1"):
        align.run("tiny.yaml", overrides=["stages.ppo.reward={model: 'registry:kept', label: nontoxic}"])
    assert stage.ran == []


def test_a_judge_is_asked_before_anything_runs(
    here: Path, stage: FakeStage, make_classifier: Callable[..., Path]
) -> None:
    directory = shutil.copytree(make_classifier("roberta", ["toxic", "nontoxic"]), here / "judging")
    judged = ["stages.evaluation.judge={model: 'path:judging', label: toxic}", "stages.evaluation.metrics=[toxicity]"]
    align.run("tiny.yaml", overrides=judged)
    for file in (directory / "tokenizer.json", directory / "tokenizer_config.json"):
        file.unlink()
    stage.ran.clear()
    with pytest.raises(UsageError, match=r"stages\.evaluation\.judge: reward model .*its tokenizer cannot be loaded"):
        align.run("tiny.yaml", overrides=[*judged, "seed=18"])
    assert stage.ran == []


def test_a_classifier_that_is_there_already_is_asked_before_anything_runs(
    here: Path, stage: FakeStage, make_classifier: Callable[..., Path]
) -> None:
    directory = make_classifier("roberta", ["toxic", "nontoxic"])
    taken = [f"stages.taken={{kind: base, model: {directory}}}", "stages.ppo.reward=taken"]
    with pytest.raises(UsageError, match="reward: reward model taken: which label is scored"):
        align.run("tiny.yaml", overrides=taken)
    nothing: dict[str, Any] = {"inputs": {}, "config": {}, "metrics": {}, "environment": {}}
    Registry("registry").publish(directory, name="kept", kind="base", fingerprint="0" * 16, **nothing)
    with pytest.raises(UsageError, match="reward: reward model registry:kept: which label is scored"):
        align.run("tiny.yaml", overrides=["stages.ppo.reward=registry:kept"])
    assert stage.ran == []
    named = {"combine": "minimum", "of": [{"model": "registry:kept", "label": "nontoxic"}, {"model": "rules"}]}
    named["of"][1] |= {"repetition": {}}
    align.run("tiny.yaml", overrides=[f"stages.ppo.reward={json.dumps(named)}"])
    assert "ppo" in stage.ran


@pytest.mark.parametrize(
    "service", [{"model": "http://127.0.0.1:9"}, {"model": "llm", "address": "http://127.0.0.1:9", "llm": "x"}]
)
def test_a_check_asks_no_service_for_moments(here: Path, stage: FakeStage, service: dict[str, Any]) -> None:
    (here / "moments.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": "dd"}\n')
    rubric = {"rubric": "From 0 to 10, how kind?"} if service["model"] == "llm" else {}
    spec = json.dumps({**service, **rubric, "normalize": "moments.jsonl"})
    nested = json.dumps({"combine": "minimum", "of": [json.loads(spec), {"model": "rules", "repetition": {}}]})
    for one in (spec, nested):
        recipe = load("tiny.yaml", [f"stages.ppo.reward={one}"])
        assert list(rewards.problems(recipe.stages["ppo"], recipe.stages, pipeline.open_registry(recipe))) == []


def test_how_long_a_service_is_waited_for_makes_no_other_artifact(here: Path, stage: FakeStage) -> None:
    def reward(**options: Any) -> list[str]:
        service = json.dumps({"model": "http://127.0.0.1:9", **options})
        return [f"stages.ppo.reward={{combine: minimum, of: [{service}, {{model: rules, repetition: {{}}}}]}}"]

    variants: list[dict[str, Any]] = [{}, {"timeout": 5, "retries": 9}, {"key": "A"}]
    configs = [load("tiny.yaml", reward(**options)).stages["ppo"] for options in variants]
    of = [identity.stage_identity(one, {}, {}, {})["config"] for one in configs]
    assert of[0] == of[1] != of[2]
    own = [{"model": "mine:Reward", "timeout": seconds} for seconds in (1, 2)]
    assert rewards.without_transport(own) == own  # an option of somebody's own may mean anything


def test_a_reward_of_ones_own_is_pinned_with_all_of_its_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "pinned_reward").mkdir()
    (here / "pinned_reward" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    inner = here / "pinned_reward" / "inner.py"
    inner.write_text("x = 1\n")
    entry = EntryPoint("mine", "pinned_reward.inner:Brief", "align.reward_models")
    monkeypatch.setattr(reward_models, "plugins", lambda: {"mine": entry})
    installed = planning.pin_of("mine")
    before = identity.outside_digest("pinned_reward.inner:Brief")
    assert identity.outside_digest("pinned_reward:Brief") == before
    inner.write_text("x = 2 + 2\n")
    assert identity.outside_digest("pinned_reward:Brief") != before
    assert planning.pin_of("mine") != installed  # of a version that did not change, as one that is edited in place
    with pytest.raises(FileNotFoundError, match="there is no module 'brave'"):
        identity.outside_digest("brave:Brief")


def test_checkpoints_of_data_that_changed_are_not_gone_on_with_when_it_is_put_back(
    here: Path, stage: FakeStage
) -> None:
    rows = here / "rows.jsonl"
    before = rows.read_text()
    stage.fail = Interrupted(2, "interrupted")
    stage.at_work = lambda kind: kind == "ppo" and rows.write_text(before + before)
    with pytest.raises(Interrupted):
        align.run("tiny.yaml")
    rows.write_text(before)
    (kept,) = (here / "registry" / "workspaces").glob("ppo-*/checkpoints/step-1")
    (kept / "progress").touch()
    stage.at_work = lambda kind: None
    for _ in range(2):
        with pytest.raises(Interrupted):
            align.run("tiny.yaml")
        assert not (kept / "progress").exists()


def test_what_changes_before_a_stage_begins_stops_it_at_once(here: Path, stage: FakeStage) -> None:
    stage.at_work = lambda kind: (here / "rows.jsonl").unlink(missing_ok=True)
    with pytest.raises(UsageError, match=r"stages\.sft: data file rows\.jsonl does not exist.* this run was planned"):
        align.run("tiny.yaml", ["sft"])
    assert stage.ran == ["base"]


def test_a_directory_is_hashed_once_for_a_run(here: Path, stage: FakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    sha256 = files.sha256
    monkeypatch.setattr(files, "SETTLED_NANOSECONDS", -1)
    monkeypatch.setattr(files, "sha256", lambda path: [hashed.append(path.name), sha256(path)][1])
    (here / "other").mkdir()
    (here / "other" / "once.json").write_text("{}")
    align.run("tiny.yaml", ["sft"], overrides=["stages.sft.model=path:./other"])
    assert hashed.count("once.json") == 1


def test_threads_and_device_are_part_of_the_fingerprint(
    here: Path, stage: FakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    align.run("tiny.yaml", ["base"])
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert reasons(align.plan("tiny.yaml", ["base"])) == {"base": "threads changed: 1 -> 7"}


@pytest.mark.parametrize(
    ("driver", "torch", "visible", "platform", "machine", "device"),
    [
        (True, "2.13.0+cu130", None, "linux", "x86_64", "cuda"),
        (True, "2.13.0", "1", "linux", "x86_64", "cuda"),
        (True, "2.13.0", "", "linux", "x86_64", "cpu"),
        (True, "2.13.0", "-1", "linux", "x86_64", "cpu"),
        (True, "2.13.0+cpu", None, "linux", "x86_64", "cpu"),
        (False, "2.13.0", None, "linux", "x86_64", "cpu"),
        (False, "2.13.0", None, "darwin", "arm64", "mps"),
        (False, "2.2.2", None, "darwin", "x86_64", "cpu"),
    ],
)
def test_the_device_is_what_this_torch_can_use(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    driver: bool,
    torch: str,
    visible: str | None,
    platform: str,
    machine: str,
    device: str,
) -> None:
    if driver:
        (tmp_path / "version").touch()
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(identity, "NVIDIA", tmp_path / "version")
    monkeypatch.setattr(identity.metadata, "version", lambda package: torch)
    monkeypatch.setattr(identity.sys, "platform", platform)
    monkeypatch.setattr(identity.platform, "machine", lambda: machine)
    assert identity.device() == device


def test_every_library_that_trains_is_part_of_the_fingerprint() -> None:
    assert set(identity.machine()["libraries"]) >= {"torch", "transformers", "peft", "trl", "accelerate"}


def test_force_runs_again_and_what_follows_only_if_the_result_differs(here: Path, stage: FakeStage) -> None:
    align.run("tiny.yaml")
    plan = align.plan("tiny.yaml", force=["sft"])
    assert reasons(plan)["sft"] == "forced"
    assert reasons(plan)["ppo"] == "input sft will run again"
    stage.ran.clear()
    pipeline.run(plan)
    assert stage.ran == ["sft"]  # it came out the same
    stage.ran.clear()
    stage.salt = "a GPU that adds up in another order"
    artifacts = align.run("tiny.yaml", force=["sft"])
    assert stage.ran == ["sft", "ppo", "evaluate"]
    assert artifacts["ppo"].manifest.inputs["policy"].reference == "sft@v2"
    assert set(actions(align.plan("tiny.yaml")).values()) == {"cached"}


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(RuntimeError("out of memory"), 1), (AlignError("AUC too low"), 1), (VerificationError("bad bytes"), 3)],
)
def test_a_stage_that_fails_keeps_the_others_and_says_how_to_go_on(
    here: Path, stage: FakeStage, error: Exception, exit_code: int
) -> None:
    stage.fail = error
    with pytest.raises(AlignError, match="stage ppo failed: ") as failed:
        align.run("tiny.yaml")
    assert failed.value.exit_code == exit_code
    assert str(error) in str(failed.value)
    assert "Earlier artifacts are kept; run the same command again to resume" in str(failed.value)
    (log,) = (here / "registry" / "workspaces").glob("ppo-*/error.log")
    assert "Traceback" in log.read_text()
    plan = align.plan("tiny.yaml")
    assert actions(plan) == {**dict.fromkeys(ORDER, "cached"), "ppo": "resume", "evaluation": "run"}
    assert reasons(plan)["ppo"] == "checkpoint found"
    stage.fail = None
    assert align.run("tiny.yaml")["evaluation"].reference == "evaluation@v1"
    assert not list((here / "registry" / "workspaces").glob("ppo-*/checkpoints"))


def test_a_forced_stage_goes_on_when_forced_again(here: Path, stage: FakeStage) -> None:
    align.run("tiny.yaml")
    assert not list((here / "registry" / "workspaces").glob("*/checkpoints"))
    stage.fail = Interrupted(2, "interrupted")
    with pytest.raises(Interrupted):
        align.run("tiny.yaml", force=["ppo"])
    (kept,) = (here / "registry" / "workspaces").glob("ppo-*/checkpoints/step-1")
    (kept / "progress").touch()
    assert actions(align.plan("tiny.yaml"))["ppo"] == "cached"
    plan = align.plan("tiny.yaml", force=["ppo"])
    assert (actions(plan)["ppo"], reasons(plan)["ppo"]) == ("resume", "forced, and a checkpoint found")
    with pytest.raises(Interrupted):
        pipeline.run(plan)
    assert (kept / "progress").exists()
    stage.fail = None
    align.run("tiny.yaml", force=["ppo"])
    assert not kept.exists()
    assert reasons(align.plan("tiny.yaml", force=["ppo"]))["ppo"] == "forced"


def test_forced_at_first_a_stage_starts_anew(here: Path, stage: FakeStage) -> None:
    stage.fail = Interrupted(2, "interrupted")
    with pytest.raises(Interrupted):
        align.run("tiny.yaml")
    (kept,) = (here / "registry" / "workspaces").glob("ppo-*/checkpoints/step-1")
    (kept / "progress").touch()
    with pytest.raises(Interrupted):
        align.run("tiny.yaml", force=["ppo"])
    assert not (kept / "progress").exists()


def test_checkpoints_made_with_other_inputs_are_not_gone_on_with(
    here: Path, stage: FakeStage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fingerprint knows an input by how it is made; forced on another device, it may have other bytes."""
    stage.fail = Interrupted(2, "interrupted")
    with pytest.raises(Interrupted):
        align.run("tiny.yaml")
    (kept,) = (here / "registry" / "workspaces").glob("ppo-*/checkpoints/step-1")
    (kept / "progress").touch()
    with pytest.raises(Interrupted):
        align.run("tiny.yaml")
    assert (kept / "progress").exists()
    stage.salt = "a GPU that adds up in another order"
    monkeypatch.setattr(logging.getLogger("align"), "propagate", True)  # a command line may have run before
    with pytest.raises(Interrupted), caplog.at_level(logging.WARNING):
        align.run("tiny.yaml", force=["sft"])
    assert not (kept / "progress").exists()
    assert "ppo: its checkpoints were made with other inputs or data" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_end_of_a_stage_is_not_lost(here: Path, stage: FakeStage, number: signal.Signals) -> None:
    """It came while the stage measured or published; what is done is kept, and the next stage does not begin."""
    stage.at_work = lambda kind: kind == "sft" and os.kill(os.getpid(), number)
    with pytest.raises(Interrupted, match=f"interrupted by {number.name}; sft@v1 was published") as stopped:
        align.run("tiny.yaml")
    assert stopped.value.exit_code == 128 + number
    assert stage.ran == ["base", "sft"]
    assert actions(align.plan("tiny.yaml"))["sft"] == "cached"


def test_an_interruption_keeps_its_exit_code(here: Path, stage: FakeStage) -> None:
    stage.fail = Interrupted(15, "interrupted by SIGTERM; run the same command again to resume")
    with pytest.raises(Interrupted, match="SIGTERM") as stopped:
        align.run("tiny.yaml")
    assert stopped.value.exit_code == 143


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rows.jsonl", "rosw.jsonl", r"tiny.yaml:\d+: stages.sft.data.0: .*rosw.jsonl does not exist"),
        ("positive: nontoxic", "positive: polite", r"tiny.yaml:\d+: stages.toxicity.labels.positive: 'polite' is not"),
        ('{answer}"', '{anwser}"', "no column 'anwser'; did you mean 'answer'"),
        ("model: ./model", "model: ./modle", r"tiny.yaml:10: stages.base.model: there is no directory ./modle"),
        (
            "policy: sft",
            "policy: 'path:./nothing'",
            r"tiny.yaml:21: stages.ppo.policy: there is no directory ./nothing",
        ),
        ("policy: sft", "policy: 'registry:sft@v1'", r"stages.ppo.policy: the registry .* has no artifact named 'sft'"),
        ("reward: toxicity", "reward: 'no_such_module:X'", "stages.ppo.reward: there is no module 'no_such_module'"),
        (
            'prompts: [{dataset: rows, prompt: "{prompt}"}]}',
            'judge: {model: rules, length: {target: 2}}, prompts: [{dataset: rows, prompt: "{prompt}"}], '
            'evaluation_prompts: [{dataset: rows, prompt: "{prompt}"}]}',
            r"stages.ppo.evaluation_prompts.0: the judge chooses on \d+ prompts that evaluation measures on",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_runs(here: Path, stage: FakeStage, old: str, new: str, said: str) -> None:
    (here / "tiny.yaml").write_text(RECIPE.replace(old, new))
    with pytest.raises(UsageError, match=said):
        align.run("tiny.yaml")
    recipe = load("tiny.yaml")
    assert any(old_line for old_line in pipeline.check(recipe, pipeline.open_registry(recipe)))
    assert stage.ran == []
    assert not (here / "registry").exists()


ROUGE_2 = "{model: overlap, metric: rouge_2}"


@pytest.mark.parametrize(
    ("reward", "answer", "said"),
    [
        (ROUGE_2, "{answer} {answer}", ""),
        (
            ROUGE_2,
            "{answer}",
            r"ppo.prompts.0: 4 of 4 references .*: rouge_2 compares two words at a time, and 'aa' has",
        ),
        (
            "{combine: minimum, of: [overlap, {model: rules, repetition: {}}]}",
            "Привет, {answer}",
            "finds few in 'Привет, ",
        ),
        ("overlap", "Привет, {prompt}", r"4 of 4 references .* finds few in 'Привет, a'"),
    ],
)
def test_references_that_rouge_cannot_read_are_found_before_anything_runs(
    here: Path, stage: FakeStage, reward: str, answer: str, said: str
) -> None:
    prompts = f'[{{dataset: rows, prompt: "{{prompt}}", reference: "{answer}"}}]'
    overrides = [f"stages.ppo.reward={reward}", f"stages.ppo.prompts={prompts}"]
    recipe = load("tiny.yaml", overrides)
    problems = "\n".join(pipeline.check(recipe, pipeline.open_registry(recipe)))
    assert re.search(said, problems) if said else not problems
    with pytest.raises(UsageError, match=said) if said else nullcontext():
        align.run("tiny.yaml", overrides=overrides)
    assert ("ppo" in stage.ran) != bool(said)


def test_a_hub_model_that_cannot_be_had_is_refused_before_anything_runs(here: Path, stage: FakeStage) -> None:
    with pytest.raises(UsageError, match=r"hub:org/none@v1 could not be downloaded"):
        align.run("tiny.yaml", overrides=["stages.ppo.policy=hub:org/none@v1"])
    assert stage.ran == []


def test_an_empty_data_set_is_refused(here: Path, stage: FakeStage) -> None:
    (here / "rows.jsonl").write_text("")
    with pytest.raises(UsageError, match=r"stages.sft.data.0: rows.jsonl: none of 0 rows left"):
        align.run("tiny.yaml")
    assert stage.ran == []


def test_a_registry_that_is_a_file_is_refused(here: Path, stage: FakeStage) -> None:
    (here / "registry").write_text("")
    with pytest.raises(UsageError, match="is not a directory"):
        align.run("tiny.yaml")


def test_a_damaged_artifact_is_never_used(here: Path, stage: FakeStage) -> None:
    path = align.run("tiny.yaml", ["sft"])["sft"].path / "content.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace("17", "71"))
    with pytest.raises(VerificationError, match=r"sft@v1: files/content.json was changed"):
        align.run("tiny.yaml")
    assert align.run("tiny.yaml")["sft"].reference == "sft@v2"  # the damaged one lies in quarantine


def test_a_damaged_manifest_is_moved_aside_by_a_run_and_not_by_looking(here: Path, stage: FakeStage) -> None:
    manifest = align.run("tiny.yaml", ["sft"])["sft"].path.parent / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace("17", "71"))
    for _ in range(2):
        assert reasons(align.plan("tiny.yaml", ["sft"]))["sft"] == "the newest artifact is damaged"
        assert manifest.exists()
    with pytest.raises(VerificationError, match=r"sft@v1: manifest.json was changed.* moved to"):
        align.run("tiny.yaml", ["sft"])
    assert not manifest.exists()
    assert align.run("tiny.yaml", ["sft"])["sft"].reference == "sft@v2"


def test_a_data_set_can_be_the_samples_of_an_evaluation(here: Path, stage: FakeStage) -> None:
    first = '{dataset: rows, text: "{answer}", label: {column: label}}'
    second = '{dataset: {artifact: labels}, text: "{responses.sft}", label: {column: scores.sft.reward}}'
    labels = """\
  labels: {kind: evaluate, models: [sft], metrics: [rouge], data: [{dataset: rows, prompt: "{prompt}"}]}
"""
    (here / "tiny.yaml").write_text(RECIPE.replace(first, second) + labels)
    artifacts = align.run("tiny.yaml")
    dataset = stage.configs["reward"].data[0].dataset
    assert (dataset.artifact, Path(dataset.path)) == (None, artifacts["labels"].path.resolve() / "samples.jsonl")
    manifest = artifacts["toxicity"].manifest
    assert manifest.inputs["data.0.dataset.artifact"].digest == artifacts["labels"].digest
    assert manifest.config["data"][0]["dataset"]["artifact"] == "labels"
    stage.ran.clear()
    align.run("tiny.yaml", force=["labels"])
    assert stage.ran == ["evaluate"]  # which came out the same, so that what learns from it is up to date

    (here / "tiny.yaml").write_text(RECIPE.replace(first, second.replace("labels}", "sft}")))
    with pytest.raises(UsageError, match=r"toxicity.data.0.dataset.artifact: takes an evaluation, .* but 'sft' is of"):
        align.run("tiny.yaml")


def test_artifacts_and_directories_from_elsewhere(here: Path, stage: FakeStage, tiny_classifier: Path) -> None:
    sft = align.run("tiny.yaml", ["sft"])["sft"]
    taken = ["stages.ppo.policy=registry:sft@latest", f"stages.ppo.reward=path:{tiny_classifier}"]
    artifact = align.run("tiny.yaml", ["ppo"], overrides=taken)["ppo"]
    inputs = artifact.manifest.inputs
    assert inputs["policy"].digest == sft.digest
    assert inputs["reward"].reference == "path:tiny"
    assert artifact.manifest.config["reward"] == "path:tiny"
    given = json.loads((artifact.path / "content.json").read_text())["inputs"]
    files = sorted(path.name for path in tiny_classifier.iterdir())
    assert given == {"registry:sft@latest": ["content.json"], f"path:{tiny_classifier}": files}


def test_a_classifier_on_disk_is_loaded_before_anything_runs(here: Path, stage: FakeStage) -> None:
    with pytest.raises(UsageError, match=r"stages.ppo.reward: .*no sequence classifier can be loaded"):
        align.run("tiny.yaml", overrides=[f"stages.ppo.reward=path:{here}/model"])
    assert stage.ran == []


def test_paths_from_the_environment_stay_as_written(
    here: Path, stage: FakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGN_DATA", str(here))
    (here / "tiny.yaml").write_text(RECIPE.replace("path: rows.jsonl", 'path: "${env:ALIGN_DATA}/rows.jsonl"'))
    config = align.run("tiny.yaml", ["sft"])["sft"].manifest.config
    assert config["data"][0]["dataset"]["path"] == "${env:ALIGN_DATA}/rows.jsonl"


def test_what_is_no_path_is_itself_wherever_it_comes_from(
    here: Path, stage: FakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another value of the variable is another stage, and says nothing of a stage that has the same value by itself."""
    words = RECIPE.replace('completion: "', 'completion: "${env:ALIGN_TEST_WORDS}')
    assert words != RECIPE
    (here / "tiny.yaml").write_text(words)
    monkeypatch.setenv("ALIGN_TEST_WORDS", "so: ")
    align.run("tiny.yaml", ["sft"])
    assert actions(align.plan("tiny.yaml", ["sft"]))["sft"] == "cached"
    monkeypatch.setenv("ALIGN_TEST_WORDS", "thus: ")
    assert actions(align.plan("tiny.yaml", ["sft"]))["sft"] == "run"


def test_the_registry_is_where_it_was_said_to_be(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load("tiny.yaml", ["registry=from-recipe"])
    assert pipeline.open_registry().root == here / "registry"
    assert pipeline.open_registry(recipe).root == here / "from-recipe"
    monkeypatch.setenv("ALIGN_REGISTRY", str(here / "from-environment"))
    assert pipeline.open_registry(recipe).root == here / "from-environment"
    assert pipeline.open_registry(recipe, "given").root == here / "given"
    assert isinstance(pipeline.open_registry(recipe), Registry)


def _fingerprint(**train: Any) -> str:
    config = SftConfig.model_validate(
        {"kind": "sft", "model": "base", "train": train, "data": [_DATA], "after": train.pop("after", [])}
    )
    return identity.fingerprint(identity.stage_identity(config, {"model": "0" * 64}, {"data.0.dataset": "1"}, {}))


_DATA: Mapping[str, Any] = {"dataset": {"generator": "dialogues"}, "prompt": "{a}", "completion": "{b}"}


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.integers(1, 1000))
def test_fingerprints_are_equal_exactly_for_equal_configurations(rate: float, other: float, steps: int) -> None:
    assert _fingerprint(learning_rate=rate, max_steps=steps) == _fingerprint(max_steps=steps, learning_rate=rate)
    assert (_fingerprint(learning_rate=rate) == _fingerprint(learning_rate=other)) == (rate == other)
    assert _fingerprint() == _fingerprint(learning_rate=TrainConfig().learning_rate, after=["toxicity"])


def test_planning_imports_no_torch(here: Path) -> None:
    code = (
        "import sys, align; align.plan('tiny.yaml'); from align import pipeline\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'wandb'} & set(sys.modules); sys.exit(str(heavy or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.stderr.strip() == ""


def test_the_public_names() -> None:
    assert align.run is pipeline.run_recipe
    assert align.plan is pipeline.plan_recipe
    assert align.Registry is Registry
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        _ = align.rum  # type: ignore[attr-defined]


def test_what_a_run_takes_is_no_garbage(here: Path, stage: FakeStage) -> None:
    registry = Registry("registry")
    align.run("tiny.yaml")
    align.run("tiny.yaml", overrides=["seed=18"])
    older = {f"{name}@v1" for name in ORDER}
    assert {artifact.reference for artifact in collection.find(registry).artifacts} == older
    stage.at_work = lambda kind: collection.collect(registry)
    align.run("tiny.yaml", force=["ppo"])
    assert older <= {artifact.reference for artifact in registry.artifacts()}
    assert {artifact.reference for artifact in collection.find(registry).artifacts} == older


def test_what_a_run_has_made_is_no_garbage_when_another_makes_newer_ones(here: Path, stage: FakeStage) -> None:
    registry = Registry("registry")

    def rival(kind: str) -> None:
        if kind == "reward":
            stage.at_work = lambda kind: None
            align.run("tiny.yaml", overrides=["seed=18"])
            collection.collect(registry)

    stage.at_work = rival
    made = align.run("tiny.yaml")
    assert [made[name].version for name in ORDER] == ["v1", "v1", "v2", "v2", "v2"]
    assert all(node.problem is None for node in registry.lineage(made["evaluation"].reference).walk())


def test_a_full_disk_is_told_to_a_person(here: Path, stage: FakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the record of events nor the full story can be written, and the stage's library says something odd."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    align.run("tiny.yaml", ["sft", "toxicity"])
    stage.fail = RuntimeError("unexpected pos 5120 vs 5012")
    monkeypatch.setattr("align.tracking.events.EventLog.finish", full)
    write = Path.write_text
    monkeypatch.setattr(
        Path, "write_text", lambda path, *a, **k: (full if path.suffix == ".log" else write)(path, *a, **k)
    )
    monkeypatch.setattr("align.pipeline.running.LITTLE", 1 << 60)
    with pytest.raises(AlignError, match=r"(?s)unexpected pos.*the disk is full.*could not be written to .*No space"):
        align.run("tiny.yaml", ["ppo"])
    monkeypatch.setattr("align.tracking.events.EventLog.__init__", full)
    with pytest.raises(AlignError, match=r"stage ppo cannot be started in the registry .*No space left on device\."):
        align.run("tiny.yaml", ["ppo"])
