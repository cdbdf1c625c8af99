from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from align.errors import AlignError, UsageError
from align.modeling.checkpoints import (
    MARKER,
    intact,
    mark_complete,
    new_checkpoint,
    newest_complete_checkpoint,
    step_of,
)


def checkpoint(directory: Path, step: int) -> Path:
    path = directory / f"checkpoint-{step}"
    (path / "deep").mkdir(parents=True)
    (path / "weights").write_bytes(b"weights" * 100)
    (path / "deep" / "state.json").write_text("{}")
    mark_complete(path)
    return path


def test_newest_is_that_of_the_highest_step(tmp_path: Path) -> None:
    assert newest_complete_checkpoint(tmp_path / "none") is None
    for step in (20, 100, 9):
        checkpoint(tmp_path, step)
    newest = newest_complete_checkpoint(tmp_path)
    assert newest is not None
    assert step_of(newest) == 100
    assert set(json.loads((newest / MARKER).read_text())) == {"weights", "deep/state.json"}


def test_what_was_not_completed_takes_no_room(tmp_path: Path) -> None:
    (tmp_path / "partial-checkpoint-7").mkdir()  # of a run that was killed
    with new_checkpoint(tmp_path, 10, keep=2) as path:
        (path / "weights").touch()
    with pytest.raises(OSError, match="No space left"), new_checkpoint(tmp_path, 20, keep=2):
        raise OSError(28, "No space left on device")
    with new_checkpoint(tmp_path, 10, keep=2) as path:
        (path / "weights").write_text("again")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    assert (tmp_path / "checkpoint-10" / "weights").read_text() == "again"
    with pytest.raises(UsageError, match="there is no such directory"):
        intact(tmp_path / "checkpoint-99")


def flip(path: Path) -> None:
    content = bytearray((path / "weights").read_bytes())
    content[10] ^= 1
    (path / "weights").write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "the run ended while it was being written": lambda path: (path / MARKER).unlink(),
    "weights has changed": flip,
    "deep/state.json is missing": lambda path: (path / "deep" / "state.json").unlink(),
    "COMPLETE.json is damaged": lambda path: (path / MARKER).write_text("{"),
}


@pytest.mark.parametrize("content", ["", "[]", "[1]", "3", "\x80"])
def test_a_marker_of_another_kind_is_damaged(tmp_path: Path, content: str) -> None:
    (checkpoint(tmp_path, 1) / MARKER).write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match=r"checkpoint-1 cannot be resumed from: COMPLETE.json is damaged"):
        intact(tmp_path / "checkpoint-1")


@pytest.mark.parametrize("reason", DAMAGES)
def test_damaged_one_is_set_aside(reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    older = checkpoint(tmp_path, 1)
    for _ in range(2):  # also where one of that name was set aside before
        DAMAGES[reason](checkpoint(tmp_path, 2))
        with caplog.at_level(logging.WARNING):
            assert newest_complete_checkpoint(tmp_path) == older
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "damaged-checkpoint-2"]
    assert f"checkpoint-2 cannot be resumed from ({reason})" in caplog.text


def test_what_lacks_state_is_neither_completed_nor_resumed_from(tmp_path: Path) -> None:
    """As a trainer leaves it that was told not to save its optimizer: it would go on, silently, to other results."""
    checkpoint(tmp_path, 1)
    with pytest.raises(AlignError, match=r"checkpoint-1 lacks optimizer.pt, without which .* Remove it to resume"):
        newest_complete_checkpoint(tmp_path, ["weights", "optimizer.pt"])
    with pytest.raises(AlignError, match="lacks optimizer"):
        intact(tmp_path / "checkpoint-1", ["optimizer.pt"])
    with pytest.raises(AlignError, match="lacks optimizer"), new_checkpoint(tmp_path, 2, 1, ["optimizer.pt"]):
        pass
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(AlignError, match="lacks optimizer"):
        mark_complete(tmp_path / "checkpoint-3", ["optimizer.pt"])
    assert newest_complete_checkpoint(tmp_path, ["weights"]) == tmp_path / "checkpoint-1"
