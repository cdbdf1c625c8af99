"""The contract of a reward model, and the check that everything which steers training passes through."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Protocol, runtime_checkable


class RewardError(ValueError):
    """A reward model cannot be loaded, or broke its contract. The message names it and says what to do."""


@runtime_checkable
class RewardModel(Protocol):
    """Scores responses. Its own tokenizer, if it has one, is its own business: only text crosses the border."""

    @property
    def name(self) -> str:
        """What errors and logs call it."""

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
    ) -> list[float]:
        """One finite number per response, higher is better; the same call always gives the same numbers."""

    def describe(self) -> dict[str, Any]:
        """What the number means, as JSON: at least `kind`, and `range` ([low, high], or null where unbounded)."""


Scorer = Callable[..., Sequence[float]]
"""A plain function `(prompts, responses)` or `(prompts, responses, references)`."""


class CheckedModel:
    """A reward model whose every answer is checked. `checked` and `load` return this."""

    def __init__(self, model: RewardModel | Scorer, name: str | None = None) -> None:
        score = getattr(model, "score", model)
        if not callable(score):
            raise RewardError(
                f"{model!r} is no reward model: it needs score(prompts, responses, references=None), "
                "or must itself be such a function"
            )
        self._model = model
        self._score = score
        self._takes_references = _takes_references(score)
        self.name = str(name or getattr(model, "name", None) or getattr(model, "__name__", type(model).__name__))

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
    ) -> list[float]:
        """One finite number per response.

        Raises:
            RewardError: the model failed, or gave something else than one finite number per response.
        """
        for what, texts in (("prompts", prompts), ("references", references)):
            if texts is not None and len(texts) != len(responses):
                raise RewardError(f"reward model {self.name}: {len(texts)} {what} for {len(responses)} responses")
        if not responses:
            return []
        arguments = (prompts, responses, references) if self._takes_references else (prompts, responses)
        try:
            scores = self._score(*arguments)
        except RewardError:
            raise
        except Exception as error:
            raise RewardError(f"reward model {self.name} failed: {type(error).__name__}: {error}") from error
        return self._validated(scores, len(responses))

    def describe(self) -> dict[str, Any]:
        """The model's own description under its name."""
        describe = getattr(self._model, "describe", None)
        return {"name": self.name, **(describe() if describe else {"kind": "function", "range": None})}

    def components(self) -> dict[str, list[float]]:
        """The parts of the last scores, by the name of each part; empty for a model that is not made of parts."""
        components = getattr(self._model, "components", None)
        return dict(components()) if components else {}

    def probes(self) -> list[tuple[str, str]]:
        """Pairs (better response, worse response) that the model itself declares; most declare none."""
        probes = getattr(self._model, "probes", None)
        return [(str(better), str(worse)) for better, worse in probes()] if probes else []

    def _validated(self, scores: Any, expected: int) -> list[float]:
        if hasattr(scores, "tolist"):  # an array or tensor
            scores = scores.tolist()
        if isinstance(scores, str | bytes | Mapping) or not isinstance(scores, Sequence):
            raise RewardError(
                f"reward model {self.name} must return a list of {expected} numbers, not {_shown(scores)}"
            )
        if len(scores) != expected:
            raise RewardError(f"reward model {self.name} returned {len(scores)} scores for {expected} responses")
        for index, value in enumerate(scores):
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise RewardError(
                    f"reward model {self.name}: score {index} of {expected} is {_shown(value)}, not a finite number"
                )
        return [float(value) for value in scores]


def checked(model: RewardModel | Scorer, name: str | None = None) -> CheckedModel:
    """`model`, or a plain function of prompts and responses, with every score checked."""
    if not isinstance(model, CheckedModel):
        return CheckedModel(model, name)
    return model if name is None else CheckedModel(model._model, name)


def _takes_references(score: Callable[..., Any]) -> bool:
    try:
        inspect.signature(score).bind([], [], None)
    except TypeError:
        return False
    except ValueError:  # written in C, without a signature
        return True
    return True


def _shown(value: Any) -> str:
    return f"{value!r:.80}" if value is None or isinstance(value, Real | str) else f"of type {type(value).__name__}"
