"""Somebody's code in this process: what it prints, and the settings of torch that it must not leave changed.

A module that says `torch.set_grad_enabled(False)` or `torch.set_default_dtype(torch.bfloat16)` when it is imported, as
scripts do that only ever score, would otherwise say so to whatever trains in the same process. And what it prints would
stand among the JSON that a command prints.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)


class _Setting(NamedTuple):
    name: str
    read: Callable[[Any], Any]
    """Its value, of the module torch."""
    write: Callable[[Any, Any], object]
    at_first: Callable[[Any], Any]
    """What it is where torch was just imported."""


_OF_THREAD = (
    _Setting(
        "grad mode",
        lambda torch: torch.is_grad_enabled(),
        lambda torch, value: torch.set_grad_enabled(value),
        lambda torch: True,
    ),
    _Setting(
        "default device",
        lambda torch: torch.get_default_device(),
        lambda torch, value: torch.set_default_device(None if value.type == "cpu" else value),
        lambda torch: torch.device("cpu"),
    ),
    _Setting(
        "number of threads",
        lambda torch: torch.get_num_threads(),
        lambda torch, value: torch.set_num_threads(value),
        lambda torch: torch.get_num_threads(),  # as the machine and the environment have it
    ),
)
_OF_PROCESS = (
    _Setting(
        "default dtype",
        lambda torch: torch.get_default_dtype(),
        lambda torch, value: torch.set_default_dtype(value),
        lambda torch: torch.float32,
    ),
    _Setting(
        "precision of float32 products",
        lambda torch: torch.get_float32_matmul_precision(),
        lambda torch, value: torch.set_float32_matmul_precision(value),
        lambda torch: "highest",
    ),
    _Setting(
        "use of deterministic algorithms",
        lambda torch: torch.are_deterministic_algorithms_enabled(),
        lambda torch, value: torch.use_deterministic_algorithms(value),
        lambda torch: False,
    ),
)

_lock = threading.Lock()
_inside = 0
"""Calls of rewards at work in this process: one within another, or of several threads."""
_outside: tuple[Any, list[Any] | None] = (None, None)
"""Standard output and the settings of the process, as they were before the first of them."""


@contextmanager
def contained(whose: str) -> Iterator[None]:
    """Around the code of `whose`: what it prints goes to standard error, and settings of torch that it changes are put
    back, with a warning. Does not import torch."""
    global _inside, _outside
    of_thread = _read(_OF_THREAD)
    with _lock:
        if _inside == 0:
            _outside = sys.stdout, _read(_OF_PROCESS)
            sys.stdout = sys.stderr
        _inside += 1
    try:
        yield
    finally:
        _put_back(_OF_THREAD, of_thread, whose)
        with _lock:
            _put_back(_OF_PROCESS, _outside[1], whose)
            _inside -= 1
            if _inside == 0:
                sys.stdout = _outside[0]


def _read(settings: Sequence[_Setting]) -> list[Any] | None:
    torch = sys.modules.get("torch")
    return [one.read(torch) for one in settings] if torch else None


def _put_back(settings: Sequence[_Setting], values: list[Any] | None, whose: str) -> None:
    if (torch := sys.modules.get("torch")) is None:
        return
    for setting, value in zip(settings, values or [one.at_first(torch) for one in settings], strict=True):
        if setting.read(torch) != value:
            setting.write(torch, value)
            _warn(whose, setting.name)


@cache
def _warn(whose: str, setting: str) -> None:
    """Once: some do it in every call."""
    logger.warning("%s changes torch's %s for the whole process, which is put back each time", whose, setting)
