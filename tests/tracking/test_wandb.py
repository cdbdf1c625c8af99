from __future__ import annotations

import logging
from pathlib import Path

import pytest

from align import tracking
from align.configs.tracking import TrackingConfig, WandbConfig
from align.tracking import EventLog, Several
from align.workspace import Interval, Workspace


def test_offline_run_is_written_under_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(tmp_path / "workspace")
    config = TrackingConfig(wandb=WandbConfig(mode="offline", tags=["test"]))
    tracker = tracking.start(config, group="run-1", stage="sft", workspace=workspace, stage_config={"seed": 3})
    tracker.log({"train/loss": 1.5}, step=10)
    tracker.table("samples", ["prompt", "score"], [["a", 0.5], ["b", None]], step=10)
    tracker.summary({"auc": Interval(0.9, 0.8, 0.95, 40), "rows": 12.0})
    tracker.finish()
    run_id = (workspace.path / "wandb_run_id").read_text()
    [directory] = (tmp_path / "wandb").glob("offline-run-*")
    recorded = (directory / f"run-{run_id}.wandb").read_bytes()
    for expected in (b"run-1", b"train/loss", b"samples", b"auc/low"):
        assert expected in recorded
    assert len(workspace.events.read_text().splitlines()) == 4


def test_mode_overrides_the_recipe(tmp_path: Path) -> None:
    config = TrackingConfig(wandb=WandbConfig(mode="online"))
    workspace = Workspace(tmp_path)
    tracker = tracking.start(config, group="g", stage="sft", workspace=workspace, stage_config={}, mode="disabled")
    assert isinstance(tracker, EventLog)
    without = tracking.start(TrackingConfig(), group="g", stage="sft", workspace=workspace, stage_config={})
    assert isinstance(without, EventLog)


def test_a_variable_that_the_recipe_overrides_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config = TrackingConfig(wandb=WandbConfig(mode="offline"))
    tracking.start(config, group="g", stage="s", workspace=Workspace(tmp_path), stage_config={}).finish()
    assert "WANDB_MODE=disabled has no effect: --wandb or tracking.wandb.mode says offline" in caplog.text


def test_a_failing_wandb_warns_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(*_: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("align.tracking.wandb._init", unreachable)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with caplog.at_level(logging.WARNING):
        tracker = tracking.start(
            TrackingConfig(), group="g", stage="s", workspace=Workspace(tmp_path), stage_config={}, mode="online"
        )
        assert isinstance(tracker, Several)
        tracker.log({"loss": 1.0}, step=1)
        tracker.table("t", ["a"], [["b"]])
        tracker.summary({"loss": 1.0})
        tracker.finish()
    assert [record.getMessage() for record in caplog.records] == [
        "W&B is not used from here on (ConnectionError: no route to host); the stage continues"
    ]


def test_a_run_that_breaks_later_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def log(self, *_: object, **__: object) -> None:
            raise OSError("disk full")

    tracker = tracking.WandbTracker(Broken())
    tracker.log({"loss": 1.0}, step=1)
    tracker.log({"loss": 1.0}, step=2)
    tracker.finish()
    assert len(caplog.records) == 1
