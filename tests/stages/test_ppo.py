"""The stage around the engine: what it takes from a recipe, and what it writes."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from align.configs.ppo import PPOStageConfig
from align.errors import UsageError
from align.ppo.prompts import as_prompts
from align.stages import ppo
from align.tracking import NullTracker
from align.workspace import Workspace

SETTINGS = {"total_episodes": 8, "batch_size": 4, "response_length": 6, "learning_rate": 1e-3, "eval_steps": 1}
RULES = {"model": "rules", "length": {"target": 3}}


@pytest.fixture
def run(tiny_models: dict[str, Path], wide_models: dict[str, Path], rows: Path, tmp_path: Path) -> Any:
    def call(architecture: str = "llama", **more: Any) -> Workspace:
        config = PPOStageConfig.model_validate(
            {
                "kind": "ppo",
                "policy": "sft",
                "reward": RULES,
                "prompts": [{"dataset": {"path": str(rows)}, "prompt": "{prompt}"}],
                "ppo": SETTINGS,
                **more,
            }
        )
        workspace = Workspace(tmp_path / "workspace")
        models = wide_models if config.method == "qlora" else tiny_models
        metrics = ppo.run(config, {"sft": models[architecture]}, workspace, NullTracker())
        assert metrics["updates"] == 2
        return workspace

    return call


@pytest.mark.parametrize(("architecture", "auto"), [("llama", AutoModelForCausalLM), ("t5", AutoModelForSeq2SeqLM)])
def test_publishes_a_plain_model(run: Any, architecture: str, auto: Any) -> None:
    output = run(architecture).output
    assert auto.from_pretrained(output).config.is_encoder_decoder == (architecture == "t5")
    assert (output / "tokenizer.json").is_file()
    evaluations = [json.loads(line) for line in (output / "evaluations.jsonl").read_text().splitlines()]
    assert [line["update"] for line in evaluations] == [0, 1, 2]
    assert all({"eval/objective/scores", "eval/objective/kl"} <= line.keys() for line in evaluations)


def test_publishes_the_dropout_that_the_policy_came_with(
    run: Any, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = shutil.copytree(tiny_models["t5"], tmp_path / "given")
    config = json.loads((given / "config.json").read_text())
    (given / "config.json").write_text(json.dumps({**config, "dropout_rate": 0.1}))
    monkeypatch.setitem(tiny_models, "t5", given)
    assert json.loads((run("t5").output / "config.json").read_text())["dropout_rate"] == 0.1


def test_lora_publishes_merged_weights_and_the_adapter(run: Any, tiny_models: dict[str, Path]) -> None:
    output = run(method="lora", lora={"r": 2}).output
    merged = AutoModelForCausalLM.from_pretrained(output)
    base = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    adapted = PeftModel.from_pretrained(base, output / "adapter")
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(merged(input_ids=ids).logits, adapted(input_ids=ids).logits, atol=1e-5, rtol=0)
    assert json.loads((output / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == ""


def test_publishes_the_adapter_alone(run: Any) -> None:
    output = run(method="lora", lora={"r": 2}, publish="adapter").output
    assert (output / "adapter_model.safetensors").is_file()
    assert not (output / "model.safetensors").exists()


@pytest.mark.parametrize("policy", ["skip", "truncate_left"])
def test_long_prompts_are_counted(run: Any, policy: str, caplog: pytest.LogCaptureFixture) -> None:
    run(max_prompt_length=12, long_prompts=policy)
    assert "prompts are longer than max_prompt_length 12 tokens" in caplog.text


def test_long_prompts_can_be_an_error(run: Any) -> None:
    with pytest.raises(UsageError, match="max_prompt_length 3 tokens"):
        run(max_prompt_length=3, long_prompts="error")
    with pytest.raises(UsageError, match=r"80 of 80.* or set long_prompts to truncate_left"):
        run(max_prompt_length=1)


def test_a_reward_that_cannot_be_loaded_is_found_before_training(run: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no_such_module"):
        run(reward="no_such_module:Reward")
    assert not (tmp_path / "workspace" / "output").exists()


def test_the_critic_may_start_as_a_classifier(tiny_models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    classifier = AutoModelForSequenceClassification.from_pretrained(tiny_models["llama"], num_labels=1)
    classifier.save_pretrained(tmp_path / "reward")
    config = PPOStageConfig.model_validate(
        {
            "kind": "ppo",
            "policy": "sft",
            "reward": RULES,
            "critic_from": "reward",
            "prompts": [{"dataset": {"path": str(rows)}, "prompt": "{prompt}"}],
            "ppo": {**SETTINGS, "critic": "separate"},
        }
    )
    inputs = {"sft": tiny_models["llama"], "reward": tmp_path / "reward"}
    metrics = ppo.run(config, inputs, Workspace(tmp_path / "workspace"), NullTracker())
    assert metrics["updates"] == 2


@pytest.mark.parametrize(("architecture", "auto"), [("llama", AutoModelForCausalLM), ("t5", AutoModelForSeq2SeqLM)])
def test_qlora_publishes_a_plain_model(run: Any, architecture: str, auto: Any) -> None:
    output = run(architecture, method="qlora", lora={"r": 2}).output
    assert {parameter.dtype for parameter in auto.from_pretrained(output).parameters()} == {torch.float32}
    assert (output / "adapter" / "adapter_model.safetensors").is_file()


def test_a_judge_is_loaded_like_a_reward_and_marked(tiny_models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    prompts = [{"dataset": {"path": str(rows)}, "prompt": "{prompt}"}]
    config = PPOStageConfig.model_validate(
        {
            "kind": "ppo",
            "policy": "sft",
            "reward": RULES,
            "judge": {"model": "rules", "length": {"target": 2}},
            "prompts": prompts,
            "evaluation_prompts": prompts,
            "ppo": SETTINGS,
        }
    )
    assert "eval_judge" in ppo.run(config, {"sft": tiny_models["llama"]}, Workspace(tmp_path / "w"), NullTracker())
    assert (tmp_path / "w" / "output" / "gains.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("judge", "more", "said"),
    [
        (RULES, {}, "judge is the reward itself"),
        ({"model": "rules", "length": {"target": 2}}, {"evaluation_prompts": []}, "prompts of its own"),
    ],
)
def test_a_judge_that_is_not_apart_is_refused(judge: Any, more: Any, said: str) -> None:
    prompts = [{"dataset": {"path": "rows.jsonl"}, "prompt": "{prompt}"}]
    with pytest.raises(ValueError, match=said):
        PPOStageConfig.model_validate(
            {
                "kind": "ppo", "policy": "sft", "reward": RULES, "judge": judge, "prompts": prompts,
                "evaluation_prompts": prompts, **more,
            }
        )  # fmt: skip


def test_a_tenth_of_the_prompts_is_drawn_from_all_and_trained_on_nowhere() -> None:
    rows = [{"prompt": f"p{number // 2}"} for number in range(200)]  # each twice
    training, held_out = ppo._set_aside(rows, 3)
    assert len(held_out) == 10
    assert not {row["prompt"] for row in held_out} & {row["prompt"] for row in training}
    assert len(training) == 180
    assert max(int(row["prompt"][1:]) for row in held_out) > 50  # not the first ones
    assert ppo._set_aside(rows[:8], 3) == (rows[:8], [])


def test_a_prompt_that_is_cut_keeps_to_its_bound_and_its_beginning(word_tokenizer: Any) -> None:
    word_tokenizer = copy.deepcopy(word_tokenizer)
    word_tokenizer.bos_token = "w1"
    word_tokenizer.add_bos_token = False
    config = PPOStageConfig.model_validate(
        {
            "kind": "ppo", "policy": "sft", "reward": {"model": "rules", "length": {"target": 2}},
            "prompts": [{"dataset": {"path": "rows.jsonl"}, "prompt": "{p}"}], "long_prompts": "truncate_left",
        }
    )  # fmt: skip
    (row,) = ppo._fitting([("w1 w5 w6 w7 w8", None)], word_tokenizer, config, 3)
    assert row["input_ids"] == word_tokenizer("w1 w7 w8")["input_ids"]
    (row,) = ppo._fitting([("w5 w6 w7 w8", None)], word_tokenizer, config, 3)
    assert row["input_ids"] == word_tokenizer("w6 w7 w8")["input_ids"]
    assert row["prompt"] == "w6 w7 w8"
    word_tokenizer.pad_token = "w8"  # which what is left ends with
    (row,) = ppo._fitting([("w5 w6 w7 w8", None)], word_tokenizer, config, 3)
    assert [one.token_ids for one in as_prompts([row], word_tokenizer, 50, None)] == [row["input_ids"]]
