"""The directory in which one stage works: what it will publish, its checkpoints, its own log of events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Inputs = Mapping[str, Path]
"""What a stage is given: a reference as its configuration spells it -> the directory to load from."""

BASE = "base"
"""In the directory of an input that is an adapter alone: a link to the model that it was trained on."""


@dataclass(frozen=True)
class Interval:
    """A measured mean with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


Metrics = Mapping[str, float | Interval]
"""What a stage reports of itself, and its manifest keeps."""


@dataclass(frozen=True)
class Workspace:
    """Survives a kill: the same stage, run again, finds its checkpoints here."""

    path: Path

    @property
    def output(self) -> Path:
        """What will be published, once the stage is done."""
        return self.path / "output"

    @property
    def checkpoints(self) -> Path:
        """Where to resume from. Never published."""
        return self.path / "checkpoints"

    @property
    def events(self) -> Path:
        """Every logged metric, one JSON object a line. The registry's own record; W&B is a mirror."""
        return self.path / "events.jsonl"

    @property
    def begun(self) -> Path:
        """With which inputs the stage was begun: a JSON object whose `inputs` maps their places to digests."""
        return self.path / "begun.json"
