"""Sampling responses with a key-value cache, for decoder-only and encoder-decoder models alike.

Written out rather than left to `model.generate` for three reasons: nothing leaks in from a checkpoint's
`generation_config`, finished responses leave the batch and cost nothing, and the random numbers come from a generator
of one's own, so that a resumed run draws the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache, PreTrainedTokenizerBase

from align.configs.base import GenerationSettings
from align.modeling.cache import new_cache
from align.modeling.context import check_context
from align.modeling.trunk import pad, response_logits, unwrapped

TOKENS_AT_ONCE = 2**17
"""Prompt and response tokens whose keys and values exist at one time: bounds memory whatever the batch."""


@dataclass(frozen=True)
class Response:
    """What a model answered."""

    text: str
    """Without special tokens and surrounding white space."""
    token_ids: list[int]
    """With the end-of-text token, where it was reached."""
    finished: bool
    """Whether it ended by itself, and not at `max_new_tokens`."""


@dataclass
class Drawn:
    """The responses drawn so far, and the state of the random numbers: what `sample` needs to go on exactly."""

    token_ids: dict[int, list[int]] = field(default_factory=dict)
    """By the place of their prompt."""
    generator_state: list[int] | None = None
    """None before the first batch."""


def sample(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    settings: GenerationSettings,
    *,
    seed: int,
    batch_size: int = 64,
    drawn: Drawn | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Response]:
    """A response to each prompt, in the prompts' order. The same seed gives the same responses.

    Args:
        model: any language model.
        tokenizer: its own.
        prompts: text.
        settings: how to draw.
        seed: of the random numbers.
        batch_size: prompts at a time; other sizes draw other responses.
        drawn: goes on from there, and is kept up to date after every batch.
        on_batch: called then, with the number of responses that the batch added.

    Raises:
        UsageError: a prompt with its response might not fit into the model's table of positions.
    """
    drawn = drawn if drawn is not None else Drawn()
    prompt_ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    lengths = [(len(ids), settings.max_new_tokens) for ids in prompt_ids]
    check_context(model, lengths, "leave such rows out, or lower max_new_tokens")
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompt_ids[index]), reverse=True)
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    if drawn.generator_state is not None:
        generator.set_state(torch.tensor(drawn.generator_state, dtype=torch.uint8))
    for start in range(len(drawn.token_ids), len(by_length), batch_size):
        members = by_length[start : start + batch_size]
        token_ids = generate(
            model,
            [prompt_ids[index] for index in members],
            settings,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            generator=generator,
        )
        drawn.token_ids.update(zip(members, token_ids, strict=True))
        drawn.generator_state = generator.get_state().tolist()
        if on_batch is not None:
            on_batch(len(members))
    return decode(tokenizer, [drawn.token_ids[index] for index in range(len(prompts))]) if prompts else []


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[list[int]]) -> list[Response]:
    """Token ids as responses."""
    texts = tokenizer.batch_decode(list(token_ids), skip_special_tokens=True)
    return [
        Response(text.strip(), ids, finished=ids[-1] == tokenizer.eos_token_id)
        for text, ids in zip(texts, token_ids, strict=True)
    ]


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt_ids: Sequence[list[int]],
    settings: GenerationSettings,
    *,
    eos_token_id: int | None,
    pad_token_id: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """Token ids of one response to each prompt, each ending with `eos_token_id` or at `max_new_tokens`.

    `eos_token_id=None` never stops early. Prompts of like length are sampled from together, as many as `TOKENS_AT_ONCE`
    allows.
    """
    # Drawn up front, a row after the other, so that what a response becomes does not depend on the others' lengths.
    heights = 1 - torch.rand(len(prompt_ids), settings.max_new_tokens, generator=generator, device=generator.device)
    by_length = sorted(range(len(prompt_ids)), key=lambda row: len(prompt_ids[row]), reverse=True)
    responses: dict[int, list[int]] = {}
    with torch.compiler.set_stance("force_eager"):  # a trunk compiled for training would be compiled for every length
        while len(responses) < len(by_length):
            longest = len(prompt_ids[by_length[len(responses)]]) + settings.max_new_tokens
            rows = by_length[len(responses) :][: max(1, TOKENS_AT_ONCE // longest)]
            prompts = [prompt_ids[row] for row in rows]
            found = _generate_together(model, prompts, settings, eos_token_id, pad_token_id, heights[rows])
            responses.update(zip(rows, found, strict=True))
    return [responses[row] for row in range(len(prompt_ids))]


def _generate_together(
    model: nn.Module,
    prompt_ids: Sequence[list[int]],
    settings: GenerationSettings,
    eos_token_id: int | None,
    pad_token_id: int,
    heights: Tensor,
) -> list[list[int]]:
    """The same for a batch; `heights` [b, max_new_tokens] are what tokens are drawn by."""
    inner = unwrapped(model)
    two_parts = inner.config.is_encoder_decoder
    ids, mask = pad(prompt_ids, pad_token_id, left=not two_parts)
    device = inner.device
    decoder = (_EncoderDecoder if two_parts else _DecoderOnly)(inner, ids.to(device), mask.long().to(device))
    responses: list[list[int]] = [[] for _ in prompt_ids]
    rows = torch.arange(len(prompt_ids))  # which response each row of the shrinking batch writes
    for step in range(settings.max_new_tokens):
        tokens = _draw(response_logits(model, decoder.states), settings, heights[rows.to(heights.device), step])
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            responses[row].append(token)
        going_on = tokens != eos_token_id if eos_token_id is not None else torch.ones_like(tokens, dtype=torch.bool)
        if len(responses[rows[0]]) == settings.max_new_tokens or not going_on.any():
            break
        if not going_on.all():
            kept = going_on.nonzero().squeeze(-1)
            decoder.keep(kept)
            rows, tokens = rows[kept.cpu()], tokens[kept]
        decoder.step(tokens)
    return responses


def _draw(logits: Tensor, settings: GenerationSettings, heights: Tensor) -> Tensor:
    """One token per row of logits [b, v], by a random number in (0, 1] per row, [b]."""
    if not settings.do_sample:
        return logits.argmax(-1)
    logits = logits.float() / settings.temperature
    if settings.top_k:
        kth = logits.topk(min(settings.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if settings.top_p < 1:
        ordered, order = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        logits = logits.scatter(-1, order, ordered.masked_fill(before >= settings.top_p, -torch.inf))
    # Inverse of the cumulative distribution: one random number a row, where multinomial draws one a vocabulary entry.
    cumulative = logits.softmax(-1).cumsum(-1)
    height = heights.to(cumulative.device).unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, height).squeeze(-1)


class _DecoderOnly:
    """The running state of a batch: cache, mask and the last hidden states [b, h]."""

    def __init__(self, model: Any, prompt_ids: Tensor, prompt_mask: Tensor) -> None:
        self._trunk = model.base_model
        self._cache = new_cache(model.config)
        self._mask = prompt_mask
        self.states = self._forward(prompt_ids, _positions(prompt_mask))

    def step(self, tokens: Tensor) -> None:
        """Take in the tokens [b] that were drawn."""
        self._mask = torch.cat([self._mask, torch.ones_like(tokens).unsqueeze(-1)], 1)
        self.states = self._forward(tokens.unsqueeze(-1), _positions(self._mask)[:, -1:])

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows."""
        self._cache.batch_select_indices(rows)
        self._mask = self._mask[rows]

    def _forward(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        hidden: Tensor = self._trunk(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=position_ids,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return hidden[:, -1]


def _positions(mask: Tensor) -> Tensor:
    """[b, p] place of each real token among the real ones, so that padding on the left shifts nothing."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


class _EncoderDecoder:
    """The same for an encoder-decoder: the prompt is encoded once."""

    def __init__(self, model: Any, prompt_ids: Tensor, prompt_mask: Tensor) -> None:
        self._decoder = model.get_decoder()
        self._cache = EncoderDecoderCache(new_cache(model.config), new_cache(model.config))
        self._mask = prompt_mask
        self._encoded = model.get_encoder()(input_ids=prompt_ids, attention_mask=prompt_mask).last_hidden_state
        self.step(torch.full_like(prompt_ids[:, 0], model.config.decoder_start_token_id))

    def step(self, tokens: Tensor) -> None:
        """Take in the tokens [b] that were drawn."""
        hidden: Tensor = self._decoder(
            input_ids=tokens.unsqueeze(-1),
            encoder_hidden_states=self._encoded,
            encoder_attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self.states = hidden[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows."""
        self._cache.batch_select_indices(rows)
        self._mask, self._encoded = self._mask[rows], self._encoded[rows]
