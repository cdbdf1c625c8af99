"""Prompts: as the data has them, and in the order that training takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from align.errors import UsageError

Rows = Sequence[Mapping[str, Any]]
Row = TypeVar("Row")
Collator = Callable[[list[Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Prompt:
    """A prompt as text, for the reward model, and as the policy's own tokens."""

    text: str
    token_ids: list[int]
    reference: str | None = None
    """What a good answer looks like, for reward models that compare with one."""


def as_prompts(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, vocabulary: int, collator: Collator | None = None
) -> list[Prompt]:
    """Rows with `prompt` (text) or `input_ids` as prompts; `collator`, where given, makes `input_ids` of a row.

    Raises:
        UsageError: a row has neither, is empty, or has a token that a model of `vocabulary` tokens does not know.
    """
    if isinstance(rows, Mapping):
        raise UsageError(f"the prompts are several data sets ({', '.join(map(str, rows))}): choose one of them")
    prompts = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise UsageError(
                f"row {number} of the prompts is not a mapping with `prompt` or `input_ids`, but {row!r:.80}"
            )
        found = {**row, **_collated(row, collator)} if collator is not None else row
        if isinstance(found.get("prompt"), list):
            raise UsageError(
                f"row {number} of the prompts is a list of messages: make it text first, with "
                "tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)"
            )
        text = found.get("prompt")
        if "input_ids" in found:
            token_ids = _without_padding(found, number, tokenizer)
        elif isinstance(text, str):
            token_ids = tokenizer(text)["input_ids"]
        else:
            raise UsageError(f"row {number} of the prompts has neither `prompt` nor `input_ids`: {sorted(found)}")
        if not token_ids:
            raise UsageError(f"row {number} of the prompts is empty")
        if min(token_ids) < 0:
            raise UsageError(f"row {number} of the prompts contains the invalid token id {min(token_ids)}")
        if max(token_ids) >= vocabulary:
            raise UsageError(
                f"row {number} of the prompts has token {max(token_ids)}, but the model knows only {vocabulary}: "
                "the tokenizer is not this model's"
            )
        text = text or tokenizer.decode(token_ids, skip_special_tokens=True)
        prompts.append(Prompt(text, token_ids, found.get("reference")))
    return prompts


def batch_of(rows: Sequence[Row], number: int, size: int, seed: int) -> list[Row]:
    """The rows of a batch: each pass over them is shuffled anew, and passes follow without a gap."""
    count = len(rows)
    places = range(number * size, (number + 1) * size)
    orders = {
        turn: torch.randperm(count, generator=torch.Generator().manual_seed(seed + turn)).tolist()
        for turn in {place // count for place in places}
    }
    return [rows[orders[place // count][place % count]] for place in places]


def _collated(row: Mapping[str, Any], collator: Collator) -> dict[str, Any]:
    """What a collator makes of one row alone."""
    batch = collator([row])
    return {name: torch.as_tensor(batch[name])[0] for name in ("input_ids", "attention_mask") if name in batch}


def _without_padding(row: Mapping[str, Any], number: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """By its mask; without one, a pad token at either end is padding, unless it is the end-of-text token as well."""
    tensor = torch.as_tensor(row["input_ids"])
    if tensor.dim() != 1 or (tensor.is_floating_point() and len(tensor)):
        raise UsageError(f"row {number} of the prompts: input_ids must be one list of whole numbers")
    token_ids: list[int] = tensor.tolist()
    if (mask := row.get("attention_mask")) is None:
        pad = tokenizer.pad_token_id
        if pad is None or pad == tokenizer.eos_token_id:
            return token_ids
        real = [place for place, token in enumerate(token_ids) if token != pad]
        return token_ids[real[0] : real[-1] + 1] if real else []
    return [token for token, real in zip(token_ids, torch.as_tensor(mask).tolist(), strict=True) if real]
