"""Checkpoints to resume from: complete and unchanged, or not used at all.

Libraries load a checkpoint that lacks a file or has a flipped bit without a word, and go on with other results. So
the last thing written into a checkpoint is a list of its files with their hashes, and nothing is resumed from without
checking it.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from align.errors import AlignError, UsageError
from align.registry import files

logger = logging.getLogger(__name__)

MARKER = "COMPLETE.json"


def mark_complete(checkpoint: Path, needs: Sequence[str] = ()) -> None:
    """Write sizes and hashes of all files of a checkpoint, once everything is safely on disk.

    Raises:
        AlignError: one of the files in `needs` was not written: what is resumed without it would end elsewhere.
    """
    names = _names(checkpoint)
    _refuse_without(needs, names, checkpoint)
    for name in names:
        files.fsync(checkpoint / name)
    files.fsync_directories(checkpoint)
    files.replace(checkpoint / MARKER, json.dumps({name: _measured(checkpoint / name) for name in names}, indent=1))
    files.fsync(checkpoint.parent)


@contextmanager
def new_checkpoint(directory: Path, step: int, keep: int, needs: Sequence[str] = ()) -> Iterator[Path]:
    """A directory to write the checkpoint of `step` into; put in its place when complete, and older ones removed.

    Raises:
        AlignError: one of the files in `needs` was not written.
    """
    final, partial = directory / f"checkpoint-{step}", directory / f"partial-checkpoint-{step}"
    replaced = directory / f"partial-checkpoint-{step}.old"
    for left_over in directory.glob("partial-checkpoint-*"):  # of a run that was killed, or had no room
        shutil.rmtree(left_over, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        mark_complete(partial, needs)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # its room may be what the next one lacks
        raise
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    files.fsync(directory)
    shutil.rmtree(replaced, ignore_errors=True)
    others = sorted((path for path in all_in(directory) if path != final), key=step_of, reverse=True)
    for old in others[keep - 1 :]:
        shutil.rmtree(old)


def newest_complete_checkpoint(directory: Path, needs: Sequence[str] = ()) -> Path | None:
    """The `checkpoint-<step>` of the highest step whose files are all there and unchanged.

    A newer one that is not is set aside as `damaged-checkpoint-<step>`, with a warning.

    Raises:
        AlignError: it was completed without one of the files in `needs`.
    """
    for checkpoint in sorted(all_in(directory), key=step_of, reverse=True):
        problem = _problem(checkpoint)
        if problem is None:
            _refuse_without(needs, _names(checkpoint), checkpoint)
            return checkpoint
        aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        logger.warning("%s cannot be resumed from (%s): set aside as %s", checkpoint.name, problem, aside.name)
    return None


def intact(checkpoint: Path, needs: Sequence[str] = ()) -> Path:
    """The checkpoint, if its files are all there and unchanged, those in `needs` among them.

    Raises:
        UsageError: it cannot be resumed from.
        AlignError: it was completed without one of the files in `needs`.
    """
    if problem := _problem(checkpoint):
        raise UsageError(f"{checkpoint} cannot be resumed from: {problem}")
    _refuse_without(needs, _names(checkpoint), checkpoint)
    return checkpoint


def step_of(checkpoint: Path) -> int:
    """The step in the name of a `checkpoint-<step>`."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def all_in(directory: Path | None) -> list[Path]:
    """Every `checkpoint-<step>`, complete or not, in no order."""
    if directory is None or not directory.is_dir():
        return []
    return [path for path in directory.iterdir() if path.is_dir() and re.fullmatch(r"checkpoint-\d+", path.name)]


def _problem(checkpoint: Path) -> str | None:
    if not checkpoint.is_dir():
        return "there is no such directory"
    try:
        expected = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "the run ended while it was being written"
    except ValueError:
        expected = None
    if not isinstance(expected, dict):
        return f"{MARKER} is damaged"
    for name, measure in expected.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if _measured(checkpoint / name) != measure:
            return f"{name} has changed"
    return None


def _refuse_without(needs: Sequence[str], names: Container[str], checkpoint: Path) -> None:
    if missing := [name for name in needs if name not in names]:
        raise AlignError(
            f"{checkpoint} lacks {', '.join(missing)}, without which resuming would give other results. "
            "Remove it to resume from the checkpoint before it, or to start over"
        )


def _names(checkpoint: Path) -> list[str]:
    return [name for name, _ in files.entries(checkpoint) if MARKER not in name]


def _measured(path: Path) -> dict[str, int | str]:
    return {"size": path.stat().st_size, "sha256": files.sha256(path)}
