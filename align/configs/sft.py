"""`kind: sft`: instruction tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from align.configs.base import InstructionData, LoraSettings, Method, Reference, StageConfig, TrainConfig


class SftConfig(StageConfig):
    """Tune a base model to answer prompts; the loss is on the completion alone."""

    kind: Literal["sft"]
    model: Reference
    method: Method = "full"
    lora: LoraSettings | None = None
    publish: Literal["merged", "adapter"] = "merged"
    """What a stage with adapters publishes: merged weights with the adapter beside them, or the adapter alone."""
    data: list[InstructionData] = Field(min_length=1)
    evaluation_data: list[InstructionData] = []
    max_length: PositiveInt = 512
    """Tokens of prompt and completion (encoder-decoder: of each). Longer rows are left out, and counted."""
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _lora_only_with_lora(self) -> SftConfig:
        if self.lora is not None and self.method == "full":
            raise ValueError("`lora:` is set, but method is full: set method: lora or qlora, or remove the block")
        if self.publish == "adapter" and self.method == "full":
            raise ValueError("publish: adapter needs method: lora or qlora")
        return self
