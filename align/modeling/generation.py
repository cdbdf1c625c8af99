"""Sampling responses with a key-value cache, for decoder-only and encoder-decoder models alike.

Written out rather than left to `model.generate` for three reasons: nothing leaks in from a checkpoint's
`generation_config`, finished responses leave the batch and cost nothing, and the random numbers come from a generator
of one's own, so that a resumed run draws the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedTokenizerBase

from align.configs.base import GenerationSettings
from align.modeling.trunk import pad, response_logits, unwrapped


@dataclass(frozen=True)
class Response:
    """What a model answered."""

    text: str
    """Without special tokens and surrounding white space."""
    token_ids: list[int]
    """With the end-of-text token, where it was reached."""
    finished: bool
    """Whether it ended by itself, and not at `max_new_tokens`."""


def sample(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    settings: GenerationSettings,
    *,
    seed: int,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> list[Response]:
    """A response to each prompt, in the prompts' order. The same seed gives the same responses.

    `on_batch` is called with the number of responses that each finished batch adds.
    """
    prompt_ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompt_ids[index]), reverse=True)
    responses: dict[int, Response] = {}
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for start in range(0, len(by_length), batch_size):
        members = by_length[start : start + batch_size]
        token_ids = generate(
            model,
            [prompt_ids[index] for index in members],
            settings,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            generator=generator,
        )
        responses.update(zip(members, decode(tokenizer, token_ids), strict=True))
        if on_batch is not None:
            on_batch(len(members))
    return [responses[index] for index in range(len(prompts))]


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

    `eos_token_id=None` never stops early.
    """
    inner = unwrapped(model)
    two_parts = inner.config.is_encoder_decoder
    ids, mask = pad(prompt_ids, pad_token_id, left=not two_parts)
    device = inner.device
    decoder = (_EncoderDecoder if two_parts else _DecoderOnly)(inner, ids.to(device), mask.long().to(device))
    responses: list[list[int]] = [[] for _ in prompt_ids]
    rows = torch.arange(len(prompt_ids))  # which response each row of the shrinking batch writes
    # Drawn up front, a row after the other, so that what a response becomes does not depend on the others' lengths.
    heights = 1 - torch.rand(len(prompt_ids), settings.max_new_tokens, generator=generator, device=generator.device)
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
        self._cache = DynamicCache(config=model.config)
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
        self._cache = EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))
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
