"""Ctrl-C and SIGTERM end a stage after a checkpoint instead of in the middle of a step.

The first signal only sets a flag, which a stage looks at when a step is done; the second leaves at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from align.errors import Interrupted

_received: int | None = None
_guarded_process: int | None = None
_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def guarded() -> Iterator[None]:
    """Within, SIGINT and SIGTERM are noted rather than obeyed; the previous handlers come back afterwards.

    Only the main thread may set handlers: in any other this does nothing.
    """
    global _received, _guarded_process
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received, _guarded_process = None, os.getpid()
    previous = {number: signal.signal(number, _note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _received = None


@contextmanager
def terminable() -> Iterator[None]:
    """Within, SIGTERM ends what is going on in order, as Ctrl-C does, by raising `Interrupted`.

    Only the main thread may set handlers: in any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    except _Terminated as error:
        raise Interrupted(signal.SIGTERM, "interrupted by SIGTERM. Run the same command again to resume.") from error
    finally:
        signal.signal(signal.SIGTERM, previous)


def leave_at_once_if_repeated() -> None:
    """From here on Ctrl-C ends the process without a word: it is leaving, and a traceback out of the interpreter's own
    shutdown helps nobody."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))


def requested() -> int | None:
    """The number of the signal that asks the stage to end, if one came."""
    return _received


def take_over(number: int) -> None:
    """Stop as if this process had received the signal that another one of the run has."""
    global _received
    _received = _received or number


def raise_if_requested(state: str = "the last checkpoint is kept") -> None:
    """End the stage if a signal came. To be called where everything worth keeping is on disk.

    Raises:
        Interrupted: with the signal's exit code; `state` says what was kept.
    """
    if _received is not None:
        name = signal.Signals(_received).name
        raise Interrupted(_received, f"interrupted by {name}; {state}. Run the same command again to resume.")


def _note(number: int, frame: FrameType | None) -> None:
    global _received
    if os.getpid() != _guarded_process:  # A worker that loads data: the terminal's Ctrl-C reaches it as well.
        if number == signal.SIGTERM:
            os._exit(128 + number)
        return
    if _received is not None:
        _say(b"\nquit now; run the same command to resume from the last checkpoint\n")
        os._exit(128 + number)
    _received = number
    _say(b"\nfinishing this step and saving a checkpoint (press Ctrl-C again to quit now)\n")


def _say(message: bytes) -> None:
    """Not print(): the signal may have arrived in the middle of another write to the same buffer."""
    with suppress(OSError):
        # A progress bar hides the terminal's cursor, and does not get to show it again where a process leaves at once.
        os.write(2, (_SHOW_CURSOR if os.isatty(2) else b"") + message)


class _Terminated(KeyboardInterrupt):
    """SIGTERM within somebody's code, such as a reward model's, that catches every `Exception`."""


def _end(number: int, frame: FrameType | None) -> None:
    raise _Terminated
