"""Each check stops a run with its fault planted, by name, before any weight has changed; and is silent without it."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import reward_models
from align.errors import AlignError
from align.ppo import PPOConfig, PPOTrainer, preflight

PROMPTS = [{"prompt": f"w{word} w5"} for word in range(4, 12)]


class Probed:
    """Likes w7, or with `sign=-1` dislikes it, and says that it should like it."""

    name = "probed"

    def __init__(self, sign: int = 1) -> None:
        self.sign = sign

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [float(self.sign * response.split().count("w7")) for response in responses]

    def probes(self) -> list[tuple[str, str]]:
        return [("w7 w7", "w8")]


@pytest.fixture
def trainer(tiny_model: Callable[[str], Any], word_tokenizer: Any) -> Callable[..., PPOTrainer]:
    def make(architecture: str = "gpt2", settings: dict[str, Any] | None = None, **more: Any) -> PPOTrainer:
        args = PPOConfig(**{"total_episodes": 8, "batch_size": 8, "response_length": 12, **(settings or {})})
        return PPOTrainer(
            args, word_tokenizer, tiny_model(architecture), more.pop("ref_model", None), Probed(), PROMPTS, **more
        )

    return make


class NeverAtRest(torch.optim.SGD):
    """Has a pace of its own."""

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.add_(1e-6)


def reference_moved(make: Callable[..., PPOTrainer]) -> PPOTrainer:
    ppo = make()
    with torch.no_grad():
        ppo.actor_critic.reference.transformer.wte.weight.mul_(1.01)
    return ppo


def dropout_on(make: Callable[..., PPOTrainer]) -> PPOTrainer:
    ppo = make(settings={"gradient_checkpointing": True})
    ppo.actor_critic.model.transformer.drop.p = 0.1
    return ppo


def head_scaled(make: Callable[..., PPOTrainer]) -> PPOTrainer:
    ppo = make()
    ppo.actor_critic.model.config.logit_scale = 1.3
    return ppo


def eos_unspeakable(make: Callable[..., PPOTrainer]) -> PPOTrainer:
    ppo = make("bart")
    ppo.actor_critic.model.final_logits_bias[0, 2] = -100.0
    ppo.actor_critic.reference.final_logits_bias[0, 2] = -100.0
    return ppo


def eos_beyond_the_vocabulary(make: Callable[..., PPOTrainer]) -> PPOTrainer:
    return make(settings={"stop_token_id": 60})


def eos_masked(make: Callable[..., PPOTrainer]) -> PPOTrainer:
    """As where masks are made from a pad token that is also EOS."""
    ppo = make(settings={"response_length": 40})
    roll_out = ppo._roll_out

    def masked(*arguments: Any) -> Any:
        rollout = roll_out(*arguments)
        assert rollout.finished.any()
        mask = rollout.mask & (rollout.batch.response_ids != 2)
        return dataclasses.replace(rollout, batch=dataclasses.replace(rollout.batch, response_mask=mask))

    ppo._roll_out = masked  # type: ignore[method-assign]
    return ppo


def optimizer_restless(make: Callable[..., PPOTrainer]) -> PPOTrainer:
    ppo = make()
    ppo.optimizer = NeverAtRest(ppo.actor_critic.parameters(), lr=0.1)
    return ppo


def reward_upside_down(make: Callable[..., PPOTrainer]) -> PPOTrainer:
    ppo = make()
    ppo.reward = preflight.CheckedModel(Probed(sign=-1))
    return ppo


def member_upside_down(make: Callable[..., PPOTrainer]) -> PPOTrainer:
    ppo = make()
    ppo.reward = reward_models.load({"combine": "weighted_sum", "of": [Probed(sign=-1), Probed()], "weights": [1, 3]})
    return ppo


def judge_upside_down(make: Callable[..., PPOTrainer]) -> PPOTrainer:
    ppo = make()
    ppo.judge = preflight.CheckedModel(Probed(sign=-1))
    return ppo


def reward_sorted(make: Callable[..., PPOTrainer]) -> PPOTrainer:
    ppo = make()
    ppo.reward = preflight.CheckedModel(lambda prompts, responses: sorted(map(len, responses)), "sorter")
    return ppo


def reward_drawn(make: Callable[..., PPOTrainer]) -> PPOTrainer:
    ppo, draw = make(), random.Random(0)
    ppo.reward = preflight.CheckedModel(lambda prompts, responses: [draw.random() for _ in responses], "gambler")
    return ppo


def reward_mixed_up_further_back(make: Callable[..., PPOTrainer]) -> PPOTrainer:
    def score(prompts: list[str], responses: list[str]) -> list[float]:
        found = [float(sum(map(ord, response))) for response in responses]
        return found[:4] + found[:3:-1]

    ppo = make()
    ppo.reward = preflight.CheckedModel(score, "mixer")
    return ppo


FAULTS = {
    "kl-zero": reference_moved,
    "ratio-one": dropout_on,
    "own-logits": head_scaled,
    "eos-reachable: the stop token 2 has": eos_unspeakable,
    "eos-reachable: the model has no token 60": eos_beyond_the_vocabulary,
    "eos-in-loss": eos_masked,
    "lr-zero": optimizer_restless,
    "reward-polarity: probed": reward_upside_down,
    "reward-polarity: probed scores": member_upside_down,
    "reward-polarity: probed scores the better": judge_upside_down,
    "reward-order: sorter": reward_sorted,
    "reward-order: gambler": reward_drawn,
    "reward-order: mixer": reward_mixed_up_further_back,
}


@pytest.mark.parametrize("name", FAULTS)
def test_stops_a_planted_fault(trainer: Callable[..., PPOTrainer], name: str) -> None:
    ppo = FAULTS[name](trainer)
    before = {key: weight.clone() for key, weight in ppo.actor_critic.trainable.items()}
    with pytest.raises(AlignError, match=name):
        ppo.train()
    assert ppo.state.update == 0
    assert all(torch.equal(weight, before[key]) for key, weight in ppo.actor_critic.trainable.items())


CONSTANT_IS_FINE = {"health": {"min_score_std": None}}


def test_is_silent_without_a_fault(
    trainer: Callable[..., PPOTrainer], architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="align.ppo"):
        assert trainer(architecture, CONSTANT_IS_FINE).train().update == 1
    assert not [record.getMessage() for record in caplog.records if record.name.startswith("align")]


def test_what_does_not_apply_is_logged_as_skipped(
    trainer: Callable[..., PPOTrainer], tiny_model: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    ppo = trainer("gpt2", {"stop_token": None, **CONSTANT_IS_FINE}, ref_model=tiny_model("gpt2"))
    ppo.reward = preflight.CheckedModel(lambda prompts, responses: [0.0] * len(responses), "plain")
    with caplog.at_level(logging.INFO, logger="align.ppo"):
        ppo.train()
    assert [record.getMessage().removeprefix("ppo preflight: ") for record in caplog.records] == [
        "reward-polarity skipped, plain declares no probes",
        "kl-zero skipped, the reference policy was given",
        "eos-reachable and eos-in-loss skipped, there is no stop token",
    ]


def test_the_checks_leave_no_trace(trainer: Callable[..., PPOTrainer], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is bitwise the same with and without them."""
    checked = trainer(settings={"learning_rate": 1e-3})
    checked.train()
    monkeypatch.setattr(PPOTrainer, "_preflight", lambda self, rollout: None)
    unchecked = trainer(settings={"learning_rate": 1e-3})
    unchecked.train()
    for name, weight in unchecked.actor_critic.trainable.items():
        assert torch.equal(weight, checked.actor_critic.trainable[name])
