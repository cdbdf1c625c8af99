"""SIGKILL in PPO, two thirds of the time while a checkpoint is being written; then resumed: bitwise the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed.py")


@pytest.mark.parametrize(("architecture", "kills"), [("llama", 9), ("t5-lora", 6)])
def test_killed_anywhere_and_resumed_is_the_same_as_never_killed(architecture: str, kills: int, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, tmp_path, architecture, str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(reports) == kills
    for report in reports:
        assert report["status"] == -9, report
        assert report["again"] == 0, done.stderr
        assert report["equal"], report
    assert any(report["partial"] for report in reports)
