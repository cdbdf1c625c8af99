"""docs/reward_evaluation.md: its commands are run, on files like those that it describes."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from align.cli import app
from align.registry import Registry
from align.rewards import serving

GUIDE = (Path(__file__).parents[2] / "docs" / "reward_evaluation.md").read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_classifier: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALIGN_REGISTRY", raising=False)
    monkeypatch.delenv("ALIGN_REWARD_TOKEN", raising=False)
    rows = [
        {"text": f"women w{4 + n % 40} " * (n % 5 + 1), "label": ("toxic", "nontoxic")[n % 2], "subgroup": group}
        for n in range(60)
        for group in ("none", "women")
    ]
    with (tmp_path / "comments.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    pairs = [{"chosen": f"w{4 + n}", "rejected": f"w{5 + n} w{6 + n}"} for n in range(12)]
    for name, made in (("pairs", pairs), ("rows", [{"prompt": "w4", "response": "w5 w6"}])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    shutil.copytree(tiny_classifier, tmp_path / "files")
    about = {"inputs": {}, "config": {}, "metrics": {}, "environment": {}}
    Registry("registry").publish(tmp_path / "files", name="toxicity", kind="reward", fingerprint="f" * 64, **about)
    return tmp_path


def test_the_commands_do_what_the_guide_says(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(serving, "serve", lambda model, **options: served.append((model.name, options)))
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    assert [command[1] for command in commands] == [
        "ls", "check", "check", "evaluate", "evaluate", "evaluate", "compare", "score", "serve"
    ]  # fmt: skip
    said = {}
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (command, result.output)
        said[command[1]] = result.stdout
    assert "pair accuracy" in said["evaluate"]
    assert json.loads(said["score"])["response"] == "w5 w6"
    assert {path.name for path in (here / "evaluation").iterdir()} == {
        "metrics.json", "scores.jsonl", "reliability.png", "reliability.svg"
    }  # fmt: skip
    assert served == [("toxicity", {"host": "127.0.0.1", "port": 8123, "token": None})]


def test_the_limits_are_those_of_the_server() -> None:
    limits = serving.Limits()
    sentence = (
        f"{limits.body_bytes >> 20} MiB and {limits.items:,} items, and {limits.seconds_to_send:g} seconds to arrive"
    )
    assert sentence in " ".join(GUIDE.split())
    assert f"{limits.waiting:,} items are already waiting" in " ".join(GUIDE.split())
    assert f"beyond {limits.connections} connections" in " ".join(GUIDE.split())
