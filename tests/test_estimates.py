from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.configs.ppo import PPOStageConfig
from align.configs.pretrain import PretrainConfig
from align.configs.reward import RewardConfig
from align.errors import UsageError
from align.pipeline import estimates
from align.pipeline.planning import Source, Step
from align.stages.pretrain import new_model

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


class Vocabulary:
    """As much of a tokenizer as the shape of a model depends on."""

    pad_token_id, eos_token_id = 0, 1

    def __len__(self) -> int:
        return 400


def _pretrain(architecture: str) -> Step:
    config = PretrainConfig(
        kind="pretrain",
        architecture=architecture,
        size=SIZE,
        tokenizer={"vocab_size": 400},
        data=[{"dataset": {"path": "texts.csv"}, "text": "{text}"}],
    )
    return _step("small", config, {})


def _step(name: str, config: Any, inputs: dict[str, Source]) -> Step:
    return Step(name=name, config=config, inputs=inputs, data={}, fingerprint="", action="run", reason="new")


@pytest.mark.parametrize("architecture", ["llama", "t5", "modernbert"])
def test_a_model_from_scratch_has_the_parameters_that_were_announced(architecture: str) -> None:
    step = _pretrain(architecture)
    model = new_model(architecture, step.config.size, Vocabulary())  # type: ignore[arg-type, union-attr]
    found = estimates.estimates([step])["small"]
    assert found.parameters == sum(part.numel() for part in model.parameters())


def test_weights_that_were_cut_short_are_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(UsageError, match=r"model\.safetensors is not a safetensors file, or was cut short"):
        estimates.of_directory(tmp_path)


def test_a_reward_model_with_adapters_trains_less_and_an_average_costs_memory() -> None:
    def announced(**settings: Any) -> Any:
        config = RewardConfig(
            kind="reward",
            model="small",
            labels={"positive": "nice"},
            data=[{"dataset": {"path": "rows.csv"}, "text": "{text}", "label": {"column": "label"}}],
            **settings,
        )
        step = _step("judge", config, {"model": Source("small", stage="small")})
        return estimates.estimates([_pretrain("llama"), step])["judge"]

    full, lora, averaged = announced(), announced(method="lora", lora={"r": 2}), announced(average_weights=0.9)
    assert full.parameters == full.trainable == lora.parameters
    assert lora.trainable < full.trainable / 3
    assert lora.memory < full.memory
    assert averaged.memory == full.memory + 4 * full.trainable


def test_a_judge_of_ppo_is_held_as_its_reward_is() -> None:
    def announced(**scorers: str) -> Any:
        prompts = [{"dataset": {"path": "rows.csv"}, "prompt": "{text}"}]
        config = PPOStageConfig(kind="ppo", policy="small", prompts=prompts, evaluation_prompts=prompts, **scorers)
        inputs = {place: Source(name, stage="small") for place, name in {"policy": "small", **scorers}.items()}
        return estimates.estimates([_pretrain("llama"), _step("ppo", config, inputs)])["ppo"]

    alone, judged = announced(reward="small"), announced(reward="small", judge="other")
    assert judged.memory == alone.memory + 4 * alone.parameters
