"""Where training ends: at policy ∝ reference × exp(reward / kl_coef), and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from align.ppo import PPOConfig, PPOTrainer, objective

WORDS = 12
REWARDS = torch.randn(WORDS, generator=torch.Generator().manual_seed(1)).tolist()


def policy() -> Any:
    """A Llama of twelve words, the first four of them special and without a text."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, **shape, initializer_range=0.3, pad_token_id=0)).eval()


def by_word(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [REWARDS[int(response[1:])] if response.startswith("w") else 0.0 for response in responses]


def distribution(model: Any) -> torch.Tensor:
    with torch.no_grad():
        log_probs: torch.Tensor = model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].log_softmax(-1)
    return log_probs


def kl(log_probs: torch.Tensor, other: torch.Tensor) -> float:
    return float((log_probs.exp() * (log_probs - other)).sum())


@pytest.mark.parametrize(
    ("beta", "method"),
    [
        (1.0, {}),
        (0.5, {}),
        (0.25, {}),
        (0.5, {"advantage": "rloo", "num_generations": 8}),
        (0.5, {"advantage": "reinforce_pp", "whiten_advantages": False}),
    ],
    ids=str,
)
def test_reaches_the_closed_form_optimum(word_tokenizer: Any, beta: float, method: dict[str, Any]) -> None:
    """One token, one prompt: what is best is known."""
    model = policy()
    reference = distribution(model)
    optimum = (reference + torch.tensor([0.0] * 4 + REWARDS[4:]) / beta).log_softmax(-1)
    args = PPOConfig(
        **{
            "total_episodes": 512 * 60,
            "batch_size": 512,
            "num_ppo_epochs": 2,
            "response_length": 1,
            "stop_token": None,
            "temperature": 1.0,
            "kl_coef": beta,
            "learning_rate": 2e-2,
            "vf_coef": 0.5,
            "whiten_advantages": False,
            **method,
        }
    )
    PPOTrainer(args, word_tokenizer, model, None, by_word, [{"input_ids": [5, 6]}]).train()
    assert kl(distribution(model), optimum) < 0.01
    assert kl(reference, optimum) > 0.05


# Which placement of which estimator ends there: exact expectations over twenty tokens, no sampling and no network.
# "reward": the estimator is a number subtracted from the reward; "loss": it is differentiated.

TABLE = {  # KL from the optimum at beta 1 and at 0.2
    ("reward", "k1"): (0.00, 0.00),
    ("loss", "k2"): (0.00, 0.00),
    ("loss", "k3"): (0.026, 0.352),
    ("reward", "k2"): (0.56, 0.18),
    ("loss", "k1"): (0.99, 0.18),
    ("reward", "k3"): (0.99, 0.18),
}


def exact_case() -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of a reference policy, and rewards, [20] each: those of the table above."""
    draw = numpy.random.default_rng(0)
    reference = torch.from_numpy(draw.normal(0, 1, 20)).log_softmax(-1)
    return reference, torch.from_numpy(draw.normal(0, 1, 20))


def ends_at(
    placement: str, estimator: str, reference: torch.Tensor, rewards: torch.Tensor, beta: float
) -> torch.Tensor:
    """Where following the exact gradient leads, [20] log-probabilities."""
    start, gain_of = reference.numpy(), rewards.numpy()
    logits = start.copy()
    for _ in range(3000):
        probs = numpy.exp(logits - logits.max())
        probs /= probs.sum()
        ratio = numpy.log(numpy.maximum(probs, 1e-300)) - start
        if placement == "reward":
            penalty = {"k1": ratio, "k2": ratio**2 / 2, "k3": numpy.expm1(-ratio) + ratio}[estimator]
        else:  # the derivative of each estimator by the log-probability
            penalty = {"k1": numpy.ones(20), "k2": ratio, "k3": 1 - numpy.exp(-ratio)}[estimator]
        gain = gain_of - beta * penalty
        logits += 2 * probs * (gain - (probs * gain).sum())
    return torch.from_numpy(logits).log_softmax(-1)


@pytest.mark.parametrize(("placement", "estimator"), TABLE)
def test_only_k1_in_the_reward_and_k2_as_a_loss_end_at_the_optimum(placement: str, estimator: str) -> None:
    reference, rewards = exact_case()
    for beta, expected in zip((1.0, 0.2), TABLE[placement, estimator], strict=True):
        optimum = (reference + rewards / beta).log_softmax(-1)
        assert kl(ends_at(placement, estimator, reference, rewards, beta), optimum) == pytest.approx(expected, abs=0.01)


def test_the_engines_gradient_is_that_of_the_objective() -> None:
    """Every token once, weighted by its probability, in the place of samples: the gradient of E[reward] - beta x KL."""
    reference, rewards = exact_case()
    beta, logits = (
        0.3,
        torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(),
    )
    log_probs = logits.log_softmax(-1)
    aim = (log_probs.exp() * (rewards - beta * (log_probs - reference))).sum()
    (expected,) = torch.autograd.grad(aim, logits, retain_graph=True)
    one_token = torch.ones(20, 1, dtype=torch.bool)
    shaped = objective.token_rewards(rewards, (log_probs - reference).detach().unsqueeze(1), one_token, beta)
    advantages, _ = objective.gae(shaped, torch.zeros_like(shaped), one_token, 1.0, 0.95)
    loss, _ = objective.policy_loss(log_probs, log_probs.detach(), advantages.squeeze(1), 0.2)
    (found,) = torch.autograd.grad((log_probs.exp().detach() * loss).sum(), logits)
    torch.testing.assert_close(-found, expected, atol=1e-12, rtol=0)
