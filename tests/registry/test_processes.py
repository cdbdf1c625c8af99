"""Real processes: many that publish at once, and one that is killed at each of its file events."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align.registry import Registry

PUBLISHER = Path(__file__).with_name("publisher.py")


@pytest.mark.parametrize("locks", ["real", "none"])
@pytest.mark.parametrize(("writers", "versions"), [("distinct", 32), ("equal", 1)])
def test_32_processes_publish_one_name(registry: Registry, source: Path, writers: str, versions: int, locks: str):
    command = [sys.executable, PUBLISHER, "together", registry.root, source, "32", str(versions), locks]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.split()
    assert len(answers) == 32
    assert set(answers) == {f"sft@v{number + 1}" for number in range(versions)}
    assert registry.versions("sft") == [f"v{number + 1}" for number in range(versions)]
    assert registry.resolve("sft@best").reference in answers
    assert registry.verify() == []
    assert list((registry.root / "staging").iterdir()) == []


WORK = {
    "publish": {"sft@v1": ["config.json", "nested/weights.txt"]},
    "gc": {"base@v2": ["config.json"], "sft@v2": ["config.json"]},
    "import": {"base@v2": ["config.json"], "sft@v2": ["config.json"]},
}
"""What is done, and what stands in the registry in the end."""


@pytest.mark.parametrize("work", WORK)
def test_killed_at_any_file_event_the_registry_is_sound(tmp_path: Path, work: str):
    command = [sys.executable, PUBLISHER, "killed", work, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    *kills, completed = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) > 50
    assert {report["status"] for report in kills} == {9}
    assert completed["status"] == 0
    for report in [*kills, completed]:
        assert report["after_kill"] == []
        assert report["again"] == 0
        assert report["problems"] == []
        assert report["files"] == WORK[work]


def _attempts(fault: str, source: Path, disk: Path, *more: str) -> list[dict[str, Any]]:
    """What `publisher.py failing` reports, in a mount namespace of its own if it needs one."""
    disk.mkdir()
    namespace = [] if fault == "EFBIG" else ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    mounting = ["mount", "-t", "tmpfs", "tmpfs", disk]
    if namespace:
        try:
            refused = subprocess.run([*namespace, *mounting], capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no `unshare` here, to mount a small file system with")
        if refused.returncode:
            pytest.skip(f"a file system cannot be mounted in a namespace here: {refused.stderr.strip()}")
    command = [*namespace, sys.executable, PUBLISHER, "failing", fault, source, disk, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("moved", [(), ("moved",)])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [("ENOSPC", "No space left on device"), ("inodes", "No space left on device"), ("EFBIG", "File too large")],
)
def test_wherever_the_file_system_fails_what_was_there_is_unchanged(
    source: Path, tmp_path: Path, fault: str, reason: str, moved: tuple[str, ...]
):
    (source / "large.txt").write_text("x" * 20_000)
    *failed, succeeded = _attempts(fault, source, tmp_path / "disk", *moved)
    assert len(failed) > 1
    names = sorted(path.name for path in source.rglob("*") if path.is_file())
    for report in failed:
        assert (
            report["error"].startswith("could not publish 'sft' in the registry")
            or "cannot be written" in report["error"]
        )
        assert reason in report["error"]
        assert report == {
            "problems": [],
            "versions": ["v1"],
            "best": "v1",
            "staging": 0,
            "error": report["error"],
            "source": names,
        }
    left = [] if moved else names
    assert succeeded == {
        "problems": [],
        "versions": ["v1", "v2"],
        "best": "v1",
        "staging": 0,
        "error": "",
        "source": left,
    }


def test_a_read_only_file_system_can_be_read_and_says_so_when_written(source: Path, tmp_path: Path):
    published, others = _attempts("EROFS", source, tmp_path / "disk")
    assert "Read-only file system" in published.pop("error")
    assert (published["problems"], published["versions"], published["best"]) == ([], ["v1"], "v1")
    assert others.keys() == {"tag", "pin", "workspace", "export", "gc", "begin"}
    for said in others.values():
        assert "Read-only file system" in said
