"""Several reward models as one: their weighted sum, or the most critical of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import fsum
from typing import Any

from reward_models.base import CheckedModel, RewardError

Combination = Callable[[Sequence[float], Sequence[float]], float]
"""The scores of one response by each member, and the members' weights -> one score."""

COMBINATIONS: dict[str, Combination] = {
    "weighted_sum": lambda scores, weights: fsum(w * s for w, s in zip(weights, scores, strict=True)),
    "minimum": lambda scores, weights: min(w * s for w, s in zip(weights, scores, strict=True)),
}


class Combined:
    """Members score by themselves; `components()` keeps what each said, so that each can be logged.

    Scores are combined as they are: members of different scale need weights that even them out.
    """

    def __init__(
        self,
        combine: str,
        members: Sequence[CheckedModel],
        weights: Sequence[float] | None = None,
        name: str | None = None,
    ) -> None:
        if combine not in COMBINATIONS:
            raise RewardError(f"combine: {combine!r} is not one of {', '.join(COMBINATIONS)}")
        if not members:
            raise RewardError(f"combine: {combine} needs at least one reward model under `of:`")
        weights = [1.0] * len(members) if weights is None else weights
        if len(weights) != len(members) or not all(_is_number(weight) for weight in weights):
            raise RewardError(f"combine: {combine} of {len(members)} models needs as many numbers as weights")
        self._combine = combine
        self._members = _by_distinct_name(members)
        self._weights = [float(weight) for weight in weights]
        self._last: dict[str, list[float]] = {}
        self.name = name or f"{combine}({', '.join(self._members)})"

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
    ) -> list[float]:
        """One combined number per response."""
        self._last = {name: member.score(prompts, responses, references) for name, member in self._members.items()}
        combine = COMBINATIONS[self._combine]
        return [combine(scores, self._weights) for scores in zip(*self._last.values(), strict=True)]

    def components(self) -> dict[str, list[float]]:
        """What each member said in the last call, before weighting; members made of parts add theirs."""
        parts = dict(self._last)
        for name, member in self._members.items():
            parts |= {f"{name}.{part}": scores for part, scores in member.components().items()}
        return parts

    def describe(self) -> dict[str, Any]:
        """Every member's description, with its weight."""
        return {
            "kind": "combined",
            "combine": self._combine,
            "of": [
                {"weight": weight, **member.describe()}
                for weight, member in zip(self._weights, self._members.values(), strict=True)
            ],
            "range": None,
        }


def _by_distinct_name(members: Sequence[CheckedModel]) -> Mapping[str, CheckedModel]:
    named: dict[str, CheckedModel] = {}
    for member in members:
        name, number = member.name, 2
        while name in named:
            name, number = f"{member.name} {number}", number + 1
        named[name] = member
    return named


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
