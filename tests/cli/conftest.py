"""A finished run of small fake stages, for the commands that look at one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

import align
from align import stages
from align.cli import app
from align.configs import StageConfig
from align.tracking import Tracker
from align.workspace import Inputs, Metrics, Workspace

RECIPE = """\
name: tiny
description: Two stages and an evaluation.
datasets: {rows: {path: rows.jsonl}}
stages:
  base: {kind: base, model: ./model}
  sft: {kind: sft, model: base, data: [{dataset: rows, prompt: "{prompt}", completion: "{answer}"}]}
  evaluation:
    kind: evaluate
    models: [base, sft]
    baseline: base
    samples: 1
    judge: {rule: rude_wording}
    data: [{dataset: rows, prompt: "{prompt}"}]
"""

Align = Callable[..., Result]


def _run(config: StageConfig, inputs: Inputs, workspace: Workspace, tracker: Tracker) -> Metrics:
    if config.kind != "evaluate":
        (workspace.output / "config.json").write_text(json.dumps({"kind": config.kind}), encoding="utf-8")
        return {}
    toxicity = {"base": (0.36, 0.31, 0.41), "sft": (0.01, 0.0, 0.02)}
    models = {
        name: {
            "rouge_l": {"value": 0.4, "low": 0.35, "high": 0.45, "n": 400},
            "toxicity": {"value": value, "low": low, "high": high, "n": 400},
        }
        for name, (value, low, high) in toxicity.items()
    }
    models["sft"]["kl"] = {"value": 1.2, "low": 1.0, "high": 1.4, "n": 400}
    (workspace.output / "metrics.json").write_text(json.dumps({"models": models}), encoding="utf-8")
    sample = {
        "prompt": "Summarize [b]this[/b]",
        "reference": None,
        "responses": {"base": "bad", "sft": "good"},
        "scores": {"base": {"toxicity": 1.0}, "sft": {"toxicity": 0.0}},
    }
    (workspace.output / "samples.jsonl").write_text(f"{json.dumps(sample)}\n" * 3, encoding="utf-8")
    return {}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a recipe that may be run."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n', encoding="utf-8")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALIGN_REGISTRY", raising=False)
    monkeypatch.setattr(stages, "load", lambda kind: SimpleNamespace(run=_run))
    return tmp_path


@pytest.fixture
def finished(here: Path) -> Path:
    """The same directory after `align run tiny.yaml`."""
    align.run("tiny.yaml")
    return here


@pytest.fixture
def run_align() -> Align:
    """Run a command line in this process."""

    def run_align(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return run_align
