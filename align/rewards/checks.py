"""Is a reward model fit to steer a training? What `align reward check` looks at, on texts of many kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from reward_models import CheckedModel, RewardError

TOLERANCE = 1e-5
"""Absolute, and relative to the score: what another order of additions may change in float32."""

TEXTS = (
    "Thank you, that was kind of you.",
    "No.",
    "",
    "   ",
    "Anna and Ben meet at the old station at noon, and then walk to the market together.",
    "I do not know. " * 60,
    "Was it </s>, <pad> or [SEP] that you said?",
    "Grüße aus Köln: 東京は雨です。 🙂",
    "line one\nline two\n\n\tline three",
    "1 + 1 = 2, and 0.5 % of 200 is 1.",
    "a",
    "You call that an answer? It is the worst that I have seen, and you should be ashamed of it.",
)
PROMPTS = tuple(f"Question {number}: what do you say?" for number in range(len(TEXTS)))
REFERENCES = tuple(f"Answer {number}." for number in range(len(TEXTS)))

State = Literal["passed", "failed", "skipped"]
Probe = tuple[str, str]
"""(better response, worse response)"""


@dataclass(frozen=True)
class Outcome:
    """What one check found."""

    check: str
    state: State
    message: str


def run(model: CheckedModel, probes: Sequence[Probe] = ()) -> list[Outcome]:
    """All checks, each by its name; after a broken contract there is nothing more to see.

    Args:
        model: the reward.
        probes: pairs of which the first must score higher, besides those that the model itself declares.
    """
    try:
        scores = _scored(model)
    except RewardError as error:
        return [Outcome("contract", "failed", str(error))]
    outcomes = [Outcome("contract", "passed", f"{len(scores)} finite numbers for {len(scores)} texts of many kinds")]
    checks: dict[str, Callable[[], Outcome]] = {
        "description": lambda: _description(model, scores),
        "determinism": lambda: _determinism(model, scores),
        "batch-size": lambda: _batch_size(model, scores),
        "order": lambda: _order(model, scores),
        "spread": lambda: _spread(model, scores, probes),
        "polarity": lambda: polarity(model, probes),
    }
    for name, check in checks.items():
        try:
            outcomes.append(check())
        except RewardError as error:
            outcomes.append(Outcome(name, "failed", str(error)))
    return outcomes


def _scored(model: CheckedModel, rows: Sequence[int] = range(len(TEXTS))) -> list[float]:
    prompts, texts, references = ([column[row] for row in rows] for column in (PROMPTS, TEXTS, REFERENCES))
    return model.score(prompts, texts, references)


def _description(model: CheckedModel, scores: Sequence[float]) -> Outcome:
    """The scores lie within the range that `describe()` declares."""
    description = model.describe()
    low, high = description.get("range") or (None, None)
    outside = [one for one in scores if (low is not None and one < low) or (high is not None and one > high)]
    if outside:
        return Outcome("description", "failed", f"score {outside[0]:g} is outside of its range {low} to {high}")
    kind = f"kind {description.get('kind')}"
    return Outcome("description", "passed", f"{kind}, range {'not declared' if low is high is None else (low, high)}")


def _determinism(model: CheckedModel, scores: Sequence[float]) -> Outcome:
    again = _scored(model)
    if again != list(scores):
        return Outcome("determinism", "failed", f"the same call gave different scores, {_worst(scores, again)}")
    return Outcome("determinism", "passed", "the same call gave the same numbers")


def _batch_size(model: CheckedModel, scores: Sequence[float]) -> Outcome:
    alone = [_scored(model, [row])[0] for row in range(len(TEXTS))]
    return _same("batch-size", scores, alone, "one at a time")


def _order(model: CheckedModel, scores: Sequence[float]) -> Outcome:
    rows = range(len(TEXTS))[::-1]
    return _same("order", scores, _scored(model, rows)[::-1], "in another order")


def _spread(model: CheckedModel, scores: Sequence[float], more: Sequence[Probe]) -> Outcome:
    """A constant reward teaches nothing. A rule that asks for something rare shows in probes that it is none."""
    texts = [] if model.needs_references else [text for probe in (*model.probes(), *more) for text in probe]
    scores = [*scores, *model.score([""] * len(texts), texts)]
    if max(scores) - min(scores) <= TOLERANCE:
        return Outcome(
            "spread",
            "failed",
            f"all texts score {scores[0]:g}: nothing can be learned from a constant. If it tells rarer texts apart, "
            "give some with --probe 'BETTER|WORSE'",
        )
    return Outcome("spread", "passed", f"scores from {min(scores):.4g} to {max(scores):.4g}")


def polarity(model: CheckedModel, more: Sequence[Probe] = ()) -> Outcome:
    """Whether better responses score higher in most probes of the model, and in each of `more`.

    Also of the models that this one is made of: one upside down among right ones spoils them.

    Raises:
        RewardError: it broke its contract.
    """
    right = asked = 0
    for one in _with_members(model):
        probes = one.probes()
        if not probes or one.needs_references:
            continue
        told = one.told_apart(probes)
        right, asked = right + told, asked + len(probes)
        if 2 * told <= len(probes):
            whose = "" if one is model else f" by {one.name}"
            return Outcome(
                "polarity", "failed", f"the better response scores higher{whose} in {told} of {len(probes)} probes"
            )
    if model.needs_references and (more or not asked):
        return Outcome("polarity", "skipped", "the model compares with references, and probes have none")
    for better, worse in more:  # of those that are asked for, each counts
        right, asked = right + 1, asked + 1
        if not model.told_apart([(better, worse)]):
            return Outcome("polarity", "failed", f"{_short(worse)} scores no lower than {_short(better)}")
    if not asked:
        return Outcome("polarity", "skipped", "the model declares no probes; give some with --probe 'BETTER|WORSE'")
    return Outcome("polarity", "passed", f"the better response scores higher in {right} of {asked} probes")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


def _with_members(model: CheckedModel) -> list[CheckedModel]:
    return [model, *(one for member in model.members() for one in _with_members(member))]


def _same(check: str, scores: Sequence[float], others: Sequence[float], how: str) -> Outcome:
    if any(abs(a - b) > TOLERANCE * max(1.0, abs(a)) for a, b in zip(scores, others, strict=True)):
        return Outcome(check, "failed", f"texts score differently {how}, {_worst(scores, others)}")
    return Outcome(check, "passed", f"texts score the same {how}")


def _worst(scores: Sequence[float], others: Sequence[float]) -> str:
    gap, row = max((abs(a - b), row) for row, (a, b) in enumerate(zip(scores, others, strict=True)))
    return f"by up to {gap:.2g} (text {row + 1}: {scores[row]:g} and {others[row]:g})"


def failed(outcomes: Sequence[Outcome]) -> Iterator[Outcome]:
    """Those that did not pass."""
    return (one for one in outcomes if one.state == "failed")
