"""The registry's own record of a stage: one JSON object a line, appended as things happen.

A resumed stage logs the steps after its last checkpoint a second time; the later line of a step is the valid one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path


class EventLog:
    """Appends to a JSONL file. Every line bears `time` (UTC), `event` and what belongs to it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append figures at a step."""
        self._append("metrics", step=step, metrics=dict(metrics))

    def table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[object]], step: int | None = None
    ) -> None:
        """Append a table."""
        self._append("table", key=key, step=step, columns=list(columns), rows=[list(row) for row in rows])

    def summary(self, metrics: Mapping[str, object]) -> None:
        """Append the final figures."""
        self._append("summary", metrics=dict(metrics))

    def finish(self, exit_code: int = 0) -> None:
        """Append how the stage ended, and close."""
        if not self._file.closed:
            self._append("finish", exit_code=exit_code)
            self._file.close()

    def _append(self, event: str, **content: object) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **content}
        self._file.write(json.dumps(line, ensure_ascii=False, default=_plain) + "\n")
        self._file.flush()


def _plain(value: object) -> object:
    """What JSON does not know: intervals as mappings, zero-dimensional arrays and tensors as numbers."""
    if hasattr(value, "__dataclass_fields__"):
        return vars(value)
    if hasattr(value, "item"):
        return value.item()
    return str(value)


def _drop_torn_line(path: Path) -> None:
    """A process killed while writing leaves half a line, onto which the next would be glued."""
    if path.exists():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            path.write_bytes(content[: content.rfind(b"\n") + 1])
