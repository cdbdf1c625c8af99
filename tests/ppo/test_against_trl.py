"""One update on the same rollout as TRL 1.12.0, number by number, from what `record_trl_fixture.py` wrote down.

The rollout is one where TRL is right: no response ends early. What differs there nevertheless:
- whitening: TRL divides by the unbiased standard deviation, this engine (like the papers) by the standard deviation,
  which makes advantages larger by sqrt(n / (n - 1)), n response tokens;
- the temperature: TRL adds 1e-7 to it.
Elsewhere TRL is wrong, and these differ on purpose:
- the score of a response that ends with EOS lands on the first PAD after it, and the value there is trained;
- a pad token that is also EOS masks real EOS tokens;
- approxkl, ratio and entropy in the log are means over padding too;
- `num_mini_batches` changes nothing once gradients accumulate, and a rollout that exhausts the data loader makes every
  micro-batch a step;
- the mean of micro-batch means is taken for the mean over tokens;
- gradients are never clipped, whatever `max_grad_norm` says;
- sampling takes what it is not told from the checkpoint's `generation_config`;
- nothing but `response_length` ends a response by default;
- the reward model gets the policy's tokens;
- each process whitens its own advantages.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from align.ppo import PPOConfig, PPOTrainer, learning, objective, rollout

sys.path.insert(0, str(Path(__file__).parent))
import record_trl_fixture as recorded

TRL = load_file(recorded.TENSORS)
FIGURES: dict[str, float] = json.loads(recorded.FIXTURE.read_text(encoding="utf-8"))["figures"]
QUERIES, RESPONSES = TRL["queries"].tolist(), TRL["responses"].tolist()


def with_weights(kind: type, name: str, **more: Any) -> Any:
    model = recorded.llama(kind, 0, **more)
    model.load_state_dict({key: TRL[f"{name}.{key}"] for key in model.state_dict()})
    return model


@pytest.fixture
def ppo(word_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> PPOTrainer:
    monkeypatch.setattr(rollout, "generate", lambda *_, **__: RESPONSES)
    return PPOTrainer(
        PPOConfig(**recorded.SETTINGS, response_length=5, batch_size=4, stop_token=None),
        word_tokenizer,
        with_weights(LlamaForCausalLM, "policy"),
        with_weights(LlamaForCausalLM, "reference"),
        lambda prompts, responses: TRL["scores"].tolist(),
        [{"input_ids": query} for query in QUERIES],
        with_weights(LlamaForSequenceClassification, "value_model", num_labels=1),
    )


def close(found: torch.Tensor | float, expected: torch.Tensor | float) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), atol=1e-5, rtol=1e-5)


def trls_gradient(epoch: int, name: str) -> torch.Tensor:
    """TRL calls `policy.` what is `model.` here."""
    return TRL[f"gradient.{epoch}." + ("policy." + name.removeprefix("model.") if name.startswith("model.") else name)]


def test_rewards_advantages_and_figures_are_trls(ppo: PPOTrainer) -> None:
    found = ppo._roll_out(ppo.prompts, torch.Generator())
    rewards = objective.token_rewards(found.scores, found.log_ratios, found.mask, ppo.args.kl_coef)
    advantages, _ = objective.gae(rewards, found.values, found.mask, ppo.args.gamma, ppo.args.lam)
    close(advantages, TRL["advantages"])
    count = found.mask.sum()
    close(objective.whiten(advantages, found.mask) * torch.sqrt((count - 1) / count), TRL["whitened"])
    close(found.kl.mean(), FIGURES["objective/kl"])
    close(rewards.sum(1).mean(), FIGURES["objective/rlhf_reward"])
    close(found.scores.mean(), FIGURES["objective/scores"])
    close(-found.log_probs.sum(1).mean(), FIGURES["objective/entropy"])


def test_losses_and_gradients_of_two_epochs_are_trls(ppo: PPOTrainer) -> None:
    """The second epoch starts from where the first went, and clips both ratios and values."""
    found = ppo._roll_out(ppo.prompts, torch.Generator())
    returns = TRL["advantages"] + found.values
    optimizer = torch.optim.SGD(ppo.actor_critic.trainable.values(), lr=recorded.LEARNING_RATE)
    figures = []
    for epoch in range(2):
        optimizer.zero_grad()
        figures.append(
            learning.accumulate_gradients(ppo.actor_critic, found, torch.arange(4), TRL["whitened"], returns, ppo.args)
        )
        for name, parameter in ppo.actor_critic.trainable.items():
            assert parameter.grad is not None
            close(parameter.grad, trls_gradient(epoch, name))
        assert len(ppo.actor_critic.trainable) == sum(key.startswith(f"gradient.{epoch}.") for key in TRL)
        optimizer.step()
    for name in ("loss/policy_avg", "loss/value_avg", "policy/approxkl_avg", "policy/clipfrac_avg", "val/clipfrac_avg"):
        close((figures[0][name] + figures[1][name]) / 2, FIGURES[name])
    assert figures[1]["policy/clipfrac_avg"] > 0
    assert figures[1]["val/clipfrac_avg"] > 0


def test_how_a_mini_batch_is_split_changes_no_gradient(ppo: PPOTrainer) -> None:
    found = ppo._roll_out(ppo.prompts, torch.Generator())
    args = ppo.args.model_copy(update={"tokens_per_micro_batch": 8})
    returns = TRL["advantages"] + found.values
    learning.accumulate_gradients(ppo.actor_critic, found, torch.arange(4), TRL["whitened"], returns, args)
    for name, parameter in ppo.actor_critic.trainable.items():
        assert parameter.grad is not None
        close(parameter.grad, trls_gradient(0, name))
