"""The contract of a reward model, and the check that everything which steers training passes through."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from reward_models.calling import Scorer, taking_references
from reward_models.isolation import contained

logger = logging.getLogger(__name__)

DECLARATION = "reward_model.json"
"""The file beside a model's weights that says what its number means."""

LARGEST = 3.4028234663852886e38
"""The largest score, of either sign: that of float32, in which training keeps them."""

PATIENCE = 60.0
"""Seconds that a model may take for one call before that is said, once."""


class RewardError(ValueError):
    """A reward model cannot be loaded, or broke its contract. The message names it and says what to do."""


@runtime_checkable
class RewardModel(Protocol):
    """Scores responses. Its own tokenizer, if it has one, is its own business: only text crosses the border.

    Besides what stands here a model may have

    - `batch_size`: the most responses that it wants in one call;
    - `needs_references`: True where it cannot score without them;
    - `components()`: the parts of its last scores, as `{name: [number per response]}`, which are logged;
    - `probes()`: pairs (better response, worse response) which it must tell apart before it may steer.
    """

    @property
    def name(self) -> str:
        """What errors and logs call it."""

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
    ) -> list[float]:
        """One finite number per response, higher is better; the same call always gives the same numbers."""

    def describe(self) -> dict[str, Any]:
        """What the number means, as JSON: `kind`, `label`, `transform`, `range` ([low, high], null where unbounded),
        and `digest`, by which a changed model is known. What there is none of may be left out."""


class CheckedModel:
    """A reward model whose every answer is checked. `checked` and `load` return this.

    Whatever the model raises or calls `sys.exit` with becomes a `RewardError` that names it.
    """

    def __init__(
        self,
        model: RewardModel | Scorer,
        name: str | None = None,
        probes: Sequence[Sequence[str]] | None = None,
    ) -> None:
        if isinstance(model, type):
            raise RewardError(f"{model.__qualname__} is a class: pass an instance, {model.__qualname__}()")
        self.name = name or type(model).__name__  # until it says its own
        self._model = model
        self._components: dict[str, list[float]] = {}
        with self._asked("a look at its attributes"):
            score = getattr(model, "score", model)
            own_name = getattr(model, "name", None) or getattr(model, "__name__", None)
            self.batch_size: int | None = getattr(model, "batch_size", None)
            self.needs_references = bool(getattr(model, "needs_references", False))
        self.name = str(name or (own_name if isinstance(own_name, str) else self.name))
        if hasattr(score, "forward") and hasattr(score, "state_dict"):  # a head of that name, or the whole
            raise RewardError(
                f"reward model {self.name} is a module of torch, which reads tokens: save it and its tokenizer with "
                "save_pretrained, and name the directory"
            )
        if not callable(score):
            raise RewardError(
                f"{model!r} is not a reward model: it needs score(prompts, responses, references=None), "
                "or must itself be such a function"
            )
        try:
            self._score = taking_references(score)
        except ValueError as error:
            raise RewardError(f"reward model {self.name}: {error}") from error
        if self.batch_size is not None and (type(self.batch_size) is not int or self.batch_size < 1):
            raise RewardError(
                f"reward model {self.name}: batch_size must be a whole number above 0, not {_shown(self.batch_size)}"
            )
        if probes is None:
            with self._asked("probes()"):
                probes = _said(getattr(model, "probes", ()))
        self._probes = _pairs(self.name, probes)
        self._description = self._described()
        self._was_slow = False

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
    ) -> list[float]:
        """One finite number per response.

        Raises:
            RewardError: the model failed, or gave something else than one finite number per response.
        """
        prompts, responses = _texts(self.name, "prompts", prompts), _texts(self.name, "responses", responses)
        references = None if references is None else _texts(self.name, "references", references)
        for what, texts in (("prompts", prompts), ("references", references)):
            if texts is not None and len(texts) != len(responses):
                raise RewardError(f"reward model {self.name}: {len(texts)} {what} for {len(responses)} responses")
        if self.needs_references and not (references and all(references)) and responses:
            raise RewardError(
                f"reward model {self.name} needs a reference for every response, and at least one is missing"
            )
        scores: list[float] = []
        self._components = {}
        for start in range(0, len(responses), self.batch_size or len(responses) or 1):
            some = slice(start, start + (self.batch_size or len(responses)))
            scores += self._scored(prompts[some], responses[some], references[some] if references else None)
        for part, values in self._components.items():
            if len(values) != len(scores):
                raise RewardError(f"{self._part(part)} has {len(values)} numbers for {len(scores)} responses")
        return scores

    def describe(self) -> dict[str, Any]:
        """As the model described itself when it was loaded, under its name; without a `digest` that of all the rest."""
        return dict(self._description)

    def components(self) -> dict[str, list[float]]:
        """The parts of the last scores, by the name of each part; empty for a model that is not made of parts."""
        return self._components

    def probes(self) -> list[tuple[str, str]]:
        """Pairs (better response, worse response) that the model itself or its spec declares; most have none."""
        return self._probes

    def told_apart(self, probes: Sequence[tuple[str, str]]) -> int:
        """In how many of these pairs the better response scores higher than the worse."""
        texts = [text for pair in probes for text in pair]
        scores = self.score([""] * len(texts), texts)
        return sum(better > worse for better, worse in zip(scores[::2], scores[1::2], strict=True))

    def members(self) -> list[CheckedModel]:
        """The models that this one is made of, where higher is better of each of them too."""
        found = getattr(self._model, "members", ())
        listed = found if isinstance(found, Sequence) else ()  # others may call something else so
        return [one for one in listed if isinstance(one, CheckedModel)]

    def _scored(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None
    ) -> list[float]:
        expected = len(responses)  # now: the model may change the list that it is given
        with self._asked("score()"), self._waited_for(expected):
            scores = self._score(prompts, responses, references)
            finite = _validated(scores, expected, f"reward model {self.name}")
        with self._asked("components()"):
            for part, values in dict(getattr(self._model, "components", dict)()).items():
                said = _validated(values, expected, self._part(part))
                self._components.setdefault(part, []).extend(said)
        return finite

    def _described(self) -> dict[str, Any]:
        described: Any = {"kind": "function", "digest": _source_digest(self._model)}
        if describe := getattr(self._model, "describe", None):
            with self._asked("describe()"):
                described = _said(describe)
        if not isinstance(described, Mapping):
            raise RewardError(f"reward model {self.name}: describe() must return a dict, not {_shown(described)}")
        try:
            content = json.dumps({**described}, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RewardError(f"reward model {self.name}: what describe() gives is not JSON: {error}") from error
        if not _is_range(described.get("range")):
            raise RewardError(
                f"reward model {self.name}: the `range` that describe() gives must be [lowest, highest], each a number "
                f"or None, not {described['range']!r:.80}"
            )
        digest = hashlib.sha256(content.encode()).hexdigest()
        return {"name": self.name, "label": None, "transform": None, "range": None, "digest": digest, **described}

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Around the model's own code: what it raises becomes an error with its name, and torch's settings stay."""
        try:
            with contained(f"reward model {self.name}"):
                yield
        except (RewardError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # such as SystemExit, or the CancelledError of a client within
            raise RewardError(f"reward model {self.name}: {what} failed: {type(error).__name__}: {error}") from error

    @contextmanager
    def _waited_for(self, responses: int) -> Iterator[None]:
        """Whoever seems to hang should see what it is that does not come back."""
        if self._was_slow:
            yield
            return

        def say() -> None:
            self._was_slow = True
            logger.warning(
                "reward model %s has not answered for %g s (%d responses); what waits for it goes on when it does",
                self.name,
                PATIENCE,
                responses,
            )

        with unless_done_in(PATIENCE, say):
            yield

    def _part(self, name: str) -> str:
        return f"component {name} of reward model {self.name}"


def checked(
    model: RewardModel | Scorer, name: str | None = None, probes: Sequence[Sequence[str]] | None = None
) -> CheckedModel:
    """`model`, or a plain function of prompts and responses, with every score checked."""
    if not isinstance(model, CheckedModel):
        return CheckedModel(model, name, probes)
    if name is None and probes is None:
        return model
    return CheckedModel(model._model, name or model.name, model.probes() if probes is None else probes)


@contextmanager
def unless_done_in(seconds: float, do: Callable[[], object]) -> Iterator[None]:
    """Within, `do` is called once so many seconds are over, from another thread."""
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_number(value: Any) -> bool:
    """Whether this is a finite number; truth values are none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _texts(name: str, what: str, texts: Any) -> Sequence[str]:
    """A list or a tuple as it is, other iterables (arrays, columns, generators) as a list."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise RewardError(f"reward model {name}: {what} must be a list of texts, not {_shown(texts)}")
    return texts if isinstance(texts, list | tuple) else list(texts)


def _validated(scores: Any, expected: int, whose: str) -> list[float]:
    if hasattr(scores, "tolist"):  # an array or tensor
        scores = scores.tolist()
    if isinstance(scores, str | bytes | Mapping) or not isinstance(scores, Sequence):
        raise RewardError(f"{whose} must return a list of {expected} numbers, not {_shown(scores)}")
    if len(scores) != expected:
        raise RewardError(f"{whose} returned {len(scores)} scores for {expected} responses")
    for number, value in enumerate(scores, start=1):
        if not is_number(value):
            raise RewardError(f"{whose}: score {number} of {expected} is {_shown(value)}, not a finite number")
        if abs(value) > LARGEST:
            raise RewardError(f"{whose}: score {number} of {expected} is {value:.3g}, beyond float32's {LARGEST:.3g}")
    return [float(value) for value in scores]


def _said(attribute: Any) -> Any:
    """Of a method what it returns; of a plain attribute itself."""
    return attribute() if callable(attribute) else attribute


def _shown(value: Any) -> str:
    return f"{value!r:.80}" if value is None or isinstance(value, Real | str) else f"of type {type(value).__name__}"


def _pairs(name: str, probes: Any) -> list[tuple[str, str]]:
    if not isinstance(probes, Sequence) or not all(
        isinstance(pair, Sequence) and not isinstance(pair, str) and [type(text) for text in pair] == [str, str]
        for pair in probes
    ):
        raise RewardError(f"reward model {name}: probes must be pairs of texts, [better response, worse response]")
    return [(better, worse) for better, worse in probes]


def _is_range(value: Any) -> bool:
    if value is None:
        return True
    pair = isinstance(value, Sequence) and len(value) == 2 and all(end is None or is_number(end) for end in value)
    return pair and (None in value or value[0] <= value[1])


def _source_digest(model: Any) -> str | None:
    """Of the file that a function or an object's class is written in."""
    try:
        file = inspect.getsourcefile(model if inspect.isroutine(model) else type(model))
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None
    except (OSError, TypeError):
        return None
