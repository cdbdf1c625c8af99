from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError

from align.configs.base import LoraSettings
from align.configs.ppo import HealthConfig
from align.errors import AlignError, UsageError
from align.modeling.adapters import attach
from align.modeling.load import load_causal_or_seq2seq
from align.ppo import PPOConfig, PPOTrainer
from align.ppo.actor_critic import ActorCritic
from align.tracking import NullTracker
from reward_models import RewardError

PROMPTS = [{"prompt": f"w{first} w{second}"} for first in range(4, 12) for second in range(4, 8)]


class Recorder(NullTracker):
    def __init__(self) -> None:
        self.figures: list[dict[str, float]] = []
        self.evaluations: list[dict[str, float]] = []

    def log(self, metrics: Any, step: int) -> None:
        (self.evaluations if "eval/objective/scores" in metrics else self.figures).append(dict(metrics))


def share_of_w7(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [response.split().count("w7") / 8 for response in responses]


def settings(**more: Any) -> PPOConfig:
    defaults = {
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant",
        "total_episodes": 64,
        "batch_size": 16,
        "response_length": 8,
        "temperature": 1.0,
        "tokens_per_micro_batch": 100,
        "eval_steps": 2,
        "save_steps": 2,
    }
    return PPOConfig(**{**defaults, **more})


@pytest.fixture
def trainer(tiny_model: Callable[[str], Any], word_tokenizer: Any) -> Callable[..., PPOTrainer]:
    def make(model: Any = "llama", reward: Any = share_of_w7, **more: Any) -> PPOTrainer:
        outside = {name: more.pop(name) for name in ("tracker", "checkpoint_dir", "ref_model", "judge") if name in more}
        held_out = more.pop("held_out", PROMPTS[:8])
        return PPOTrainer(
            args=settings(**more),
            processing_class=word_tokenizer,
            model=tiny_model(model) if isinstance(model, str) else model,
            reward_model=reward,
            train_dataset=PROMPTS,
            eval_dataset=held_out,
            **outside,
        )

    return make


def test_at_learning_rate_zero_nothing_changes_and_the_ratio_is_one(
    trainer: Callable[..., PPOTrainer], architecture: str
) -> None:
    recorder = Recorder()
    ppo = trainer(architecture, learning_rate=0, num_mini_batches=2, tracker=recorder, total_episodes=32)
    before = {name: tensor.clone() for name, tensor in ppo.actor_critic.state_dict().items()}
    ppo.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in ppo.actor_critic.state_dict().items())
    for figures in recorder.figures:
        assert figures["val/ratio"] == pytest.approx(1, abs=1e-5)
        assert figures["objective/kl"] == pytest.approx(0, abs=1e-4)
        assert figures["policy/clipfrac_avg"] == 0


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_learns_what_is_rewarded(trainer: Callable[..., PPOTrainer], architecture: str) -> None:
    recorder = Recorder()
    state = trainer(
        architecture, total_episodes=64 * 25, batch_size=64, kl_coef=0.01, tracker=recorder, eval_steps=5
    ).train()
    first, best = recorder.evaluations[0]["eval/objective/scores"], state.best.reward
    assert best > first + 0.3


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_qlora_learns_on_a_base_of_four_bits_and_trains_no_other_weight(
    trainer: Callable[..., PPOTrainer], tiny_model: Callable[[str], Any], tmp_path: Path, architecture: str
) -> None:
    widths = {"llama": {"hidden_size": 64, "intermediate_size": 128}, "t5": {"d_model": 64, "d_ff": 128, "d_kv": 32}}
    config = tiny_model(architecture).config
    config.update(widths[architecture])  # wide enough for blocks of 4-bit numbers
    torch.manual_seed(0)
    type(tiny_model(architecture))(config).save_pretrained(tmp_path)
    model = attach(load_causal_or_seq2seq(tmp_path, four_bits=True), LoraSettings(r=8, alpha=16))
    ppo = trainer(model, total_episodes=32 * 8, batch_size=32, kl_coef=0.01, learning_rate=1e-2, eval_steps=4)
    before = {name: parameter.clone() for name, parameter in ppo.actor_critic.named_parameters()}
    state = ppo.train()
    assert {
        name for name, parameter in ppo.actor_critic.named_parameters() if not torch.equal(parameter, before[name])
    } == {name for name in before if "lora" in name or name.startswith("value_head")}
    assert state.evaluations[0]["eval/objective/kl"] == pytest.approx(0, abs=1e-2)
    assert state.best.reward > state.evaluations[0]["eval/objective/scores"] + 0.1


def test_lora_trains_no_other_weight(trainer: Callable[..., PPOTrainer], tiny_model: Callable[[str], Any]) -> None:
    model = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules="all-linear"))
    ppo = trainer(model, held_out=[])
    before = {name: parameter.clone() for name, parameter in ppo.actor_critic.named_parameters()}
    ppo.train()
    changed = {
        name for name, parameter in ppo.actor_critic.named_parameters() if not torch.equal(parameter, before[name])
    }
    assert changed
    assert all("lora_" in name or name.startswith("value_head") for name in changed)
    assert ppo.actor_critic.reference is None


def test_micro_batches_change_nothing(trainer: Callable[..., PPOTrainer]) -> None:
    results = []
    for budget in (20, 100, 10_000):
        ppo = trainer(tokens_per_micro_batch=budget, total_episodes=16, num_mini_batches=2, held_out=[])
        ppo.train()
        results.append(torch.cat([parameter.flatten() for parameter in ppo.actor_critic.trainable.values()]))
    torch.testing.assert_close(results[0], results[2], atol=2e-5, rtol=0)
    torch.testing.assert_close(results[1], results[2], atol=2e-5, rtol=0)


def test_resumes_bitwise(trainer: Callable[..., PPOTrainer], tmp_path: Path) -> None:
    """Killed in every update by its reward model, and started again, against never killed."""
    adaptive = {"kl_target": 0.5, "reward_scaling": True, "total_episodes": 96, "save_steps": 1, "warmup_steps": 2}
    whole = trainer(**adaptive, checkpoint_dir=tmp_path / "whole")
    whole.train()

    def interrupted_after(calls: int) -> Callable[..., list[float]]:
        left = iter(range(calls))

        def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
            if next(left, None) is None:
                raise RuntimeError("power cut")
            return share_of_w7(prompts, responses)

        return score

    for calls in (1, 2, 2, 4):
        with pytest.raises((AlignError, RewardError), match="power cut"):
            trainer(reward=interrupted_after(calls), **adaptive, checkpoint_dir=tmp_path / "parts").train()
    resumed = trainer(**adaptive, checkpoint_dir=tmp_path / "parts")
    assert resumed.train() == whole.state
    for name, tensor in whole.actor_critic.state_dict().items():
        assert torch.equal(tensor, resumed.actor_critic.state_dict()[name]), name


def test_a_damaged_checkpoint_is_set_aside(
    trainer: Callable[..., PPOTrainer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trainer(checkpoint_dir=tmp_path)
    whole.train()
    with (tmp_path / "checkpoint-4" / "weights.safetensors").open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\x07")
    again = trainer(checkpoint_dir=tmp_path)
    with caplog.at_level(logging.WARNING):
        again.train()
    assert "checkpoint-4 cannot be resumed from" in caplog.text
    assert again.state == whole.state


def test_keeps_the_best_policy_within_the_kl_budget(trainer: Callable[..., PPOTrainer]) -> None:
    recorder = Recorder()
    state = trainer(
        total_episodes=64 * 12, batch_size=64, kl_coef=0, max_eval_kl=3.0, tracker=recorder, eval_steps=1
    ).train()
    within = [e["eval/objective/scores"] for e in recorder.evaluations if e["eval/objective/kl"] <= 3.0]
    assert state.best.reward == max(within)
    assert max(e["eval/objective/kl"] for e in recorder.evaluations) > 3.0


@pytest.mark.parametrize(
    ("threshold", "figure"),
    [
        ({"max_kl": 1e-9}, "KL"),
        ({"min_entropy": 50.0}, "entropy"),
        ({"max_length_drift": 1e-9}, "drift"),
        ({"max_repetition": 0.0}, "repeated"),
        ({"max_clipfrac": 0.0}, "clipped"),
        ({"min_score_std": 50.0}, "spread"),
    ],
)
def test_health_stops_or_warns(
    trainer: Callable[..., PPOTrainer],
    caplog: pytest.LogCaptureFixture,
    threshold: dict[str, float],
    figure: str,
) -> None:
    how = {"kl_coef": 0, "learning_rate": 2e-2, "temperature": 0.3}
    stopped = trainer(**how, health=HealthConfig(**threshold, action="stop")).train()
    assert stopped.stopped is not None
    assert figure in stopped.stopped
    with caplog.at_level(logging.WARNING):
        warned = trainer(**how, health=HealthConfig(**threshold)).train()
    assert warned.stopped is None
    assert figure in caplog.text


def test_healthy_runs_are_left_alone(trainer: Callable[..., PPOTrainer], caplog: pytest.LogCaptureFixture) -> None:
    wide = HealthConfig(
        max_kl=50,
        min_entropy=0.01,
        max_length_drift=5,
        max_repetition=1,
        max_clipfrac=1,
        min_score_std=0,
        action="stop",
    )
    with caplog.at_level(logging.WARNING):
        assert trainer(health=wide).train().stopped is None
    assert not caplog.records


@pytest.mark.parametrize("broken", [[math.nan] * 16, [None] * 16, [1.0] * 15, "good", ["0.5"] * 16])
def test_a_broken_reward_stops_by_name_with_a_checkpoint(
    trainer: Callable[..., PPOTrainer], tmp_path: Path, broken: Any
) -> None:
    calls = iter(range(100))  # an evaluation, an update and its preflight check come before

    def flaky_reward(prompts: Sequence[str], responses: Sequence[str]) -> Any:
        return share_of_w7(prompts, responses) if next(calls) < 3 else broken

    with pytest.raises(AlignError, match="flaky_reward"):
        trainer(reward=flaky_reward, checkpoint_dir=tmp_path).train()
    assert (tmp_path / "checkpoint-1" / "COMPLETE.json").is_file()


def test_a_reward_whose_parts_break_stops_by_name_with_a_checkpoint(
    trainer: Callable[..., PPOTrainer], tmp_path: Path
) -> None:
    class Parted:
        name, calls = "parted", 0

        def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
            self.calls += 1
            return share_of_w7(prompts, responses)

        def components(self) -> dict[str, list[float]]:
            return {} if self.calls < 4 else {}["lost"]

    with pytest.raises(AlignError, match=r"after update 1: reward model parted: components\(\) failed: KeyError"):
        trainer(reward=Parted(), checkpoint_dir=tmp_path).train()
    assert (tmp_path / "checkpoint-1" / "COMPLETE.json").is_file()


def test_missing_eos_costs(trainer: Callable[..., PPOTrainer]) -> None:
    ppo = trainer(missing_eos_penalty=1.0)
    rollout = ppo._roll_out(ppo.prompts[:16], torch.Generator().manual_seed(0))
    assert 0 < rollout.finished.sum() < 16
    torch.testing.assert_close(ppo._shaped(rollout), rollout.scores - (~rollout.finished).float())


@pytest.mark.parametrize(("rows", "message"), [([], "empty"), ([{"text": "w4"}], "row 1"), ([{"prompt": ""}], "row 1")])
def test_bad_prompts(
    tiny_model: Callable[[str], Any], word_tokenizer: Any, rows: list[dict[str, str]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        PPOTrainer(settings(), word_tokenizer, tiny_model("llama"), None, share_of_w7, rows)


def test_tokenised_rows_are_prompts_too(tiny_model: Callable[[str], Any], word_tokenizer: Any) -> None:
    ppo = PPOTrainer(settings(), word_tokenizer, tiny_model("llama"), None, share_of_w7, [{"input_ids": [5, 6]}])
    assert ppo.prompts[0].text == "w5 w6"


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("mini_batches", [1, 2, 4])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("budget", [20, 10_000])
def test_a_mini_batch_is_one_optimizer_step(
    trainer: Callable[..., PPOTrainer], epochs: int, mini_batches: int, accumulation: int, budget: int
) -> None:
    """However gradients accumulate and micro-batches are cut, and also where an update exhausts the prompts."""
    ppo = trainer(
        num_ppo_epochs=epochs,
        num_mini_batches=mini_batches,
        batch_size=None,
        per_device_train_batch_size=16 // accumulation,
        gradient_accumulation_steps=accumulation,
        tokens_per_micro_batch=budget,
        total_episodes=48,
        response_length=3,
        held_out=[],
    )
    ppo.train()
    steps = {int(state["step"]) for state in ppo.optimizer.state.values()}
    assert steps == {3 * epochs * mini_batches}


@pytest.mark.parametrize("advantage", ["rloo", "grpo", "reinforce_pp"])
def test_learns_without_a_critic(trainer: Callable[..., PPOTrainer], advantage: str) -> None:
    recorder = Recorder()
    ppo = trainer(
        advantage=advantage,
        num_generations=1 if advantage == "reinforce_pp" else 4,
        total_episodes=64 * 16,
        batch_size=64,
        num_ppo_epochs=2,
        learning_rate=5e-3,
        kl_coef=0.01,
        tracker=recorder,
        eval_steps=4,
    )
    assert not any(name.startswith("value_head") for name in ppo.actor_critic.trainable)
    state = ppo.train()
    assert state.best.reward > recorder.evaluations[0]["eval/objective/scores"] + 0.2


def test_each_prompt_is_answered_as_often_as_asked(trainer: Callable[..., PPOTrainer]) -> None:
    ppo = trainer(num_generations=4)
    texts = [prompt.text for prompt in ppo._prompts_of(0)]
    assert len(texts) == 16
    assert all(texts[start : start + 4] == [texts[start]] * 4 for start in range(0, 16, 4))
    assert len(set(texts)) == 4
    assert not set(texts) & {prompt.text for prompt in ppo._prompts_of(1)}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"advantage": "rloo"}, "set num_generations"),
        ({"num_generations": 5}, "not divisible by num_generations"),
        ({"advantage": "reinforce_pp", "critic": "separate"}, "has no critic"),
        ({"num_mini_batches": 5}, "not divisible by num_mini_batches"),
    ],
)
def test_settings_that_make_no_sense(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**more)


def test_dropout_is_off_everywhere(tiny_model: Callable[[str], Any]) -> None:
    for architecture in ("gpt2", "t5"):
        actor_critic = ActorCritic(tiny_model(architecture).train())
        assert not any(module.p for module in actor_critic.modules() if isinstance(module, torch.nn.Dropout))


def test_a_judge_chooses_the_best_policy_in_the_place_of_the_reward(trainer: Callable[..., PPOTrainer]) -> None:
    recorder = Recorder()

    def against(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [-score for score in share_of_w7(prompts, responses)]

    state = trainer(
        total_episodes=64 * 6, batch_size=64, kl_coef=0, tracker=recorder, eval_steps=1, judge=against
    ).train()
    judged = [figures["eval/judge/scores"] for figures in recorder.evaluations]
    rewards = [figures["eval/objective/scores"] for figures in recorder.evaluations]
    assert judged == pytest.approx([-reward for reward in rewards])
    assert state.best.score == state.best.judged == max(judged)
    assert rewards[-1] > state.best.reward


def test_training_ends_when_patience_runs_out(trainer: Callable[..., PPOTrainer], tmp_path: Path) -> None:
    def make() -> PPOTrainer:
        return trainer(
            total_episodes=64 * 9, kl_coef=0, max_eval_kl=1e-9, eval_steps=1, early_stopping_patience=3,
            checkpoint_dir=tmp_path,
        )  # fmt: skip

    state = make().train()
    assert (state.update, state.best.update) == (3, 0)
    assert state.stopped == "3 evaluations without a better policy"
    assert make().train() == state


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_compiled_trunks_learn_the_same(trainer: Callable[..., PPOTrainer], architecture: str) -> None:
    plain = trainer(architecture, total_episodes=32)
    plain.train()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = trainer(architecture, total_episodes=32, torch_compile=True, torch_compile_backend="eager")
    compiled.train()
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] < 20  # and not one for every length
    for name, weight in plain.actor_critic.trainable.items():
        torch.testing.assert_close(compiled.actor_critic.trainable[name], weight, atol=1e-5, rtol=0)


def test_what_cannot_be_compiled_runs_as_it_is(
    trainer: Callable[..., PPOTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler")

    torch._dynamo.reset()
    torch._dynamo.register_backend(broken, name="broken")
    monkeypatch.setattr(torch._dynamo.config, "suppress_errors", False)
    ppo = trainer(total_episodes=16, torch_compile=True, torch_compile_backend="broken")
    assert ppo.train().update == 1
