"""Parts that do not fit together are refused with a sentence, before anything is trained or written."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from pydantic import ValidationError
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
    MambaConfig,
    MambaForCausalLM,
    TrainerCallback,
)

from align.errors import AlignError, UsageError
from align.ppo import PPOConfig, PPOTrainer

Make = Callable[..., PPOTrainer]
PROMPTS = [{"prompt": f"w{first} w{second}"} for first in range(4, 8) for second in range(4, 8)]
WIDTHS = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def share_of_w7(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [response.split().count("w7") / 4 for response in responses]


def scorer(**more: Any) -> LlamaForSequenceClassification:
    return LlamaForSequenceClassification(LlamaConfig(vocab_size=50, num_labels=1, pad_token_id=0, **WIDTHS, **more))


@pytest.fixture
def make(tiny_model: Callable[[str], Any], word_tokenizer: Any) -> Make:
    def made(
        model: Any = None, rows: Any = PROMPTS, settings: dict[str, Any] | None = None, **parts: Any
    ) -> PPOTrainer:
        args = PPOConfig(
            **{
                "total_episodes": 16, "batch_size": 8, "response_length": 4, "temperature": 1.0, "save_steps": 1,
                **(settings or {}),
            }
        )  # fmt: skip
        return PPOTrainer(
            args=args,
            processing_class=parts.pop("tokenizer", word_tokenizer),
            model=tiny_model("llama") if model is None else model,
            reward_model=parts.pop("reward_model", share_of_w7),
            train_dataset=rows,
            **parts,
        )

    return made


def peft(model: Any, **more: Any) -> Any:
    return get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", **more))


def test_models_that_cannot_be_the_policy(make: Make, tiny_model: Callable[[str], Any], tmp_path: Path) -> None:
    frozen = tiny_model("llama").requires_grad_(False)
    peft(tiny_model("llama")).save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("llama"), tmp_path)
    prompted = get_peft_model(tiny_model("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    mamba = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1))
    for model, said in (
        ("some/name", "load it with from_pretrained first"),
        (LlamaModel(LlamaConfig(vocab_size=50, **WIDTHS)), "no language model head"),
        (scorer(), "no language model head"),
        (mamba, "no cache of keys and values"),
        (frozen, "no trainable weight"),
        (loaded, "is_trainable=True"),
        (prompted, "prompt or prefix tuning"),
        (tiny_model("llama").half(), "dtype=torch.float32"),
    ):
        with pytest.raises(UsageError, match=said):
            make(model)


def test_a_reference_of_another_kind_or_vocabulary(make: Make, tiny_model: Callable[[str], Any]) -> None:
    with pytest.raises(UsageError, match="not of the same kind"):
        make(ref_model=tiny_model("t5"))
    smaller = tiny_model("llama")
    smaller.resize_token_embeddings(20)
    with pytest.raises(UsageError, match="ref_model knows 20 tokens, but the policy 50"):
        make(ref_model=smaller)


def test_models_that_share_weights(make: Make, tiny_model: Callable[[str], Any]) -> None:
    one = scorer()
    with pytest.raises(UsageError, match="reward_model and value_model share weights"):
        make(reward_model=one, value_model=one)
    policy = tiny_model("llama")
    other = copy.deepcopy(policy)
    other.model.embed_tokens.weight = policy.model.embed_tokens.weight
    with pytest.raises(UsageError, match="model and ref_model share weights"):
        make(policy, ref_model=other)


def test_language_models_in_the_place_of_classifiers(make: Make, tiny_model: Callable[[str], Any]) -> None:
    with pytest.raises(UsageError, match="is a language model"):
        make(reward_model=tiny_model("llama"))
    with pytest.raises(UsageError, match=r"LlamaForCausalLM cannot be a critic.*num_labels=1\. Leave"):
        make(value_model=tiny_model("llama"))
    with pytest.raises(UsageError, match="reward_model"):
        make(reward_model="rules")


@pytest.mark.parametrize("settings", [{"ref_adapter_name": "sft"}, {"model_adapter_name": "sft"}])
def test_adapters_that_the_policy_lacks(make: Make, tiny_model: Callable[[str], Any], settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"has no adapter 'sft' \(it has: none\)"):
        make(settings=settings)
    with pytest.raises(UsageError, match=r"has no adapter 'sft' \(it has: default\)"):
        make(peft(tiny_model("llama")), settings=settings)


def test_the_adapter_that_trains_is_no_reference(make: Make, tiny_model: Callable[[str], Any]) -> None:
    for settings in ({"ref_adapter_name": "default"}, {"ref_adapter_name": "sft", "model_adapter_name": "sft"}):
        policy = peft(tiny_model("llama"))
        policy.add_adapter("sft", policy.peft_config["default"])
        with pytest.raises(UsageError, match="is the adapter that trains, and no distance from itself"):
            make(policy, settings=settings)
    make(policy, settings={"ref_adapter_name": "sft"})


@pytest.mark.parametrize(
    ("settings", "parts", "named"),
    [({"max_eval_kl": 1.0}, {}, "max_eval_kl"), ({}, {"judge": share_of_w7}, "judge")],
)
def test_what_is_asked_of_held_out_prompts_needs_some(
    make: Make, settings: dict[str, Any], parts: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=f"{named} needs held-out prompts"):
        make(settings=settings, **parts)
    make(settings=settings, eval_dataset=PROMPTS, **parts)


def test_values_keep_their_digits_in_16_bits(make: Make) -> None:
    actor_critic = make(settings={"bf16": True}).actor_critic
    torch.nn.init.normal_(actor_critic.value_head.weight)
    states = torch.randn(3, 40, actor_critic.value_head.in_features)
    with actor_critic.precision():
        values = actor_critic.values(states)
    assert values.dtype == torch.float32
    assert not torch.equal(values, values.bfloat16().float())


def test_tokenizers(make: Make, word_tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="processing_class must be the policy's tokenizer"):
        make(tokenizer=None)
    endless = copy.deepcopy(word_tokenizer)
    endless.eos_token = None
    with pytest.raises(UsageError, match="no end-of-text token"):
        make(tokenizer=endless)
    make(tokenizer=endless, settings={"stop_token": None})


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bart", "t5"])
def test_prompts_and_responses_fit_into_the_context(
    make: Make, tiny_model: Callable[[str], Any], architecture: str
) -> None:
    model = tiny_model(architecture)
    if architecture == "t5":
        make(model, settings={"response_length": 4000})
        return
    context = model.config.max_position_embeddings
    fits = context if architecture == "bart" else context - 2
    make(model, settings={"response_length": fits}).train()
    with pytest.raises(UsageError, match=rf"context is {context} tokens.*shorten one of them"):
        make(model, settings={"response_length": fits + 1})


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"train": PROMPTS, "test": PROMPTS}, "several data sets .train, test."),
        (["w4 w5"], "row 1 of the prompts is not a mapping"),
        ([{"prompt": [{"role": "user", "content": "w4"}]}], "a list of messages.*apply_chat_template"),
        ([{"prompt": [{"role": "user", "content": "w4"}], "input_ids": [4]}], "a list of messages"),
        ([{"input_ids": [[4, 5]]}], "one list of whole numbers"),
        ([{"input_ids": [4.5]}], "one list of whole numbers"),
        ([{"input_ids": [-1]}], "contains the invalid token id -1"),
        ([{"prompt": ""}], "row 1 of the prompts is empty"),
        ([{"question": "w4"}], "neither `prompt` nor `input_ids`"),
    ],
)
def test_rows_that_are_no_prompts(make: Make, rows: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make(rows=rows)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"missing_eos_penalty": 1.0, "stop_token": None}, "would hit every response"),
        ({"max_steps": 0}, "train nothing"),
        ({"kl_target": 5.0, "kl_coef": 0}, "0 stays 0"),
        ({"kl_target": 5.0, "kl_horizon": 3, "batch_size": 16}, "too short for batch_size 16"),
        ({"seed": 10**20}, "less than"),
        ({"response_length": 0}, "greater than 0"),
    ],
)
def test_settings_that_contradict_themselves(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PPOConfig(**settings)


@pytest.mark.parametrize("how", ["bias", "unfrozen"])
def test_the_reference_stays_where_it_was_when_more_than_adapters_train(
    make: Make, tiny_model: Callable[[str], Any], how: str
) -> None:
    model = peft(tiny_model("gpt2"), bias="all" if how == "bias" else "none")
    if how == "unfrozen":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or "ln" in name)
    ppo = make(model, settings={"learning_rate": 3e-2})
    ids = torch.tensor([[4, 5, 6]])

    def reference_logits() -> torch.Tensor:
        with torch.no_grad(), ppo.actor_critic.as_reference() as reference:
            return reference(input_ids=ids).logits

    before = reference_logits()
    ppo.train()
    assert torch.equal(reference_logits(), before)
    assert not torch.equal(model(input_ids=ids).logits, before)


def test_a_policy_whose_adapter_was_trained_says_what_to_do(make: Make, tiny_model: Callable[[str], Any]) -> None:
    model = peft(tiny_model("llama"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    with pytest.raises(AlignError, match=r"kl-zero.*merge_and_unload.*ref_adapter_name"):
        make(model).train()


def test_a_reward_that_fails_in_an_evaluation_loses_nothing(make: Make, tmp_path: Path) -> None:
    calls = iter(range(5))  # an evaluation, an update, its preflight check, an evaluation, an update

    def failing(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        if next(calls, None) is None:
            raise RuntimeError("power cut")
        return share_of_w7(prompts, responses)

    settings = {"output_dir": str(tmp_path), "eval_steps": 1, "save_steps": 100}
    with pytest.raises(AlignError, match=r"stopped after update 2: .*power cut"):
        make(reward_model=failing, eval_dataset=PROMPTS[:2], settings=settings).train()
    assert (tmp_path / "checkpoint-2" / "COMPLETE.json").is_file()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"settings": {"learning_rate": 0.5}}, r"learning_rate \(was .*, is 0.5\)"),
        ({"settings": {"batch_size": 4}}, r"batch_size \(was 8, is 4\)"),
        ({"settings": {"advantage": "reinforce_pp"}}, "advantage"),
        ({"rows": PROMPTS[1:]}, "train_dataset"),
        ({"model": "gpt2"}, "model or critic had other weights"),
    ],
)
def test_a_run_goes_on_as_it_began(
    make: Make, tiny_model: Callable[[str], Any], tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    output = {"output_dir": str(tmp_path)}
    make(settings=output).train()
    changed = {**changed, "settings": {**output, **changed.get("settings", {})}}
    if "model" in changed:
        changed["model"] = tiny_model(changed["model"])
    with pytest.raises(UsageError, match=said):
        make(**changed).train(resume_from_checkpoint=True)
    longer = make(settings={**output, "total_episodes": 24})
    longer.train(resume_from_checkpoint=True)
    assert longer.state.update == 3
    rates = [figures["lr"] for figures in longer.callbacks.state.log_history if "lr" in figures]
    assert rates == [pytest.approx(longer.args.learning_rate / 3)]  # not the 0 that the shorter run ended with


def test_a_directory_that_cannot_be_written_to_is_found_before_training(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="checkpoints cannot be written to"):
        make(settings={"output_dir": str(tmp_path / "file" / "out")}).train()


def test_value_models_that_cannot_learn(make: Make) -> None:
    with pytest.raises(UsageError, match="advantage rloo has no critic"):
        make(value_model=scorer(), settings={"advantage": "rloo", "num_generations": 2})
    with pytest.raises(UsageError, match="value_model's weights are float16"):
        make(value_model=scorer().half())


def test_padding_that_a_script_left_in_rows_without_a_mask(make: Make, word_tokenizer: Any) -> None:
    assert make(rows=[{"input_ids": [0, 0, 5, 6]}, {"input_ids": [5, 6, 0]}]).prompts[0].token_ids == [5, 6]
    with pytest.raises(UsageError, match="row 1 of the prompts is empty"):
        make(rows=[{"input_ids": [0, 0]}])
    ends = copy.deepcopy(word_tokenizer)
    ends.pad_token = ends.eos_token
    rows = [{"input_ids": [ends.eos_token_id, 5]}]
    assert make(rows=rows, tokenizer=ends).prompts[0].token_ids == rows[0]["input_ids"]


def test_an_earlier_checkpoint_is_gone_on_from_and_later_ones_are_set_aside(make: Make, tmp_path: Path) -> None:
    settings = {"output_dir": str(tmp_path), "total_episodes": 24, "save_total_limit": 3}
    make(settings=settings).train()
    make(settings=settings).train(resume_from_checkpoint=tmp_path / "checkpoint-1")
    assert sorted(path.name for path in tmp_path.glob("*checkpoint-*")) == [
        "checkpoint-1", "checkpoint-2", "checkpoint-3", "superseded-checkpoint-2", "superseded-checkpoint-3",
    ]  # fmt: skip


def test_a_run_that_ended_early_says_so_when_resumed(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Enough(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = True

    output = {"output_dir": str(tmp_path)}
    make(settings=output, callbacks=[Enough]).train()
    resumed = make(settings=output)
    assert resumed.train(resume_from_checkpoint=True).update == 1
    assert "ended early, after update 1: a callback asked for it" in caplog.text


def test_a_schedule_of_the_scripts_own_also_drives_the_value_head(make: Make, tiny_model: Callable[[str], Any]) -> None:
    policy = tiny_model("llama")
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1 / (1 + update))
    ppo = make(
        policy, optimizers=(optimizer, schedule), reward_model=lambda _, said: [1.0 + len(set(one)) for one in said]
    )
    before = ppo.actor_critic.value_head.weight.clone()
    ppo.train()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5 / 3]
    assert not torch.equal(ppo.actor_critic.value_head.weight, before)


def test_what_is_saved_when(make: Make) -> None:
    with pytest.warns(UserWarning, match="'epoch' is taken as 'steps'"):
        assert PPOConfig(save_strategy="epoch").save_strategy == "steps"
    with pytest.raises(ValidationError, match="neither 'steps' nor 'no'"):
        PPOConfig(save_strategy="stepps")


def test_batches_are_per_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert PPOConfig(per_device_train_batch_size=4, gradient_accumulation_steps=2).batch_size == 32


def test_an_upload_is_as_private_as_was_asked(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self: HfApi, name: str, **how: Any) -> Any:
        calls.append((f"create {name} as {self.token}", how))
        return SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self: HfApi, **how: Any) -> None:
        names = sorted(path.name for path in Path(how.pop("folder_path")).iterdir())
        calls.append(("upload", how))
        assert {"model.safetensors", "tokenizer.json"} <= set(names)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    settings = {"hub_model_id": "policy", "hub_private_repo": True, "hub_token": "hf_made_up", "hub_revision": "rlhf"}
    ppo = make(settings=settings)
    assert "hf_made_up" not in repr(ppo.args) + str(ppo.args.to_dict())
    ppo.push_to_hub()
    assert calls == [
        ("create policy as hf_made_up", {"private": True, "exist_ok": True}),
        ("upload", {"repo_id": "me/policy", "commit_message": "End of training", "revision": "rlhf"}),
    ]


def test_an_earlier_checkpoint_may_be_gone_back_to_again(make: Make, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-best").mkdir()  # somebody's own: no checkpoint of a run
    settings = {"output_dir": str(tmp_path), "total_episodes": 24, "save_total_limit": 3}
    make(settings=settings).train()
    for _ in range(2):
        again = make(settings=settings)
        assert again.train(resume_from_checkpoint=tmp_path / "checkpoint-1").update == 3
    assert (tmp_path / "checkpoint-3").is_dir()
    assert (tmp_path / "checkpoint-best").is_dir()


def test_callbacks_see_the_policy_that_was_chosen_when_training_ends(make: Make) -> None:
    seen: list[dict[str, Any]] = []

    class Saves(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            seen.append({name: part.clone() for name, part in model.state_dict().items()})

    # Every update moves away from what is judged, so that the policy before the first is the best.
    def likes_nothing_learned(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [-score for score in share_of_w7(prompts, responses)]

    trainer = make(
        settings={"learning_rate": 1e-2, "eval_steps": 1, "total_episodes": 64},
        eval_dataset=PROMPTS,
        judge=likes_nothing_learned,
        callbacks=[Saves],
    )
    state = trainer.train()
    assert state.best.update < state.update
    assert all(torch.equal(part, seen[0][name]) for name, part in trainer.model.state_dict().items())


def test_a_policy_that_never_became_better_is_said_to_be_the_first(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"learning_rate": 1e-2, "eval_steps": 1, "total_episodes": 16}
    make(settings=settings, eval_dataset=PROMPTS, judge=lambda prompts, responses: [0.0] * len(responses)).train()
    assert "ppo keeps the policy that it began with" in caplog.text
    assert "in 2 updates, none that was evaluated scored higher" in caplog.text


def test_a_script_without_an_output_dir_loses_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = make()
    trainer.train()
    trainer.save_model(trainer.args.output_dir)
    assert (tmp_path / "trainer_output" / "model.safetensors").is_file()
