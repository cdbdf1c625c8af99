"""Several reward models as one: added up, the most critical of them, their mean less their disagreement, or a gate.

    {combine: weighted_sum, of: [toxicity, {model: rules, repetition: {}}], weights: [1, 0.5]}
    {combine: mean_minus_std, of: [proxy_1, proxy_2, proxy_3], uncertainty_coef: 1}
    {combine: gate, of: [helpful, harmless], threshold: 0, otherwise: -3}

Scores are combined as they are; members of different scale are made comparable by weights, or by `normalize` in each.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from math import fsum
from typing import Any

from reward_models.base import CheckedModel, RewardError, is_number

Ensemble = Callable[[Sequence[float], float], float]
"""The weighted scores of one response by each member, and `uncertainty_coef` -> one score."""

ENSEMBLES: dict[str, Ensemble] = {
    "weighted_sum": lambda scores, coef: fsum(scores),
    "minimum": lambda scores, coef: min(scores),
    "mean_minus_std": lambda scores, coef: statistics.fmean(scores) - coef * statistics.pstdev(scores),
    # Coste et al. 2023 (arXiv 2310.02743), section 3: the variance within the ensemble, in the place of its root.
    "uncertainty_weighted": lambda scores, coef: statistics.fmean(scores) - coef * statistics.pvariance(scores),
}
COMBINATIONS = (*ENSEMBLES, "gate")
_OPTIONS = {
    "weights": tuple(ENSEMBLES),
    "uncertainty_coef": ("mean_minus_std", "uncertainty_weighted"),
    "threshold": ("gate",),
    "otherwise": ("gate",),
}


class Combined:
    """Members score by themselves; `components()` keeps what each said, so that each can be logged."""

    def __init__(
        self,
        combine: str,
        members: Sequence[CheckedModel],
        weights: Sequence[float] | None = None,
        name: str | None = None,
        *,
        uncertainty_coef: float | None = None,
        threshold: float | None = None,
        otherwise: float | None = None,
    ) -> None:
        """Put members together.

        Args:
            combine: one of `COMBINATIONS`.
            members: two of a gate: the first scores where the second is above `threshold`.
            weights: what each member's scores are multiplied by; 1 unless given. A gate has none.
            name: what errors and logs call it.
            uncertainty_coef: of the standard deviation, or the variance, of the members; 1 unless given.
            threshold: of a gate.
            otherwise: what a gate gives elsewhere; the first member's lowest score unless given, where it has one.
        """
        if combine not in COMBINATIONS:
            raise RewardError(f"combine: {combine!r} is not one of {', '.join(COMBINATIONS)}")
        if not members:
            raise RewardError(f"combine: {combine} needs at least one reward model under `of:`")
        if weights is not None and not (
            isinstance(weights, Sequence) and len(weights) == len(members) and all(map(is_number, weights))
        ):
            raise RewardError(
                f"combine: {combine} of {len(members)} models needs as many numbers as weights, not {weights!r}"
            )
        given = {
            "weights": weights,
            "uncertainty_coef": uncertainty_coef,
            "threshold": threshold,
            "otherwise": otherwise,
        }
        for option, value in given.items():
            if value is not None and combine not in _OPTIONS[option]:
                raise RewardError(f"combine: `{option}` is for {', '.join(_OPTIONS[option])}, not for {combine}")
            if value is not None and option != "weights" and not is_number(value):
                raise RewardError(f"combine: `{option}` must be a number, not {value!r}")
        if uncertainty_coef is not None and uncertainty_coef < 0:
            raise RewardError("combine: an uncertainty_coef below 0 would reward disagreement")
        if combine in _OPTIONS["uncertainty_coef"] and len(members) < 2:
            raise RewardError(f"combine: {combine} needs two models or more: one does not disagree with itself")
        self._combine = combine
        self._named = _by_distinct_name(members)
        self._weights = [float(weight) for weight in weights or [1.0] * len(members)]
        self._coef = 1.0 if uncertainty_coef is None else float(uncertainty_coef)
        if combine == "gate":
            self._threshold, self._otherwise = _gate(members, threshold, otherwise)
        self._last: dict[str, list[float]] = {}
        self.name = name or f"{combine}({', '.join(self._named)})"
        self.needs_references = any(member.needs_references for member in members)
        self.members = [member for member, weight in zip(members, self._weights, strict=True) if weight > 0]

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
    ) -> list[float]:
        """One combined number per response."""
        self._last = {name: member.score(prompts, responses, references) for name, member in self._named.items()}
        rows = zip(*self._last.values(), strict=True)
        if self._combine == "gate":
            return [score if gate > self._threshold else self._otherwise for score, gate in rows]
        combine = ENSEMBLES[self._combine]
        weighted = ([weight * score for weight, score in zip(self._weights, row, strict=True)] for row in rows)
        return [combine(scores, self._coef) for scores in weighted]

    def components(self) -> dict[str, list[float]]:
        """What each member said in the last call, before weighting; members made of parts add theirs."""
        parts = dict(self._last)
        for name, member in self._named.items():
            parts |= {f"{name}.{part}": scores for part, scores in member.components().items()}
        return parts

    def describe(self) -> dict[str, Any]:
        """How members are combined, and every member's description with its weight."""
        settings = {"uncertainty_coef": self._coef} if self._combine in _OPTIONS["uncertainty_coef"] else {}
        if self._combine == "gate":
            settings = {"threshold": self._threshold, "otherwise": self._otherwise}
        return {
            "kind": "combined",
            "combine": self._combine,
            **settings,
            "of": [
                {"weight": weight, **member.describe()}
                for weight, member in zip(self._weights, self._named.values(), strict=True)
            ],
        }


def _gate(members: Sequence[CheckedModel], threshold: float | None, otherwise: float | None) -> tuple[float, float]:
    if len(members) != 2 or threshold is None:
        raise RewardError("combine: gate needs two models, and a threshold that the second must be above")
    if otherwise is None:
        otherwise = (members[0].describe()["range"] or [None])[0]
    if otherwise is None:
        raise RewardError(
            f"combine: gate needs `otherwise`, the score where it is closed: {members[0].name} declares no lowest"
        )
    return float(threshold), float(otherwise)


def _by_distinct_name(members: Sequence[CheckedModel]) -> dict[str, CheckedModel]:
    named: dict[str, CheckedModel] = {}
    for member in members:
        name, number = member.name, 2
        while name in named:
            name, number = f"{member.name} {number}", number + 1
        named[name] = member
    return named
