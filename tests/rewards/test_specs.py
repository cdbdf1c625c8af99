"""What MODEL may be on a command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from align.cli import app
from align.errors import UsageError
from align.registry import Registry
from align.rewards import specs


@pytest.fixture
def registry(tmp_path: Path, tiny_classifier: Path) -> Registry:
    """Holds the classifier as `toxicity@v1`."""
    store = Registry(tmp_path / "registry")
    files = tmp_path / "files"
    shutil.copytree(tiny_classifier, files)
    about = {"inputs": {}, "config": {}, "metrics": {}, "environment": {}}
    store.publish(files, name="toxicity", kind="reward", fingerprint="f" * 64, **about)
    return store


def test_every_way_to_name_a_model_gives_the_same_scores(
    registry: Registry, tiny_classifier: Path, tmp_path: Path
) -> None:
    (tmp_path / "reward.yaml").write_text("model: toxicity\ntransform: log_odds\n", encoding="utf-8")
    (tmp_path / "name.yaml").write_text("registry:toxicity@v1\n", encoding="utf-8")
    ways = [
        "toxicity",
        "toxicity@v1",
        "toxicity@latest",
        "registry:toxicity",
        str(tiny_classifier),
        f"path:{tiny_classifier}",
        "{model: toxicity}",
        "{model: {model: toxicity}}",
        "{combine: weighted_sum, of: [toxicity, {model: 'registry:toxicity@v1'}], weights: [0.5, 0.5]}",
        str(tmp_path / "reward.yaml"),
        str(tmp_path / "name.yaml"),
    ]
    scores = {way: specs.load(way, registry).score(["p", "p"], ["w4 w5", "w9"]) for way in ways}
    for found in scores.values():
        assert found == pytest.approx(scores["toxicity"])
    assert specs.load("{model: rules, length: {target: 4}}", registry).score([""], ["1234"]) == [1.0]
    assert specs.load("rewards_for_tests:length", registry).score([""], ["1234"]) == [4.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("toxicty", "Did you mean 'toxicity'"),
        ("toxicity@v7", "has no 'v7'"),
        ("org/classifier", "written hub:org/classifier"),
        ("{model: ", "MODEL is not YAML"),
        ("{model: toxicity, label: rude}", "no label 'rude'; its labels are nontoxic, toxic"),
        ("missing.yaml", "missing.yaml: cannot be read"),
        ("no_such_module:reward", "cannot import no_such_module"),
        ("{}", "must hold a reward"),
        ("{model: 'rewards_for_tests:Polite', of: [toxicty]}", "unexpected keyword argument 'of'"),
        ("", "a reward model's name is empty"),
        ("..", "that directory holds no config.json"),
    ],
)
def test_what_is_no_model_is_said(registry: Registry, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        specs.load(text, registry)
    assert message in str(caught.value)


def test_an_empty_folder_does_not_hide_an_artifact(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "toxicity").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert specs.load("toxicity", registry).score([""], ["w4"])
    with pytest.raises(UsageError, match="that directory holds no config"):
        specs.load("./toxicity", registry)


@pytest.mark.parametrize("text", ["toxicity", "registry:toxicity@v1", "{combine: minimum, of: [toxicity]}"])
def test_a_damaged_artifact_is_refused_before_it_scores(registry: Registry, text: str) -> None:
    weights = registry.resolve("toxicity").path / "model.safetensors"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # as many bytes as before
    weights.write_bytes(content)
    command = ["reward", "score", text, "--registry", str(registry.root)]
    result = CliRunner().invoke(app, command, input="w4 w5\n")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "model.safetensors" in result.stderr


def test_what_is_available(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    information = tmp_path / "some_rewards-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: some-rewards\nVersion: 1.0\n")
    offered = "polite = rewards_for_tests:Polite\nrules = rewards_for_tests:length\n"
    (information / "entry_points.txt").write_text(f"[align.reward_models]\n{offered}")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {(one.name, one.source) for one in specs.available(registry)}
    assert {("rules", "built-in"), ("polite", "plugin"), ("toxicity@v1", "artifact")} <= found
    assert ("rules", "plugin") not in found  # what is built in is meant
    assert specs.load("polite", registry).name == "polite"
