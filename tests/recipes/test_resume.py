"""A whole pipeline, stopped and killed in every stage: what it leaves is sound, and it ends where it would have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SOAK = HERE.parents[1] / "benchmarks" / "soak.py"


Reports = dict[str, list[dict[str, Any]]]

together = pytest.mark.xdist_group("resume")  # so that the chains run once


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """What `stopped.py` reports of each chain of runs, and of the run that was never stopped."""
    root = tmp_path_factory.mktemp("chains")
    command = [sys.executable, HERE / "stopped.py", SOAK, root, "SIGINT", "SIGTERM", "SIGKILL", "TWICE"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr
    reports: Reports = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):  # libraries may have something to say as they are imported
            report = json.loads(line)
            reports.setdefault(report["chain"], []).append(report)
    return reports


@together
@pytest.mark.parametrize(("signals", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)])
def test_every_stage_goes_on_after_a_signal_to_the_same_artifacts(signals: str, code: int, reports: Reports) -> None:
    *stopped, end = reports[signals]
    assert [report["stage"] for report in stopped] == ["base", "sft", "toxicity", "ppo", "evaluation"]
    for report in stopped:
        said = report["said"]
        assert report["status"] == code, said
        assert report["problems"] == []
        assert "Traceback" not in said
        if code > 0:
            assert report["checkpoints"], report["stage"]
            assert f"interrupted by {signals}; a checkpoint of" in said
            assert said.splitlines()[-1].startswith("  align run quickstart --wandb disabled --set ")
    for before, after in zip(stopped, [*stopped[1:], end], strict=True):
        assert code < 0 or f"{before['stage']}: resume (checkpoint found)" in after["said"]
    assert end["status"] == 0
    assert end["digests"] == reports["whole"][0]["digests"]


@together
def test_two_runs_at_once_make_each_artifact_once(reports: Reports) -> None:
    (both,) = reports["TWICE"]
    assert both["status"] == [0, 0], both["said"]
    assert both["digests"] == reports["whole"][0]["digests"]
    assert both["problems"] == []
    assert "another run is working on the same stage; waiting for it" in both["said"]


def test_killed_at_six_moments_the_registry_is_sound_and_the_rerun_gives_equal_artifacts(tmp_path: Path) -> None:
    """The short form of `make soak`: always the same moments, counted in file events."""
    command = [sys.executable, SOAK, "--kills", "6", "--at", "events", "--result", tmp_path / "result.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert result["killed_before_their_end"] == 6
    assert result["registry_verified_clean_after_the_kill"] == 6
    assert result["rerun_ended_with_equal_artifacts"] == 6
    assert result["resumed_from_a_checkpoint"] >= 2
