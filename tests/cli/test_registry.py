"""`align registry`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Align = Callable[..., Result]


def test_artifacts_are_listed_shown_and_found(finished: Path, run_align: Align) -> None:
    assert "sft@v1" in run_align("registry", "ls").stdout
    rows = json.loads(run_align("registry", "ls", "--json").stdout)
    assert [(row["name"], row["version"], row["aliases"]) for row in rows] == [
        (name, "v1", ["latest"]) for name in ("base", "evaluation", "sft")
    ]
    shown = run_align("registry", "show", "sft").stdout
    assert "config.json" in shown
    assert json.loads(run_align("registry", "show", "sft", "--json").stdout)["config"]["model"] == "base"
    path = run_align("registry", "path", "sft@latest").stdout.strip()
    assert path == str(finished / "registry" / "artifacts" / "sft" / "v1" / "files")
    assert json.loads(run_align("registry", "path", "sft", "--json").stdout)["path"] == path


def test_lineage_is_a_tree(finished: Path, run_align: Align) -> None:
    lines = run_align("registry", "lineage", "evaluation").stdout.splitlines()
    assert lines[0].startswith("evaluation@v1 (evaluate)")
    assert [line.split()[1:4] for line in lines[1:]] == [
        ["models.0:", "base@v1", "(base)"],
        ["models.1:", "sft@v1", "(sft)"],
        ["└──", "model:", "base@v1"],
        ["baseline:", "base@v1", "(base)"],
    ]
    tree = json.loads(run_align("registry", "lineage", "evaluation", "--json").stdout)
    assert tree["inputs"]["models.1"]["inputs"]["model"]["reference"] == "base@v1"


def test_a_tag_is_a_reference(finished: Path, run_align: Align) -> None:
    assert run_align("registry", "tag", "sft@v1", "best").exit_code == 0
    assert run_align("registry", "path", "sft@best").exit_code == 0
    assert run_align("registry", "tag", "sft@v1", "latest").exit_code == 2


def test_verify_finds_what_was_changed(finished: Path, run_align: Align) -> None:
    assert "all 3 artifacts: as published" in run_align("registry", "verify").stdout
    assert json.loads(run_align("registry", "verify", "--json").stdout) == []
    file = finished / "registry" / "artifacts" / "sft" / "v1" / "files" / "config.json"
    file.chmod(0o644)
    file.write_text("{}")
    for arguments in ((), ("sft",)):
        result = run_align("registry", "verify", *arguments)
        assert result.exit_code == 3
        assert "sft@v1: files/config.json" in result.stderr
    assert run_align("registry", "verify", "base").exit_code == 0
    result = run_align("registry", "verify", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)[0]["reference"] == "sft@v1"


def test_an_unknown_artifact_is_exit_code_2(finished: Path, run_align: Align) -> None:
    result = run_align("registry", "path", "stf")
    assert result.exit_code == 2
    assert "Did you mean 'sft'?" in result.stderr


def test_an_empty_registry_says_how_to_fill_it(here: Path, run_align: Align) -> None:
    assert "holds no artifact yet" in run_align("registry", "ls", "--registry", "empty").stdout
    assert json.loads(run_align("registry", "ls", "--json").stdout) == []
