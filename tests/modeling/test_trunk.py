from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from align.modeling.trunk import Batch, response_kl, response_log_probs, response_logits, response_states

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [4]]
RESPONSES = [[20, 21, 22, 2], [23, 2], [24, 25, 26, 27, 28, 29]]


def own_logits(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """[t, v] as the model itself computes them, one response at a time and without padding."""
    if model.config.is_encoder_decoder:
        shifted = [model.config.decoder_start_token_id, *response[:-1]]
        return model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([shifted])).logits[0]
    return model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_models_own_logits(
    tiny_model: Callable[[str], Any], architecture: str, temperature: float
) -> None:
    model = tiny_model(architecture)
    log_probs = response_log_probs(model, Batch.build(PROMPTS, RESPONSES, 0), temperature)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        own = (own_logits(model, prompt, response) / temperature).log_softmax(-1)
        expected = own[torch.arange(len(response)), response]
        torch.testing.assert_close(log_probs[row, : len(response)], expected, atol=1e-5, rtol=0)
        assert not log_probs[row, len(response) :].any()


def test_padding_and_neighbours_change_nothing(tiny_model: Callable[[str], Any], architecture: str) -> None:
    model = tiny_model(architecture)
    batch = Batch.build(PROMPTS, RESPONSES, 0)
    together = response_log_probs(model, batch)
    for row in range(len(PROMPTS)):
        alone = response_log_probs(model, batch.select(torch.tensor([row])))
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], atol=1e-5, rtol=0)


def test_a_pad_token_that_is_also_eos_does_no_harm(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("llama")
    with_pad, with_eos = (response_log_probs(model, Batch.build(PROMPTS, RESPONSES, pad)) for pad in (0, 2))
    torch.testing.assert_close(with_pad, with_eos, atol=1e-6, rtol=0)


def test_kl_of_a_model_from_itself_is_zero_and_from_another_is_not(tiny_model: Callable[[str], Any]) -> None:
    model, other = tiny_model("llama"), tiny_model("llama")
    batch = Batch.build(PROMPTS, RESPONSES, 0)
    assert response_kl(model, other, batch).abs().max() < 1e-5
    with torch.no_grad():
        other.get_output_embeddings().weight.mul_(1.1)
    assert (response_kl(model, other, batch) > 0).all()


def test_kl_is_the_mean_log_ratio_of_samples(tiny_model: Callable[[str], Any]) -> None:
    """One token: the exact KL of the two next-token distributions, counted by hand."""
    model, other = tiny_model("llama"), tiny_model("qwen2")
    batch = Batch.build([[5, 6, 7]], [[20]], 0)
    p = response_logits(model, response_states(model, batch))[0, 0].log_softmax(-1)
    q = response_logits(other, response_states(other, batch))[0, 0].log_softmax(-1)
    torch.testing.assert_close(response_kl(model, other, batch)[0], (p.exp() * (p - q)).sum(), atol=1e-5, rtol=0)
