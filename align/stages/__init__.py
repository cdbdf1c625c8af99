"""The kinds of stage: one file each, that reads from top to bottom."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from align.configs import StageConfig
from align.tracking import Tracker
from align.workspace import Inputs, Metrics, Workspace

FILES = {
    "base": "base_model",
    "pretrain": "pretrain",
    "sft": "sft",
    "reward": "reward",
    "ppo": "ppo",
    "evaluate": "evaluate",
}
"""Where each kind of stage is written."""


class Stage(Protocol):
    """What the module of a stage offers."""

    def run(self, config: StageConfig, inputs: Inputs, workspace: Workspace, tracker: Tracker) -> Metrics:
        """Do the work, leave in `workspace.output` what is to be published, and say what was measured."""


def load(kind: str) -> Stage:
    """The module of a kind of stage. This is what imports torch.

    Raises:
        KeyError: for a kind that does not exist; recipes are checked for that before.
    """
    return cast(Stage, import_module(f"align.stages.{FILES[kind]}"))
