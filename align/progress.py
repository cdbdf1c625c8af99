"""How far long work has come: a bar with its ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LINE_EVERY_SECONDS = 10.0
LINE_EVERY_SHARE = 0.1


class Advance(Protocol):
    """What work calls as it advances."""

    def __call__(self, n: int = 1, **figures: float) -> None:
        """`n` more is done; `figures` are the latest worth showing."""


@contextmanager
def track(description: str, total: int, initial: int = 0, *, silent: bool = False) -> Iterator[Advance]:
    """Show work of `total` steps, `initial` of which were done before; yields what to call as it advances."""
    if silent:  # another process of the same run shows it
        yield lambda n=1, **figures: None
        return
    shown = _bar(description, total, initial) if sys.stderr.isatty() else _lines(description, total, initial)
    with shown as advance:
        yield advance


@contextmanager
def _bar(description: str, total: int, initial: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, completed=initial, figures="")

        def advance(n: int = 1, **figures: float) -> None:
            progress.advance(task, n)
            if figures:
                progress.update(task, figures=_formatted(figures))

        yield advance


@contextmanager
def _lines(description: str, total: int, initial: int) -> Iterator[Advance]:
    started = time.monotonic()
    done, done_at_line, time_of_line = initial, initial, started
    latest: dict[str, float] = {}

    def advance(n: int = 1, **figures: float) -> None:
        nonlocal done, done_at_line, time_of_line
        done += n
        latest.update(figures)
        now = time.monotonic()
        due = now - time_of_line >= LINE_EVERY_SECONDS or done - done_at_line >= LINE_EVERY_SHARE * total
        if due or done >= total:
            remaining = (now - started) / (done - initial) * max(total - done, 0) if done > initial else 0.0
            parts = [description, f"{done}/{total}", f"{100 * done // max(total, 1)} %", _formatted(latest)]
            parts.append(f"ETA {_clock(remaining)}" if done < total else f"took {_clock(now - started)}")
            print("  ".join(part for part in parts if part), file=sys.stderr, flush=True)
            done_at_line, time_of_line = done, now

    yield advance


def _formatted(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
