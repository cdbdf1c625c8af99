"""Rewards that need no model: a few small rules, added up.

{model: rules, length: {target: 120}, banned: {pattern: "as an AI", weight: 2}, repetition: {}}
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reward_models.base import RewardError


def length(response: str, *, target: float, width: float | None = None) -> float:
    """1 at `target` characters, falling evenly to 0 at `width` characters (default: `target`) away from it."""
    return max(0.0, 1.0 - abs(len(response) - target) / (width or target))


def banned(response: str, *, pattern: str) -> float:
    """1 where the regular expression is not found (ignoring case), else 0."""
    return float(re.search(pattern, response, re.IGNORECASE) is None)


def required(response: str, *, pattern: str) -> float:
    """1 where the regular expression is found (ignoring case), else 0."""
    return float(re.search(pattern, response, re.IGNORECASE) is not None)


def repetition(response: str, *, words: int = 2) -> float:
    """The share of runs of so many words that occur for the first time: 1 where nothing is said twice."""
    said = response.lower().split()
    runs = [tuple(said[i : i + words]) for i in range(len(said) - words + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


RULES: dict[str, Callable[..., float]] = {rule.__name__: rule for rule in (length, banned, required, repetition)}


class Rules:
    """The weighted sum of some rules, each between 0 and 1, each with the settings that its function takes."""

    def __init__(self, name: str = "rules", **settings: Mapping[str, Any]) -> None:
        if not settings:
            raise RewardError(
                f"rules: name at least one of {', '.join(RULES)}, as in {{model: rules, repetition: {{}}}}"
            )
        self.name = name
        self._weights: dict[str, float] = {}
        self._settings: dict[str, dict[str, Any]] = {}
        for rule, given in settings.items():
            self._weights[rule], self._settings[rule] = _validated(rule, given)
        self._last: dict[str, list[float]] = {}

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
    ) -> list[float]:
        """One weighted sum per response."""
        self._last = {
            rule: [RULES[rule](response, **settings) for response in responses]
            for rule, settings in self._settings.items()
        }
        weights = self._weights.values()
        return [
            sum(weight * value for weight, value in zip(weights, values, strict=True))
            for values in zip(*self._last.values(), strict=True)
        ]

    def components(self) -> dict[str, list[float]]:
        """What each rule said in the last call, before weighting."""
        return self._last

    def describe(self) -> dict[str, Any]:
        """Every rule with its weight and settings."""
        weights = self._weights.values()
        return {
            "kind": "rules",
            "rules": {rule: {"weight": self._weights[rule], **given} for rule, given in self._settings.items()},
            "range": [sum(min(weight, 0.0) for weight in weights), sum(max(weight, 0.0) for weight in weights)],
        }


def _validated(rule: str, given: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    if rule not in RULES:
        raise RewardError(f"rules: there is no rule {rule!r}; there are {', '.join(RULES)}")
    if not isinstance(given, Mapping):
        raise RewardError(f"rules: {rule} wants a mapping of its settings, such as {{weight: 1}}, not {given!r}")
    settings = dict(given)
    weight = settings.pop("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise RewardError(f"rules: the weight of {rule} must be a number, not {weight!r}")
    try:
        inspect.signature(RULES[rule]).bind("", **settings)
        RULES[rule]("", **settings)
    except (TypeError, ValueError, ZeroDivisionError, re.error) as error:
        raise RewardError(f"rules: {rule} with {settings or 'no settings'}: {error}") from error
    return float(weight), settings
