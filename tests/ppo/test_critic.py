"""Value models: on the policy's trunk, with an adapter of their own on it, on a second trunk, from a classifier."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from align.configs.ppo import PPOStageConfig
from align.errors import UsageError
from align.modeling.trunk import Batch
from align.ppo import PPOConfig, PPOTrainer
from align.ppo.actor_critic import ActorCritic
from align.ppo.critic import load_critic
from align.ppo.learning import accumulate_gradients

PROMPTS = [{"prompt": f"w{first} w{second}"} for first in range(4, 12) for second in range(4, 8)]
CRITICS = [("full", "shared"), ("full", "separate"), ("lora", "shared"), ("lora", "adapter"), ("lora", "separate")]


def count_w7(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [response.split().count("w7") / 4 for response in responses]


@pytest.fixture
def trainer(tiny_model: Callable[[str], Any], word_tokenizer: Any) -> Callable[..., PPOTrainer]:
    def make(method: str, critic: str, architecture: str = "llama", **more: Any) -> PPOTrainer:
        model = tiny_model(architecture)
        if method == "lora":
            model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
        settings = {"total_episodes": 32, "batch_size": 16, "response_length": 6, "learning_rate": 1e-2, "seed": 3}
        outside = {"checkpoint_dir": more.pop("checkpoint_dir", None)}
        args = PPOConfig(**{**settings, "critic": critic, **more})
        return PPOTrainer(args, word_tokenizer, model, None, count_w7, PROMPTS, **outside)

    return make


def gradients(ppo: PPOTrainer, **changed: Any) -> dict[str, torch.Tensor]:
    rollout = ppo._roll_out(ppo.prompts[:8], torch.Generator().manual_seed(0))
    ones = rollout.mask.float()
    ppo.actor_critic.value_head.weight.data.fill_(0.1)  # a new head passes no gradient on
    ppo.optimizer.zero_grad()
    args = ppo.args.model_copy(update=changed)
    accumulate_gradients(ppo.actor_critic, rollout, torch.arange(8), ones, ones * 2, args)
    return {name: p.grad.clone() for name, p in ppo.actor_critic.trainable.items() if p.grad is not None}


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize(("method", "critic"), CRITICS)
def test_every_critic_learns_the_return_and_only_a_shared_one_moves_the_policys_trunk(
    trainer: Callable[..., PPOTrainer], method: str, critic: str, architecture: str
) -> None:
    ppo = trainer(method, critic, architecture)
    of_policy = {
        f"model.{name}" for name, p in ppo.model.named_parameters() if p.requires_grad and ".align_value." not in name
    }
    with_value, without = gradients(ppo), gradients(ppo, vf_coef=0.0)
    moved = {name for name in of_policy & with_value.keys() if not torch.equal(with_value[name], without[name])}
    assert bool(moved) == (critic == "shared")
    own = {name for name in with_value if name not in of_policy}
    assert "value_head.weight" in own
    assert (len(own) > 2) == (critic != "shared")
    assert all(with_value[name].any() for name in own if "lora_A" not in name)  # lora_B starts at 0


@pytest.mark.parametrize(("method", "critic"), CRITICS)
def test_every_critic_trains_resumes_and_leaves_the_reference_alone(
    trainer: Callable[..., PPOTrainer], method: str, critic: str, tmp_path: Path
) -> None:
    whole = trainer(method, critic, save_steps=1, checkpoint_dir=tmp_path)
    frozen = {n: p.clone() for n, p in whole.actor_critic.named_parameters() if not p.requires_grad}
    names = set(whole.actor_critic.trainable)
    whole.train()
    assert set(whole.actor_critic.trainable) == names
    after = dict(whole.actor_critic.named_parameters())
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())
    again = trainer(method, critic, save_steps=1)
    again.train(resume_from_checkpoint=tmp_path / "checkpoint-1")
    for name, tensor in whole.actor_critic.trainable.items():
        assert torch.equal(tensor, again.actor_critic.trainable[name]), name


def test_a_value_adapter_is_not_saved_with_the_policy(trainer: Callable[..., PPOTrainer], tmp_path: Path) -> None:
    ppo = trainer("lora", "adapter")
    ppo.train()
    ppo.save_model(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "align_value").exists()


def test_an_adapter_needs_a_policy_with_one(trainer: Callable[..., PPOTrainer]) -> None:
    with pytest.raises(UsageError, match="needs a policy with an adapter"):
        trainer("full", "adapter")


SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}


def published_classifier(directory: Path, body: str, word_tokenizer: Any, **declared: Any) -> Any:
    torch.manual_seed(0)
    tokens = {"vocab_size": 50, "pad_token_id": 0, "eos_token_id": 2}
    classes = {
        "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**tokens, **SHAPE)),
        "t5": lambda: T5ForSequenceClassification(T5Config(**tokens, **T5)),
        "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**tokens, **SHAPE)),
    }
    model = classes[body]().eval()
    model.config.id2label = {0: "toxic", 1: "nontoxic"}
    model.save_pretrained(directory)
    word_tokenizer.save_pretrained(directory)
    (directory / "reward_model.json").write_text(json.dumps({"label": "nontoxic", **declared}))
    return model


def test_a_classifier_as_critic_says_its_own_log_odds(
    tiny_model: Callable[[str], Any], word_tokenizer: Any, tmp_path: Path
) -> None:
    """The value before the last token is the score of everything up to there."""
    model = published_classifier(tmp_path, "llama", word_tokenizer)
    actor_critic = ActorCritic(tiny_model("llama"), value_model=load_critic(tmp_path))
    batch = Batch.build([[5, 6, 7]], [[8, 9, 10]], 0)
    values = actor_critic.values(actor_critic.value_states(batch))[0]
    for token, length in enumerate((3, 4, 5)):
        logits = model(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10][:length]])).logits[0]
        assert values[token].item() == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)


def test_a_classifier_as_critic_says_its_own_logit(
    tiny_model: Callable[[str], Any], word_tokenizer: Any, tmp_path: Path
) -> None:
    model = published_classifier(tmp_path, "llama", word_tokenizer, transform="logit", moments={"mean": 1, "std": 2})
    actor_critic = ActorCritic(tiny_model("llama"), value_model=load_critic(tmp_path))
    values = actor_critic.values(actor_critic.value_states(Batch.build([[5, 6, 7]], [[8]], 0)))
    logit = model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, 1]
    assert values.item() == pytest.approx((logit.item() - 1) / 2, abs=1e-5)


@pytest.mark.parametrize("said", [{"label": "TOXIC"}, {"label": "bad", "names": {"toxic": "bad"}}])
def test_a_critic_reads_a_declaration_as_a_reward_does(
    tiny_model: Callable[[str], Any], word_tokenizer: Any, tmp_path: Path, said: dict[str, Any]
) -> None:
    model = published_classifier(tmp_path, "llama", word_tokenizer, **said, sign=-1)
    actor_critic = ActorCritic(tiny_model("llama"), value_model=load_critic(tmp_path))
    values = actor_critic.values(actor_critic.value_states(Batch.build([[5, 6, 7]], [[8]], 0)))
    logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits[0]
    assert values.item() == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)


def test_a_t5_classifier_as_critic_of_a_t5(
    tiny_model: Callable[[str], Any], word_tokenizer: Any, tmp_path: Path
) -> None:
    published_classifier(tmp_path, "t5", word_tokenizer)
    actor_critic = ActorCritic(tiny_model("t5"), value_model=load_critic(tmp_path))
    values = actor_critic.values(actor_critic.value_states(Batch.build([[5, 6, 7]], [[8, 9]], 0)))
    assert values.shape == (1, 2)
    assert values.any()


@pytest.mark.parametrize(
    ("body", "declared", "message"),
    [
        ("roberta", {}, "is an encoder"),
        ("llama", {"transform": "probability"}, "transform is log_odds"),
        ("llama", {"label": "polite"}, "has no label 'polite'"),
    ],
)
def test_what_cannot_be_a_critic(
    word_tokenizer: Any, tmp_path: Path, body: str, declared: dict[str, str], message: str
) -> None:
    published_classifier(tmp_path, body, word_tokenizer, **declared)
    with pytest.raises(UsageError, match=message):
        load_critic(tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ppo": {"critic": "adapter"}}, "needs method: lora"),
        ({"critic_from": "toxicity"}, "set ppo.critic: separate"),
        ({"method": "lora", "ppo": {"critic": "adapter", "gradient_checkpointing": True}}, "adapters were switched"),
    ],
)
def test_recipes_that_make_no_sense(more: dict[str, Any], message: str) -> None:
    stage = {
        "kind": "ppo",
        "policy": "sft",
        "reward": "toxicity",
        "prompts": [{"dataset": {"generator": "dialogues"}, "prompt": "{dialogue}"}],
    }
    assert PPOStageConfig.model_validate({**stage, "ppo": {"critic": "separate"}, "critic_from": "toxicity"})
    with pytest.raises(ValidationError, match=message):
        PPOStageConfig.model_validate({**stage, **more})
