"""The responses of models so far, kept in a stage's workspace: what is slow in it, and all that a resumed one needs.

Everything measured of the responses is computed anew, and comes out the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from align import interrupt
from align.configs.base import GenerationSettings
from align.modeling.checkpoints import new_checkpoint, newest_complete_checkpoint
from align.modeling.generation import Drawn, Response, sample
from align.modeling.load import load_causal_or_seq2seq, load_tokenizer

FILE = "responses.json"
SECONDS_BETWEEN_CHECKPOINTS = 30.0


@dataclass(frozen=True)
class Subject:
    """A model that answers."""

    name: str
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase


def load_subject(name: str, directory: Path) -> Subject:
    """A model with its tokenizer, on the GPU if there is one."""
    model = load_causal_or_seq2seq(directory)
    return Subject(name, model.to("cuda" if torch.cuda.is_available() else "cpu"), load_tokenizer(directory))


class Responses:
    """What each model has answered so far, by its name; read from the newest verified checkpoint."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._saved_at = time.monotonic()
        newest = newest_complete_checkpoint(directory, [FILE])
        found = json.loads((newest / FILE).read_text(encoding="utf-8")) if newest else {}
        self._drawn = {name: _from_json(saved) for name, saved in found.items()}

    def __len__(self) -> int:
        return sum(len(drawn.token_ids) for drawn in self._drawn.values())

    def to_all(
        self,
        prompts: Sequence[str],
        subject: Subject,
        settings: GenerationSettings,
        advance: Callable[[int], None],
        *,
        seed: int,
        batch_size: int = 64,
    ) -> list[Response]:
        """A response to every prompt, going on from what is kept.

        Raises:
            Interrupted: after a checkpoint, where a signal asked to end.
        """
        begun_with = len(self)

        def on_batch(count: int) -> None:
            advance(count)
            self._keep()

        responses = sample(
            subject.model,
            subject.tokenizer,
            prompts,
            settings,
            seed=seed,
            batch_size=batch_size,
            drawn=self._drawn.setdefault(subject.name, Drawn()),
            on_batch=on_batch,
        )
        if len(self) > begun_with:
            self._keep(now=True)
        return responses

    def _keep(self, *, now: bool = False) -> None:
        """Write a checkpoint: `now`, or where the last is old.

        Raises:
            Interrupted: after a checkpoint, where a signal asked to end.
        """
        stop = interrupt.requested() is not None
        if stop or now or time.monotonic() - self._saved_at > SECONDS_BETWEEN_CHECKPOINTS:
            with new_checkpoint(self._directory, len(self), keep=2, needs=[FILE]) as checkpoint:
                content = {name: asdict(drawn) for name, drawn in self._drawn.items()}
                (checkpoint / FILE).write_text(json.dumps(content), encoding="utf-8")
            self._saved_at = time.monotonic()
        interrupt.raise_if_requested(f"a checkpoint of {len(self)} responses was saved")


def _from_json(saved: dict[str, object]) -> Drawn:
    drawn = Drawn(**saved)  # type: ignore[arg-type]
    return Drawn({int(place): ids for place, ids in drawn.token_ids.items()}, drawn.generator_state)
