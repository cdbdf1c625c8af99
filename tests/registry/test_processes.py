"""Real processes: many that publish at once, and one that is killed at each of its file events."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from align.registry import Registry

PUBLISHER = Path(__file__).with_name("publisher.py")


@pytest.mark.parametrize(("writers", "versions"), [("distinct", 8), ("equal", 1)])
def test_eight_processes_publish_one_name(
    registry: Registry, source: Path, tmp_path: Path, writers: str, versions: int
):
    start = tmp_path / "start"
    commands = [
        [sys.executable, PUBLISHER, "together", registry.root, source, writers + str(i % versions), start]
        for i in range(8)
    ]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    assert all(process.stdout and process.stdout.readline() == "ready\n" for process in processes)
    start.touch()
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(set(answers)) == [f"sft@v{i + 1}" for i in range(versions)]
    assert registry.versions("sft") == [f"v{i + 1}" for i in range(versions)]
    assert registry.verify() == []
    assert list((registry.root / "staging").iterdir()) == []


def test_a_publisher_killed_at_any_file_event_leaves_a_sound_registry(tmp_path: Path):
    command = [sys.executable, PUBLISHER, "killed", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    *kills, completed = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) > 80
    assert {report["status"] for report in kills} == {9}
    assert completed["status"] == 0
    for report in [*kills, completed]:
        assert report["after_kill"] == []
        assert report["again"] == 0
        assert report["problems"] == []
        assert report["versions"] == ["v1"]
        assert report["files"] == ["config.json", "nested/weights.txt"]
