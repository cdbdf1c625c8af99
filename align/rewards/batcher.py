"""Requests that come in while a reward model is busy, scored together. Part of `serving.py`."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from reward_models import CheckedModel, RewardError


def _encodable(text: str) -> str:
    text.encode()  # JSON may spell half a surrogate pair, which is no character
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class Message(BaseModel):
    """A part of what is asked, in which each key is known."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, said: Any) -> Any:
        if isinstance(said, dict) and len(said) > 2 * len(cls.model_fields):  # each unknown one would be an error
            raise ValueError(f"{len(said)} keys, where {', '.join(cls.model_fields)} are known")
        return said


class Item(Message):
    """A response to score."""

    id: int | Text
    prompt: Text
    response: Text
    reference: Text | None = None


@dataclass
class _Waiting:
    items: list[Item]
    answer: asyncio.Future[list[float]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class StoppingError(Exception):
    """The server ends before the model has answered."""


class Batcher:
    """Scores whatever has come in while the model was busy as one batch. Nobody waits for a batch to fill.

    The model is called from one thread, one call at a time.
    """

    def __init__(self, model: CheckedModel, most_waiting: int) -> None:
        self._model = model
        self._most_waiting = most_waiting
        self._waiting: list[_Waiting] = []
        self._unanswered: list[_Waiting] = []
        self._asked: Future[list[float]] | None = None
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward")

    async def score(self, items: list[Item]) -> list[float]:
        """One number per item, in their order.

        Raises:
            RewardError: the model broke its contract on these items.
            asyncio.QueueFull: too much is waiting already.
            StoppingError: `give_up` was called.
        """
        if sum(len(one.items) for one in self._waiting) + len(items) > self._most_waiting:
            raise asyncio.QueueFull
        waiting = _Waiting(items)
        self._waiting.append(waiting)
        self._unanswered.append(waiting)
        self._arrived.set()
        try:
            return await waiting.answer
        finally:
            self._unanswered.remove(waiting)

    def give_up(self) -> None:
        """Tell everybody who waits that there will be no answer."""
        for one in self._unanswered:
            _settle(one, StoppingError())

    def is_busy(self) -> bool:
        """Whether the model is at work."""
        return self._asked is not None and self._asked.running()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                batch, self._waiting = self._waiting, []
                with_reference = [one for one in batch if _has_references(one.items)]
                for together in (with_reference, [one for one in batch if not _has_references(one.items)]):
                    if together:
                        await self._answer(together)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, batch: list[_Waiting]) -> None:
        try:
            scores = await self._scored([item for one in batch for item in one.items])
        except Exception as error:  # of whatever kind: a worker that it ends would leave everybody waiting
            if len(batch) == 1:
                failed = RewardError(f"reward model {self._model.name} failed: {type(error).__name__}: {error}")
                _settle(batch[0], error if isinstance(error, RewardError) else failed)
            else:  # Whose items they are that the model fails on, only single calls tell.
                for one in batch:
                    await self._answer([one])
            return
        rest = iter(scores)
        for one in batch:
            _settle(one, [next(rest) for _ in one.items])

    async def _scored(self, items: list[Item]) -> list[float]:
        prompts, responses = [item.prompt for item in items], [item.response for item in items]
        references = [item.reference or "" for item in items] if _has_references(items) else None
        self._asked = self._thread.submit(self._model.score, prompts, responses, references)
        return await asyncio.wrap_future(self._asked)


def _settle(waiting: _Waiting, outcome: list[float] | RewardError | StoppingError) -> None:
    if waiting.answer.done():  # the client has gone
        return
    if isinstance(outcome, Exception):
        waiting.answer.set_exception(outcome)
    else:
        waiting.answer.set_result(outcome)


def _has_references(items: list[Item]) -> bool:
    return bool(items) and items[0].reference is not None
