"""Scripts written for TRL 1.12 run after their import line is changed: what its examples hand over, and get back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
    TrainerCallback,
)

from align.errors import UsageError
from align.ppo import PPOConfig, PPOTrainer

LORA = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")


def classifier(vocabulary: int = 50, labels: int = 1) -> Any:
    """What `AutoModelForSequenceClassification.from_pretrained(..., num_labels=1)` gives for a decoder-only model."""
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return LlamaForSequenceClassification(LlamaConfig(vocab_size=vocabulary, num_labels=labels, **shape))


def encoder_decoder_classifier(architecture: str) -> Any:
    torch.manual_seed(1)
    tokens = {"vocab_size": 50, "pad_token_id": 0, "eos_token_id": 2, "num_labels": 1}
    if architecture == "t5":
        shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        return T5ForSequenceClassification(T5Config(**shape, **tokens, decoder_start_token_id=0))
    parts = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 32))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_start_token_id": 2}
    return BartForSequenceClassification(BartConfig(**parts, **heads, **tokens, d_model=16))


@pytest.fixture
def script(tiny_model: Callable[[str], Any], word_tokenizer: Any, tmp_path: Path) -> Callable[..., PPOTrainer]:
    """The middle of TRL's `ppo.py` and `ppo_tldr.py`: a pad token of its own, tokenised data, all of the models."""

    def make(settings: dict[str, Any] | None = None, **more: Any) -> PPOTrainer:
        tokenizer = copy.deepcopy(word_tokenizer)
        tokenizer.padding_side = "left"
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})  # the policy has no embedding for it
        texts = [" ".join(f"w{word}" for word in range(4, 6 + length)) for length in range(12)]
        rows = Dataset.from_dict({"prompt": texts})
        rows = rows.map(
            lambda row: {"input_ids": tokenizer(row["prompt"])["input_ids"]}, remove_columns=rows.column_names
        )
        peft_config = more.get("peft_config")
        common = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "num_mini_batches": 2,
            "total_episodes": 24,
            "response_length": 6,
            "learning_rate": 1e-3,
            "stop_token": "eos",
            "missing_eos_penalty": 1.0,
            "save_steps": 1,
        }
        given = {
            "args": PPOConfig(**{**common, **(settings or {})}),
            "processing_class": tokenizer,
            "model": tiny_model("llama"),
            "ref_model": tiny_model("llama") if peft_config is None else None,
            "reward_model": classifier(),
            "value_model": classifier(),
            "train_dataset": rows,
            "eval_dataset": rows.select(range(3)),
            "peft_config": peft_config,
        }
        return PPOTrainer(**{**given, **more})

    return make


def test_trls_example_runs_to_its_end(
    script: Callable[..., PPOTrainer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = script()
    trainer.train()
    assert trainer.state.update == 3
    trainer.save_model(tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), trainer.model.parameters(), strict=True))
    completions = trainer.generate_completions()
    assert len(completions) == 3
    assert set(completions[0]) == {"prompt", "response", "score"}
    table = capsys.readouterr().out
    assert all(word in table for word in ("prompt", "response", "score", f"{completions[0]['score']:.4g}"))


def test_with_peft_config_the_adapter_trains_and_is_saved(script: Callable[..., PPOTrainer], tmp_path: Path) -> None:
    trainer = script(peft_config=LORA)
    trainer.train()
    assert trainer.actor_critic.reference is None
    trainer.save_model(tmp_path / "saved")
    assert (tmp_path / "saved" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "saved" / "model.safetensors").exists()


def test_arguments_stand_where_trl_has_them(
    script: Callable[..., PPOTrainer], tiny_model: Callable[[str], Any], word_tokenizer: Any
) -> None:
    rows = [{"input_ids": [5, 6]}]
    trainer = PPOTrainer(
        PPOConfig(batch_size=2), word_tokenizer, tiny_model("llama"), None, classifier(), rows, classifier(), None, rows
    )
    assert len(trainer.eval_prompts) == 1
    assert not trainer.actor_critic.shares_trunk


def test_the_value_model_learns_and_the_reward_model_does_not(script: Callable[..., PPOTrainer]) -> None:
    value_model, reward_model = classifier(), classifier()
    before = copy.deepcopy(value_model.state_dict())
    script(value_model=value_model, reward_model=reward_model, eval_dataset=None).train()
    assert all(not torch.equal(tensor, before[name]) for name, tensor in value_model.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in reward_model.state_dict().items())


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_encoder_decoder_policies_with_a_value_model_of_their_kind(
    script: Callable[..., PPOTrainer], tiny_model: Callable[[str], Any], architecture: str
) -> None:
    value_model = encoder_decoder_classifier(architecture)
    before = copy.deepcopy(value_model.classification_head.state_dict())
    script(model=tiny_model(architecture), ref_model=None, value_model=value_model, eval_dataset=None).train()
    assert all(not torch.equal(t, before[name]) for name, t in value_model.classification_head.state_dict().items())


def test_the_reward_module_reads_text_closed_with_eos(script: Callable[..., PPOTrainer]) -> None:
    module = classifier().eval()
    trainer = script(reward_model=module)
    scores = trainer.reward.score(["w5 w6", "w7"], ["w8", "w9 w10 w11"])
    for score, ids in zip(scores, [[5, 6, 8, 2], [7, 9, 10, 11, 2]], strict=True):
        hidden = module.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        assert score == pytest.approx(module.score(hidden).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"reward_model": classifier(labels=2)}, "has 2 labels"),
        ({"reward_model": classifier(vocabulary=20)}, "another tokenizer"),
        ({"reward_model": None}, "needs a reward_model"),
        ({"value_model": classifier(labels=2)}, "num_labels=1"),
        ({"value_model": classifier(vocabulary=20)}, "value_model knows 20 tokens"),
        ({"train_dataset": [{"input_ids": [70]}]}, "token 70"),
    ],
)
def test_parts_that_do_not_fit_are_named(script: Callable[..., PPOTrainer], parts: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        script(**parts)


def test_the_model_cannot_be_its_own_reference(
    script: Callable[..., PPOTrainer], tiny_model: Callable[[str], Any]
) -> None:
    model = tiny_model("llama")
    with pytest.raises(UsageError, match="leave it out"):
        script(model=model, ref_model=model)


def test_a_collator_may_make_the_tokens(script: Callable[..., PPOTrainer], word_tokenizer: Any) -> None:
    def collate(rows: Sequence[dict[str, str]]) -> Any:
        return word_tokenizer(
            [row["question"] for row in rows], padding="max_length", max_length=9, return_tensors="pt"
        )

    trainer = script(train_dataset=[{"question": "w5 w6"}], eval_dataset=None, data_collator=collate)
    assert trainer.prompts[0].token_ids == [5, 6]


def test_padding_in_tokenised_rows_is_no_prompt(script: Callable[..., PPOTrainer]) -> None:
    row = {"input_ids": [0, 0, 5, 6], "attention_mask": [0, 0, 1, 1]}
    assert script(train_dataset=[row]).prompts[0].token_ids == [5, 6]


class Stopper(TrainerCallback):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **more: Any) -> None:
        self.heard.append("log")
        assert logs["objective/kl"] is not None
        assert more["model"] is not None

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **more: Any) -> None:
        self.heard.append("evaluate")

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.heard.append("save")

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
        control.should_training_stop = state.global_step == 2
        return control


def test_callbacks_hear_of_everything_and_can_stop(script: Callable[..., PPOTrainer]) -> None:
    callback = Stopper()
    state = script(callbacks=[callback]).train()
    assert (state.update, state.stopped) == (2, "a callback asked for it")
    assert callback.heard == ["evaluate", "log", "save", "log", "evaluate", "save"]


def test_an_optimizer_of_ones_own_gets_the_value_head_too(
    script: Callable[..., PPOTrainer], tiny_model: Callable[[str], Any]
) -> None:
    model = tiny_model("llama")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = script(model=model, value_model=None, optimizers=(optimizer, None), eval_dataset=None)
    trainer.train()
    assert trainer.optimizer is optimizer
    assert trainer.actor_critic.value_head.weight.any()


def test_resumes_from_output_dir_when_asked(script: Callable[..., PPOTrainer], tmp_path: Path) -> None:
    whole = script()
    whole.train()
    with pytest.raises(UsageError, match="earlier run"):
        script().train()
    for where in (True, tmp_path / "out" / "checkpoint-2"):
        again = script()
        assert again.train(resume_from_checkpoint=where) == whole.state
        for name, tensor in whole.actor_critic.state_dict().items():
            assert torch.equal(tensor, again.actor_critic.state_dict()[name]), name
    with pytest.raises(UsageError, match="cannot be resumed from"):
        script().train(resume_from_checkpoint=tmp_path / "elsewhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no checkpoint"):
        script({"output_dir": str(tmp_path / "none")}).train(resume_from_checkpoint=True)


def test_save_strategy_no_writes_nothing(script: Callable[..., PPOTrainer], tmp_path: Path) -> None:
    script({"save_strategy": "no"}).train()
    assert not (tmp_path / "out").exists()


def test_max_steps_bounds_the_updates(script: Callable[..., PPOTrainer]) -> None:
    assert script({"max_steps": 1}).train().update == 1


def test_a_stop_token_by_its_id(script: Callable[..., PPOTrainer]) -> None:
    trainer = script({"stop_token_id": 7, "response_length": 30, "temperature": 1.5})
    rollout = trainer._roll_out(trainer.prompts, torch.Generator().manual_seed(0))
    ends = rollout.batch.response_ids.gather(1, rollout.mask.sum(1, keepdim=True) - 1).squeeze(1)
    assert torch.equal(ends == 7, rollout.finished)
    assert rollout.finished.any()
    assert not (rollout.batch.response_ids[:, :-1] == 7)[rollout.mask[:, 1:]].any()


def test_a_second_adapter_as_the_reference(
    script: Callable[..., PPOTrainer], tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    """The adapter of an SFT, loaded twice: one trains, and the other stays what the policy was."""
    torch.manual_seed(0)
    tuned = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    PeftModel(tiny_model("llama"), tuned).save_pretrained(tmp_path / "sft")
    model = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "sft", adapter_name="policy", is_trainable=True)
    model.load_adapter(tmp_path / "sft", "sft")
    names = {"model_adapter_name": "policy", "ref_adapter_name": "sft"}
    trainer = script(names, model=model, ref_model=None, value_model=None, eval_dataset=None)
    before = {name: tensor.clone() for name, tensor in trainer.actor_critic.state_dict().items()}
    rollout = trainer._roll_out(trainer.prompts, torch.Generator().manual_seed(0))
    assert rollout.log_ratios.abs().max() < 1e-5
    trainer.train()
    changed = {
        name for name, tensor in trainer.actor_critic.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert any(".policy." in name for name in changed)
    assert all(".policy." in name or name.startswith("value_head") for name in changed)


def test_weights_of_16_bits_train_with_a_warning(
    script: Callable[..., PPOTrainer], tiny_model: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = script(model=tiny_model("llama").bfloat16(), ref_model=None, value_model=None)
    assert "load it with dtype=torch.float32" in caplog.text
    assert trainer.train().update == 3


def test_report_to_knows_wandb_alone(script: Callable[..., PPOTrainer], caplog: pytest.LogCaptureFixture) -> None:
    script({"report_to": ["tensorboard"]})
    assert "nothing is reported to tensorboard" in caplog.text


@pytest.mark.parametrize("how", ["bf16", "gradient_checkpointing"])
def test_what_trl_ignored_works(script: Callable[..., PPOTrainer], how: str) -> None:
    """bf16 changes the numbers a little, checkpointed activations not at all."""
    once = {"max_steps": 1, "save_strategy": "no"}
    plain, other = (script({**once, **more}, eval_dataset=None) for more in ({}, {how: True}))
    plain.train()
    other.train()
    assert other.actor_critic.model.dtype == torch.float32
    moved = [torch.cat([p.flatten() for p in trainer.actor_critic.trainable.values()]) for trainer in (plain, other)]
    assert torch.equal(*moved) == (how == "gradient_checkpointing")
    recomputed = any(getattr(module, "gradient_checkpointing", False) for module in other.actor_critic.modules())
    assert recomputed == (how == "gradient_checkpointing")
