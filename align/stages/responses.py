"""The responses of an evaluation so far, kept in its workspace: what is slow in it, and all that a resumed one needs.

Everything measured of the responses is computed anew, and comes out the same.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from align import interrupt
from align.modeling.checkpoints import new_checkpoint, newest_complete_checkpoint
from align.modeling.generation import Drawn

FILE = "responses.json"
SECONDS_BETWEEN_CHECKPOINTS = 30.0


class Responses:
    """What each model has answered so far, by its name; read from the newest verified checkpoint."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._saved_at = time.monotonic()
        newest = newest_complete_checkpoint(directory, [FILE])
        found = json.loads((newest / FILE).read_text(encoding="utf-8")) if newest else {}
        self._drawn = {name: _from_json(saved) for name, saved in found.items()}

    def of(self, model: str) -> Drawn:
        """Where `sample` goes on for this model."""
        return self._drawn.setdefault(model, Drawn())

    def __len__(self) -> int:
        return sum(len(drawn.token_ids) for drawn in self._drawn.values())

    def keep(self, *, now: bool = False) -> None:
        """Write a checkpoint: `now`, or where the last is old.

        Raises:
            Interrupted: after a checkpoint, where a signal asked to end.
        """
        stop = interrupt.requested() is not None
        if stop or now or time.monotonic() - self._saved_at > SECONDS_BETWEEN_CHECKPOINTS:
            with new_checkpoint(self._directory, len(self), keep=2, needs=[FILE]) as checkpoint:
                content = {name: asdict(drawn) for name, drawn in self._drawn.items()}
                (checkpoint / FILE).write_text(json.dumps(content), encoding="utf-8")
            self._saved_at = time.monotonic()
        interrupt.raise_if_requested(f"a checkpoint of {len(self)} responses was saved")


def _from_json(saved: dict[str, object]) -> Drawn:
    drawn = Drawn(**saved)  # type: ignore[arg-type]
    return Drawn({int(place): ids for place, ids in drawn.token_ids.items()}, drawn.generator_state)
