"""`kind: reward`: a text classifier whose score can steer PPO, or judge an evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from align.configs.base import Config, Fraction, LabelledData, Reference, StageConfig, TrainConfig


class RewardLabels(Config):
    """Which label is the good one, by name."""

    positive: str
    """The label that a high reward stands for: `nontoxic`."""


class RewardConfig(StageConfig):
    """Train a sequence classifier with the transformers `Trainer`, on the body of `model`."""

    kind: Literal["reward"]
    model: Reference
    labels: RewardLabels
    transform: Literal["logit", "log_odds", "probability", "log_probability"] = "log_odds"
    """What the published reward model returns for the positive label, unless whoever loads it says otherwise."""
    data: list[LabelledData] = Field(min_length=1)
    evaluation_data: list[LabelledData] = []
    """Held-out rows for accuracy, F1 and AUC (default: one tenth of `data`, kept aside)."""
    max_length: PositiveInt = 256
    dropout: Fraction = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    require_auc: Fraction | None = None
    """The stage fails where the ROC AUC on held-out rows is below this."""
    train: TrainConfig = TrainConfig()
