"""The face that every tracker has, the one that forgets, and the one that tells several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Tracker(Protocol):
    """Takes note of what a stage measures. Never raises because a service is out of reach."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Note figures at a step; steps do not decrease within one process."""

    def table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[object]], step: int | None = None
    ) -> None:
        """Note a table of text and figures."""

    def summary(self, metrics: Mapping[str, object]) -> None:
        """Note the figures that the stage ends with."""

    def finish(self, exit_code: int = 0) -> None:
        """Close, saying how the stage ended."""


class NullTracker:
    """Takes note of nothing."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Forget the figures."""

    def table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[object]], step: int | None = None
    ) -> None:
        """Forget the table."""

    def summary(self, metrics: Mapping[str, object]) -> None:
        """Forget the figures."""

    def finish(self, exit_code: int = 0) -> None:
        """Nothing to close."""


class Several:
    """Tells every one of several trackers."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = tuple(trackers)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Note figures at a step."""
        for tracker in self.trackers:
            tracker.log(metrics, step)

    def table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[object]], step: int | None = None
    ) -> None:
        """Note a table."""
        for tracker in self.trackers:
            tracker.table(key, columns, rows, step)

    def summary(self, metrics: Mapping[str, object]) -> None:
        """Note the final figures."""
        for tracker in self.trackers:
            tracker.summary(metrics)

    def finish(self, exit_code: int = 0) -> None:
        """Close all."""
        for tracker in self.trackers:
            tracker.finish(exit_code)
