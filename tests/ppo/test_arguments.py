"""`PPOConfig` as scripts for TRL 1.12 use it: every name, the command line, and what is said of what has no effect."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import HfArgumentParser

from align.configs.ppo import PPOConfig as RecipeConfig
from align.ppo import PPOConfig
from align.ppo.no_effect import NO_EFFECT

OF_TRL: dict[str, Any] = json.loads((Path(__file__).parent / "trl_1_12.json").read_text(encoding="utf-8"))["config"]


def test_every_field_of_trl_works_or_says_why_it_has_no_effect() -> None:
    works, silent = set(PPOConfig.model_fields), set(NO_EFFECT)
    assert not works & silent
    assert OF_TRL.keys() - works - silent == set()
    assert all(NO_EFFECT.values())


def test_its_defaults_are_accepted_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = PPOConfig(**OF_TRL)
    assert config.batch_size == 8
    assert config.stop_token is None
    assert config.save_total_limit is None


def test_what_has_no_effect_is_said_once_with_the_reason() -> None:
    with pytest.warns(UserWarning, match="change nothing") as caught:
        config: Any = PPOConfig(dataloader_num_workers=2, local_rollout_forward_batch_size=4, fp16=True)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "dataloader_num_workers=2: prompts are held in memory" in message
    assert "fp16=True: weights and log-probabilities are float32" in message
    assert caught[0].filename == __file__
    assert config.dataloader_num_workers == 2


def test_an_unknown_name_is_an_error_with_a_guess() -> None:
    with pytest.raises(ValidationError, match="did you mean `learning_rate`"):
        PPOConfig(learnin_rate=1e-5)


def test_a_recipe_stays_strict() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        RecipeConfig(**{"dataloader_num_workers": 2})


@pytest.mark.parametrize("config", [PPOConfig, RecipeConfig])
@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_estimators_that_converge_elsewhere_are_refused(config: Any, estimator: str) -> None:
    with pytest.raises(ValidationError, match="does not lead to the optimum"):
        config(kl_estimator=estimator)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({}, 64),
        ({"per_device_train_batch_size": 16}, 16),
        ({"gradient_accumulation_steps": 4}, 32),
        ({"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4}, 64),
        ({"batch_size": 12}, 12),
    ],
)
def test_batch_size_as_trl_reckons_it(given: dict[str, int], size: int) -> None:
    assert PPOConfig(**given).batch_size == size


def test_two_batch_sizes_that_differ_are_an_error() -> None:
    with pytest.raises(ValidationError, match="is not per_device_train_batch_size"):
        PPOConfig(batch_size=12, per_device_train_batch_size=16)


def test_the_command_line_of_trls_example() -> None:
    line = """--learning_rate 3e-6 --output_dir out --per_device_train_batch_size 1 --gradient_accumulation_steps 64
        --total_episodes 30000 --sft_model_path sft --reward_model_path reward --missing_eos_penalty 1.0
        --stop_token eos --response_length 53 --eval_strategy steps --eval_steps 100 --save_steps 0.25 --bf16
        --no_whiten_advantages --report_to wandb"""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (config,) = HfArgumentParser(PPOConfig).parse_args_into_dataclasses(line.split(), look_for_args_file=False)
    assert isinstance(config, PPOConfig)
    assert (config.batch_size, config.total_episodes, config.eval_steps, config.save_steps) == (64, 30000, 100, 0.25)
    assert (config.sft_model_path, config.dataset_num_proc, config.eval_strategy) == ("sft", None, "steps")
    assert config.bf16
    assert not config.whiten_advantages


def test_scripts_may_set_attributes_afterwards() -> None:
    config: Any = PPOConfig()
    config.total_episodes = 3
    config.num_total_batches = 5
    assert config.to_dict()["total_episodes"] == 3


def test_the_guide_says_of_every_name_what_becomes_of_it() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "from_trl.md").read_text(encoding="utf-8")
    assert {name for name in OF_TRL if f"`{name}`" not in guide and name != "kl_estimator"} == set()
    rows = {name: line for line in guide.splitlines() if line.startswith("| `") for name in line.split("`")[1::2]}
    assert all(reason in rows[name] for name, reason in NO_EFFECT.items())
