"""Rewards, good ones and broken ones, that tests name as `rewards_for_tests:name`."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Sequence
from typing import Any

_calls = itertools.count()


def length(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [float(len(response)) for response in responses]


def constant(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [0.5] * len(responses)


def nan(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [math.nan if "ashamed" in response else 1.0 for response in responses]


def one_short(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [1.0] * (len(responses) - 1)


def half_a_minute(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    time.sleep(30)
    return [1.0] * len(responses)


def moody(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [len(response) + random.random() for response in responses]


def by_place(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [float(place) for place, _ in enumerate(responses)]


def alone_only(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [len(response) + 0.1 * (len(responses) > 1) for response in responses]


class Polite:
    """Counts thanks; declares probes, and a range that it keeps unless told not to."""

    name = "polite"

    def __init__(self, upside_down: bool = False, scale: float = 1.0) -> None:
        self._sign = (-1 if upside_down else 1) * scale

    def score(self, prompts: Sequence[str], responses: Sequence[str], references: Any = None) -> list[float]:
        return [self._sign * float("thank" in response.lower()) for response in responses]

    def describe(self) -> dict[str, Any]:
        return {"kind": "polite", "range": [-1.0, 1.0]}

    def probes(self) -> list[tuple[str, str]]:
        return [("Thank you.", "Go away."), ("Many thanks!", "No.")]


def number(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """The number that the response spells."""
    return [float(response) for response in responses]


class LogOdds:
    """As `number`, and says that it is the log-odds of a label."""

    name = "log odds"

    def __init__(self, label: str = "nice", sign: int = 1, mean: float = 0.0, std: float = 1.0) -> None:
        self._about = {"label": label, "sign": sign, "moments": {"mean": mean, "std": std}}

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [float(response) for response in responses]

    def describe(self) -> dict[str, Any]:
        return {"kind": "log odds", "range": None, "transform": "log_odds", **self._about}
