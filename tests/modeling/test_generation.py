from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from align.configs.base import GenerationSettings
from align.errors import UsageError
from align.modeling.generation import generate, sample

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [4]]


def generated(model: Any, prompts: list[list[int]], eos: int | None = 2, seed: int = 0, **how: Any) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    settings = GenerationSettings(**how)
    return generate(model, prompts, settings, eos_token_id=eos, pad_token_id=0, generator=generator)


def test_greedy_is_what_transformers_generates(tiny_model: Callable[[str], Any], architecture: str) -> None:
    model = tiny_model(architecture)
    ours = generated(model, PROMPTS, max_new_tokens=10, do_sample=False)
    for prompt, response in zip(PROMPTS, ours, strict=True):
        own = model.generate(
            torch.tensor([prompt]), max_new_tokens=10, do_sample=False, eos_token_id=2, forced_eos_token_id=None
        )[0].tolist()
        assert response == own[1 if model.config.is_encoder_decoder else len(prompt) :]


def test_a_response_ends_at_eos_and_at_the_limit(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("llama")
    responses = generated(model, PROMPTS * 20, max_new_tokens=12)
    assert {2 in response for response in responses} == {True, False}
    for response in responses:
        assert response.index(2) == len(response) - 1 if 2 in response else len(response) == 12


def test_without_eos_every_response_has_full_length(tiny_model: Callable[[str], Any]) -> None:
    assert {len(response) for response in generated(tiny_model("llama"), PROMPTS * 20, None, max_new_tokens=9)} == {9}


def test_the_seed_decides(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("llama")
    assert generated(model, PROMPTS, max_new_tokens=12) == generated(model, PROMPTS, max_new_tokens=12)
    assert generated(model, PROMPTS, max_new_tokens=12) != generated(model, PROMPTS, seed=1, max_new_tokens=12)


def test_samples_follow_the_models_distribution(tiny_model: Callable[[str], Any], architecture: str) -> None:
    """First tokens of many samples against the softmax they are drawn from, at a temperature."""
    model, count = tiny_model(architecture), 4000
    first = torch.tensor(generated(model, [[5, 6, 7]] * count, None, max_new_tokens=1, temperature=1.5))[:, 0]
    prompt = torch.tensor([[5, 6, 7]])
    if model.config.is_encoder_decoder:
        start = torch.tensor([[model.config.decoder_start_token_id]])
        logits = model(input_ids=prompt, decoder_input_ids=start).logits
    else:
        logits = model(input_ids=prompt).logits
    expected = (logits[0, -1] / 1.5).softmax(-1)
    observed = torch.bincount(first, minlength=50) / count
    assert (observed - expected).abs().max() < 5 * (0.25 / count) ** 0.5


def test_top_k_and_top_p_leave_out_the_unlikely(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("llama")
    likely = model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].topk(3).indices.tolist()
    first = {ids[0] for ids in generated(model, [[5, 6, 7]] * 200, max_new_tokens=1, top_k=3, temperature=5.0)}
    assert first == set(likely)
    first = {ids[0] for ids in generated(model, [[5, 6, 7]] * 200, max_new_tokens=1, top_p=1e-6)}
    assert first == {likely[0]}


def test_a_checkpoints_generation_config_does_not_leak_in(tiny_model: Callable[[str], Any]) -> None:
    model = tiny_model("llama")
    before = generated(model, PROMPTS, max_new_tokens=12)
    model.generation_config.repetition_penalty = 1.9
    model.generation_config.max_new_tokens = 2
    assert generated(model, PROMPTS, max_new_tokens=12) == before


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bart", "t5"])
def test_what_does_not_fit_into_the_context_is_refused_or_warned_of(
    tiny_model: Callable[[str], Any], word_tokenizer: Any, architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(architecture)
    context = 10_000 if architecture == "t5" else model.config.max_position_embeddings  # T5 has relative positions
    settings = GenerationSettings(max_new_tokens=4)
    said = rf"1 of 2 prompts with their responses are longer than the model's context of {context} tokens"
    if architecture in ("gpt2", "bart"):
        with pytest.raises(UsageError, match=f"{said}.*: leave such rows out"):
            sample(model, word_tokenizer, ["w6", "w5 " * (context + 1)], settings, seed=0)
    else:
        assert len(sample(model, word_tokenizer, ["w6", "w5 " * 200], settings, seed=0)) == 2
        assert bool(re.search(said, caplog.text)) == (architecture == "llama")
    caplog.clear()
    sample(model, word_tokenizer, ["w5 " * (min(context, 40) - 4)], settings, seed=0)
    assert not caplog.text


def test_sample_keeps_the_order_of_prompts(tiny_model: Callable[[str], Any], word_tokenizer: Any) -> None:
    model, counted = tiny_model("llama"), []
    prompts = ["w5 w6 w7", "w8", "w9 w10", "w11 w12 w13 w14"]
    responses = sample(
        model,
        word_tokenizer,
        prompts,
        GenerationSettings(max_new_tokens=6, do_sample=False),
        seed=0,
        batch_size=3,
        on_batch=counted.append,
    )
    alone = [generated(model, [word_tokenizer(p)["input_ids"]], max_new_tokens=6, do_sample=False)[0] for p in prompts]
    assert [response.token_ids for response in responses] == alone
    assert counted == [3, 1]
    assert all(response.finished == (response.token_ids[-1] == 2) for response in responses)
    assert "</s>" not in " ".join(response.text for response in responses)
