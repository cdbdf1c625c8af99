"""Where a stage's metrics go: always into the workspace's own log, and to Weights & Biases where it is configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.configs.tracking import TrackingConfig, WandbConfig
from align.tracking.base import NullTracker, Several, Tracker
from align.tracking.events import EventLog
from align.tracking.wandb import Mode, WandbTracker
from align.workspace import Workspace

__all__ = ["EventLog", "NullTracker", "Several", "Tracker", "WandbTracker", "start"]


def start(
    config: TrackingConfig,
    *,
    group: str,
    stage: str,
    workspace: Workspace,
    stage_config: Mapping[str, Any],
    mode: Mode | None = None,
) -> Tracker:
    """Open the trackers of one stage.

    Args:
        config: The recipe's `tracking:`.
        group: What the stages of one pipeline run have in common.
        stage: The stage's name: the W&B run's name and job type.
        workspace: Keeps the event log and the W&B run id, so that a resumed stage goes on with both.
        stage_config: The resolved configuration, shown beside the run.
        mode: Overrides the recipe's W&B mode; anything but `disabled` also turns W&B on where the recipe lacks it.
    """
    log = EventLog(workspace.events)
    wandb = config.wandb or (WandbConfig() if mode is not None else None)
    mode = mode or (wandb.mode if wandb else None)
    if wandb is None or mode == "disabled":
        return log
    return Several([log, WandbTracker.start(wandb, mode, group, stage, workspace, stage_config)])
