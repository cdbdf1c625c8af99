"""Rewards that need no model: a few small rules, added up.

{model: rules, length: {target: 40, unit: words}, banned: {phrases: [as an AI], weight: 2}, language: {code: en}}
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from reward_models import language as languages
from reward_models import phrases as wording
from reward_models.base import RewardError, is_number


def length(
    response: str, *, target: float, width: float | None = None, unit: Literal["characters", "words"] = "characters"
) -> float:
    """1 at `target` characters or words, falling evenly to 0 at `width` of them (default: `target`) away from it."""
    if unit not in ("characters", "words"):
        raise ValueError(f"unit is characters or words, not {unit!r}")
    for key, value in (("target", target), ("width", target if width is None else width)):
        if not is_number(value) or value <= 0:
            raise ValueError(f"{key} must be a number above 0, not {value!r}")
    count = len(response) if unit == "characters" else len(response.split())
    return max(0.0, 1.0 - abs(count - target) / (target if width is None else width))


def banned(response: str, *, pattern: str | None = None, phrases: Sequence[str] = ()) -> float:
    """1 where neither the regular expression nor, as whole words, any phrase is found (ignoring case), else 0."""
    if isinstance(phrases, str) or not (pattern or phrases):
        raise ValueError("name a pattern, or a list of phrases")
    if not all(isinstance(phrase, str) and phrase.strip() for phrase in phrases):
        raise ValueError("phrases must be texts that are not empty")
    looked_for = [*([pattern] if pattern else []), *map(wording.pattern, phrases)]
    return float(not any(re.search(one, response, re.IGNORECASE) for one in looked_for))


def required(response: str, *, pattern: str) -> float:
    """1 where the regular expression is found (ignoring case), else 0."""
    return float(re.search(pattern, response, re.IGNORECASE) is not None)


def repetition(response: str, *, words: int = 2) -> float:
    """The share of runs of so many words that occur for the first time: 1 where nothing is said twice."""
    if not isinstance(words, int) or isinstance(words, bool) or words < 1:
        raise ValueError(f"words must be a whole number, 1 or more, not {words!r}")
    said = response.lower().split()
    runs = [tuple(said[i : i + words]) for i in range(len(said) - words + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


def language(response: str, *, code: str) -> float:
    """How much of the response seems to be in one of `language.LANGUAGES`; 0.5 where too little is said to tell."""
    if code not in languages.LANGUAGES:
        raise ValueError(f"{code!r} is not one of {', '.join(languages.LANGUAGES)}")
    return languages.share(response, code)


def format(response: str, *, form: str) -> float:
    """How far the response has a form, one of `FORMS`."""
    if form not in FORMS:
        raise ValueError(f"{form!r} is not one of {', '.join(FORMS)}")
    return FORMS[form](response.strip())


def _is_json(response: str) -> float:
    try:
        return float(isinstance(json.loads(response), dict | list))
    except (ValueError, RecursionError):
        return 0.0


def _bullets(response: str) -> float:
    lines = [line for line in response.splitlines() if line.strip()]
    return sum(bool(re.match(r"\s*([-*•]|\d+[.)])\s+\S", line)) for line in lines) / len(lines) if lines else 0.0


def _sentences(response: str) -> float:
    begins = response[:1].isalpha() and not response[0].islower()
    return float(begins and re.search(r"[.!?…。！？][\"'”’)]*\Z", response) is not None)


FORMS: dict[str, Callable[[str], float]] = {
    "json": _is_json,
    "bullets": _bullets,
    "sentences": _sentences,
    "line": lambda response: float(len(response.splitlines()) == 1),
    "plain": lambda response: float(re.search(r"(?m)^\s*(#|```|[-*] )|\*\*|https?://|<[a-z/]", response) is None),
}
"""Of a response without white space around it. `json`: an object or a list. `bullets`: the share of lines that are.
`sentences`: begins with a capital, ends with a mark. `line`: a single one. `plain`: no headings, lists, code, links."""

RULES: dict[str, Callable[..., float]] = {
    rule.__name__: rule for rule in (length, banned, required, repetition, language, format)
}


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
    if not is_number(weight):
        raise RewardError(f"rules: the weight of {rule} must be a number, not {weight!r}")
    try:
        inspect.signature(RULES[rule]).bind("", **settings)
        RULES[rule]("", **settings)
    except (TypeError, ValueError, re.error) as error:
        raise RewardError(f"rules: {rule} with {settings or 'no settings'}: {error}") from error
    return float(weight), settings
