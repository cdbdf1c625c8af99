"""A language model seen as a trunk (hidden states) and a head (logits), for prompts with responses.

Two functions here know a model's architecture, `response_states` and `response_logits`; all else is common to
decoder-only and encoder-decoder models. Shapes: b responses in a batch, p prompt tokens, t response tokens, h hidden
width, v vocabulary, n real response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LOGITS_AT_ONCE = 2**22
"""Numbers in the largest piece of logits that exists at one time: bounds memory whatever the batch and vocabulary."""


@dataclass(frozen=True)
class Batch:
    """Prompts with their responses, each padded on the right."""

    prompt_ids: Tensor
    """[b, p]"""
    prompt_mask: Tensor
    """[b, p] True where there is a prompt token."""
    response_ids: Tensor
    """[b, t]"""
    response_mask: Tensor
    """[b, t] True where there is a response token (the end-of-text token is one)."""

    @classmethod
    def build(
        cls,
        prompt_ids: Sequence[Sequence[int]],
        response_ids: Sequence[Sequence[int]],
        pad_token_id: int,
        device: torch.device | str = "cpu",
    ) -> Batch:
        """Pad token lists into tensors. Masks come from lengths, so that a pad token equal to EOS does no harm."""
        tensors = (*pad(prompt_ids, pad_token_id), *pad(response_ids, pad_token_id))
        return cls(*(tensor.to(device) for tensor in tensors))

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @property
    def lengths(self) -> Tensor:
        """[b] real tokens of prompt and response."""
        return self.prompt_mask.sum(1) + self.response_mask.sum(1)

    def select(self, rows: Tensor) -> Batch:
        """Some rows, without the columns that would hold padding alone."""
        longest_prompt = int(self.prompt_mask[rows].sum(1).max())
        longest_response = int(self.response_mask[rows].sum(1).max())
        return Batch(
            self.prompt_ids[rows, :longest_prompt],
            self.prompt_mask[rows, :longest_prompt],
            self.response_ids[rows, :longest_response],
            self.response_mask[rows, :longest_response],
        )


def pad(rows: Sequence[Sequence[int]], pad_token_id: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of token ids as one tensor [rows, longest] with a boolean mask of the same shape."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = True
    return ids, mask


def unwrapped(model: nn.Module) -> Any:
    """The transformers model inside a peft wrapper. Its adapters are injected in place, so nothing is lost."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(model, "get_base_model") else model


def response_states(model: nn.Module, batch: Batch) -> Tensor:
    """Hidden states that predict each response token, [b, t, h], ready for `response_logits` and a value head.

    What stands on padding is meaningless and finite.
    """
    inner = unwrapped(model)
    states: Tensor
    if inner.config.is_encoder_decoder:
        prompt_mask = batch.prompt_mask.long()
        encoded = inner.get_encoder()(input_ids=batch.prompt_ids, attention_mask=prompt_mask).last_hidden_state
        start = torch.full_like(batch.response_ids[:, :1], inner.config.decoder_start_token_id)
        states = inner.get_decoder()(
            input_ids=torch.cat([start, batch.response_ids[:, :-1]], 1),
            encoder_hidden_states=encoded,
            encoder_attention_mask=prompt_mask,
            use_cache=False,
        ).last_hidden_state
        return states
    # Prompt and response closed up and padded on the right: a causal model's real tokens never look at what comes
    # later, so that neither mask nor positions are needed, and attention takes its fast path.
    ids = torch.cat([batch.prompt_ids, batch.response_ids], 1)
    is_padding = ~torch.cat([batch.prompt_mask, batch.response_mask], 1)
    closed_up = is_padding.long().argsort(dim=1, stable=True)[:, : int(batch.lengths.max()) - 1]
    hidden = inner.base_model(input_ids=ids.gather(1, closed_up), use_cache=False).last_hidden_state
    before = batch.prompt_mask.sum(1, keepdim=True) - 1 + torch.arange(batch.response_ids.shape[1], device=ids.device)
    before = before.clamp(max=hidden.shape[1] - 1)
    states = hidden.gather(1, before.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
    return states


def tokens_at_once(model: nn.Module) -> int:
    """Response tokens whose logits fit into `LOGITS_AT_ONCE`."""
    vocabulary: int = unwrapped(model).get_output_embeddings().weight.shape[0]
    return max(1, LOGITS_AT_ONCE // vocabulary)


def response_logits(model: nn.Module, states: Tensor) -> Tensor:
    """Logits [..., v] of hidden states [..., h] as the model's own head computes them.

    T5 scales states where its embeddings are tied, BART adds a bias, Cohere and Granite scale logits, Gemma 2 caps
    them. That this list is complete for a given model is checked before training, by `align.ppo.preflight`.
    """
    inner = unwrapped(model)
    config = inner.config
    if getattr(config, "scale_decoder_outputs", False):
        states = states * config.d_model**-0.5
    logits: Tensor = inner.get_output_embeddings()(states)
    if getattr(inner, "final_logits_bias", None) is not None:
        logits = logits + inner.final_logits_bias
    if getattr(config, "logit_scale", None) is not None:
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None) is not None:
        logits = logits / config.logits_scaling
    if getattr(config, "final_logit_softcapping", None) is not None:
        logits = torch.tanh(logits / config.final_logit_softcapping) * config.final_logit_softcapping
    return logits


def token_log_probs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) [..., v] at tokens [...], in float32."""
    logits = logits.float() / temperature
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


@torch.no_grad()
def response_log_probs(model: nn.Module, batch: Batch, temperature: float = 1.0) -> Tensor:
    """Log-probability of each response token, [b, t] float32, 0 on padding. Never [b, t, v] at once."""
    states = response_states(model, batch)[batch.response_mask]
    tokens = batch.response_ids[batch.response_mask]
    size = tokens_at_once(model)
    log_probs = states.new_zeros(batch.response_ids.shape, dtype=torch.float32)
    log_probs[batch.response_mask] = torch.cat(
        [
            token_log_probs(response_logits(model, some), these, temperature)
            for some, these in zip(states.split(size), tokens.split(size), strict=True)
        ]
    )
    return log_probs


@torch.no_grad()
def response_kl(model: nn.Module, reference: nn.Module, batch: Batch) -> Tensor:
    """KL of `model` from `reference` along each response, [b] nats: the exact KL of every next-token distribution,
    summed over the response's tokens. On responses sampled from `model` at temperature 1 its mean is the KL of the
    two models' response distributions, with less variance than the sum of log-ratios (Rao-Blackwell)."""
    model_states = response_states(model, batch)[batch.response_mask]
    reference_states = response_states(reference, batch)[batch.response_mask]
    size = tokens_at_once(model)
    per_token = torch.cat(
        [
            _kl(response_logits(model, some), response_logits(reference, other))
            for some, other in zip(model_states.split(size), reference_states.split(size), strict=True)
        ]
    )
    summed = per_token.new_zeros(batch.response_ids.shape)
    summed[batch.response_mask] = per_token
    return summed.sum(-1)


def _kl(logits: Tensor, reference_logits: Tensor) -> Tensor:
    log_probs, reference = logits.float().log_softmax(-1), reference_logits.float().log_softmax(-1)
    return (log_probs.exp() * (log_probs - reference)).sum(-1)
