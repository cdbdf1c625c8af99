"""The supervised loss mixed into PPO's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from align.configs.ppo import PPOStageConfig
from align.errors import UsageError
from align.ppo import PPOConfig, PPOTrainer, mixing
from align.ppo.actor_critic import ActorCritic

PROMPTS = [{"prompt": f"w{first} w{second}"} for first in range(4, 8) for second in range(4, 8)]
EXAMPLES = [{"prompt": f"w{n} w5", "completion": " ".join(["w9"] * (n - 3))} for n in range(4, 10)]


@pytest.fixture
def make(tiny_model: Callable[[str], Any], word_tokenizer: Any) -> Callable[..., PPOTrainer]:
    def made(architecture: str = "llama", ptx: Any = EXAMPLES, **settings: Any) -> PPOTrainer:
        defaults = {
            "total_episodes": 16, "batch_size": 8, "response_length": 4, "temperature": 1.0, "learning_rate": 1e-2,
            "health": {"min_score_std": None},
        }  # fmt: skip
        return PPOTrainer(
            args=PPOConfig(**{**defaults, **settings}),
            processing_class=word_tokenizer,
            model=tiny_model(architecture),
            reward_model=lambda prompts, responses: [0.5] * len(responses),
            train_dataset=PROMPTS,
            ptx_dataset=ptx,
        )

    return made


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize("budget", [8, 1000])
def test_loss_and_gradient_are_those_of_the_models_own(
    tiny_model: Callable[[str], Any], word_tokenizer: Any, architecture: str, budget: int
) -> None:
    examples = mixing.as_examples(EXAMPLES, word_tokenizer, None)
    model = tiny_model(architecture)
    loss = mixing.add_supervised_gradients(ActorCritic(model), examples, 0.5, 0, budget)
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    total = torch.zeros(())
    for example in examples:  # one at a time, by the model's own loss
        labels = torch.tensor([example.completion_ids])
        if architecture == "t5":
            own = model(input_ids=torch.tensor([example.prompt_ids]), labels=labels).loss
        else:
            ids = torch.tensor([[*example.prompt_ids, *example.completion_ids]])
            own = model(
                input_ids=ids, labels=ids.clone().index_fill_(1, torch.arange(len(example.prompt_ids)), -100)
            ).loss
        total = total + own * labels.numel()
    expected = total / sum(len(example.completion_ids) for example in examples)
    (0.5 * expected).backward()
    torch.testing.assert_close(loss, expected.detach())
    for name, parameter in model.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_what_is_mixed_in_is_learned_and_without_it_nothing_changes(make: Callable[..., PPOTrainer]) -> None:
    mixed, plain = make(ptx_coef=1.0, total_episodes=8 * 12), make(ptx=None, total_episodes=8 * 12)
    untrained = make(ptx=None).actor_critic

    def loss(actor_critic: ActorCritic) -> float:
        actor_critic.zero_grad()
        return float(mixing.add_supervised_gradients(actor_critic, mixed.examples, 1.0, 0, 1000))

    mixed.train()
    plain.train()
    assert loss(mixed.actor_critic) < 0.5 * loss(untrained)
    assert loss(plain.actor_critic) > 0.5 * loss(untrained)
    assert mixed.callbacks.state.log_history[0]["loss/ptx_avg"] > mixed.callbacks.state.log_history[-1]["loss/ptx_avg"]


def test_plain_text_learns_from_its_second_token_on(word_tokenizer: Any) -> None:
    (example,) = mixing.as_examples([{"prompt": "", "completion": "w4 w5"}], word_tokenizer, None)
    assert example == mixing.Example([4], [5, word_tokenizer.eos_token_id])


def test_rows_that_do_not_fit_are_counted(word_tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(mixing.as_examples(EXAMPLES, word_tokenizer, 6)) == 3
    assert "3 of 6 rows of ptx_dataset are empty or too long" in caplog.text
    with pytest.raises(UsageError, match="no row of ptx_dataset fits"):
        mixing.as_examples(EXAMPLES, word_tokenizer, 2)
    with pytest.raises(UsageError, match="row 1 of ptx_dataset needs `prompt` and `completion`"):
        mixing.as_examples([{"prompt": "w4"}], word_tokenizer, None)


def test_data_and_weight_go_together(make: Callable[..., PPOTrainer]) -> None:
    with pytest.raises(UsageError, match="give both or neither"):
        make(ptx_coef=0.0)
    with pytest.raises(UsageError, match="give both or neither"):
        make(ptx=None, ptx_coef=1.0)
    dataset = {"path": "rows.jsonl"}
    stage = {"kind": "ppo", "policy": "sft", "reward": "rules", "prompts": [{"dataset": dataset, "prompt": "{prompt}"}]}
    with pytest.raises(ValidationError, match="set both or neither"):
        PPOStageConfig.model_validate({**stage, "ppo": {"ptx_coef": 1.0}})
