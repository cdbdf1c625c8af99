"""`align registry`."""

from __future__ import annotations

import errno
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from align.cli import registry
from align.errors import VerificationError
from align.registry import InputRecord, Registry, files

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


def test_a_lineage_shows_once_how_a_thing_was_made(finished: Path, run_align: Align) -> None:
    """`sft` is an input twice, and what it was made from is shown with the first."""
    store = Registry("registry")
    sft = store.resolve("sft")
    taken = InputRecord(reference=sft.reference, digest=sft.digest)
    store.publish(sft.path, name="ppo", kind="ppo", fingerprint="f" * 64, inputs={"policy": taken, "reward": taken}, config={}, metrics={}, environment={})  # fmt: skip  # noqa: E501
    first, second = re.findall(r"sft@v1.*", (text := run_align("registry", "lineage", "ppo").stdout))
    assert second == f"{first}, made as above"
    assert text.count("base@v1") == 1


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


def test_a_damaged_alias_is_a_problem_among_what_is_listed(finished: Path, run_align: Align) -> None:
    for reference in ("sft", "base"):
        run_align("registry", "tag", reference, "best")
    (finished / "registry" / "aliases" / "sft" / "best.json").write_text("x")
    result = run_align("registry", "ls")
    assert result.exit_code == 3
    assert "aliases/sft/best.json is damaged" in result.stderr
    rows = json.loads(run_align("registry", "ls", "--json").stdout)
    assert {row["name"]: row["aliases"] for row in rows} == {
        "base": ["best", "latest"],
        "evaluation": ["latest"],
        "sft": ["latest"],
    }


def test_where_there_is_no_registry_nothing_is_sound(finished: Path, run_align: Align) -> None:
    for command in (["verify"], ["gc"], ["gc", "--delete"]):
        result = run_align("registry", *command, "--registry", "nowhere")
        assert result.exit_code == 2
        assert f"there is no registry at {finished / 'nowhere'}" in result.stderr
    assert not (finished / "nowhere").exists()


def test_a_mirror_that_does_not_last_or_is_not_there(finished: Path, run_align: Align) -> None:
    for arguments, message in {
        ("push", "sft", ""): "a mirror's URL is empty",
        ("push", "sft", "memory://x"): "memory://x is gone when this command ends",
        ("pull", "sft", "nomir"): "there is no mirror at nomir",
    }.items():
        result = run_align("registry", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
    assert {path.name for path in finished.iterdir()} == {"model", "registry", "rows.jsonl", "tiny.yaml"}


def test_a_path_is_shown_as_it_is(finished: Path, run_align: Align) -> None:
    moved = (finished / "registry").rename(finished / "registry [bold]")
    assert f"{moved}/artifacts" in run_align("registry", "show", "sft", "--registry", str(moved)).stdout


def test_what_is_in_quarantine_is_said(finished: Path, run_align: Align) -> None:
    file = finished / "registry" / "artifacts" / "sft" / "v1" / "files" / "config.json"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().replace(b"sft", b"tfs"))
    store = Registry(finished / "registry")
    with pytest.raises(VerificationError):
        store.check(store.resolve("sft"))
    for command in (["lineage", "sft"], ["push", "sft", "mirror"]):
        result = run_align("registry", *command)
        assert result.exit_code == 2
        assert f"Damaged, and moved to {store.root / 'quarantine' / 'sft'}: v1." in result.stderr


def test_an_unknown_artifact_is_exit_code_2(finished: Path, run_align: Align) -> None:
    result = run_align("registry", "path", "stf")
    assert result.exit_code == 2
    assert "Did you mean 'sft'?" in result.stderr


def test_an_empty_registry_says_how_to_fill_it(here: Path, run_align: Align) -> None:
    assert "holds no artifacts yet" in run_align("registry", "ls", "--registry", "empty").stdout
    assert json.loads(run_align("registry", "ls", "--json").stdout) == []


def test_lineage_as_a_mermaid_flowchart(finished: Path, run_align: Align) -> None:
    lines = run_align("registry", "lineage", "sft", "--mermaid").stdout.splitlines()
    assert lines[0] == "flowchart LR"
    assert sorted(lines[1:]) == [
        "    n0 -->|model| n1",
        '    n0["base@v1<br/>base"]',
        '    n1["sft@v1<br/>sft"]',
    ]


def test_two_artifacts_are_compared(finished: Path, run_align: Align) -> None:
    shown = run_align("registry", "diff", "base", "sft").stdout
    assert "base@v1" in shown
    assert any(line.split() == ["config:", "kind", "base", "sft"] for line in shown.splitlines())
    found = json.loads(run_align("registry", "diff", "base", "sft", "--json").stdout)
    assert list(found) == ["config", "inputs", "data", "metrics", "environment", "files"]
    assert found["config"]["kind"] == ["base", "sft"]
    assert "do not differ" in run_align("registry", "diff", "sft@v1", "sft").stdout


def test_a_disk_that_fails_is_told_in_words(finished: Path, run_align: Align, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(directory: Path) -> float:
        raise OSError(errno.EROFS, "Read-only file system", str(directory))

    monkeypatch.setattr(files, "now", read_only)
    result = run_align("registry", "gc")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: Read-only file system ({finished / 'registry'})\n"
    assert "Traceback" in run_align("registry", "gc", "--debug").stderr


def test_garbage_is_removed_only_when_told_so(finished: Path, run_align: Align) -> None:
    assert run_align("run", "tiny.yaml", "--set", "stages.sft.seed=3").exit_code == 0
    assert "all 5 artifacts are needed" in run_align("registry", "gc", "--older-than", "1").stdout
    assert "not needed: sft@v1" in run_align("registry", "gc").stdout
    found = json.loads(run_align("registry", "gc", "--json").stdout)
    assert (found["deleted"], found["garbage"]) == (False, ["evaluation@v1", "sft@v1"])
    assert found["bytes"] > 0
    run_align("registry", "pin", "evaluation@v1")
    assert "(pinned)" in run_align("registry", "ls").stdout
    assert "all 5 artifacts are needed" in run_align("registry", "gc", "--yes").stdout
    run_align("registry", "unpin", "evaluation@v1")
    assert run_align("registry", "unpin", "evaluation@v1").exit_code == 2
    assert "removed: sft@v1" in run_align("registry", "gc", "--delete").stdout
    assert run_align("registry", "path", "sft@v1").exit_code == 2
    assert run_align("registry", "verify").exit_code == 0


def test_an_import_is_machine_readable(finished: Path, run_align: Align) -> None:
    assert "holds base@v1, sft@v1" in run_align("registry", "export", "sft", "sft.tar").stdout
    answer = json.loads(run_align("registry", "import", "sft.tar", "theirs", "--json").stdout)
    assert answer == {"reference": "theirs@v1", "artifacts": ["base@v1", "theirs@v1"]}
    Path("sft.tar").write_bytes(b"no archive")
    assert run_align("registry", "import", "sft.tar").exit_code == 2


def test_the_commands_of_the_guide(finished: Path, run_align: Align) -> None:
    text = (Path(__file__).parents[2] / "docs" / "registry.md").read_text(encoding="utf-8")
    commands = [
        shlex.split(line, comments=True)
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    named = {command.name or command.callback.__name__ for command in registry.app.registered_commands}  # type: ignore[union-attr]
    assert {command[2] for command in commands} == named
    for command in commands:
        result = run_align(*command[1:])
        assert result.exit_code == 0, (command, result.output)
    for place in ("theirs", "mine"):
        assert json.loads(run_align("registry", "verify", "--registry", place, "--json").stdout) == []
        assert len(json.loads(run_align("registry", "ls", "--registry", place, "--json").stdout)) == 3
