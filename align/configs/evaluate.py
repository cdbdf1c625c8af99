"""`kind: evaluate`: models side by side on the same prompts, with intervals."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from align.configs.base import (
    Config,
    EvaluationData,
    Fraction,
    GenerationSettings,
    Metric,
    Reference,
    RewardSpec,
    StageConfig,
)


class JudgeConfig(Config):
    """A scorer that only measures: it must never have been the reward."""

    model: Reference | None = None
    """A classifier; its probability of `label` is the toxicity."""
    label: str | None = None
    rule: Literal["rude_wording"] | None = None
    """The embedded corpus's own exact rule: 1 where a response contains rude wording, else 0."""

    @model_validator(mode="after")
    def _model_with_label_or_rule(self) -> JudgeConfig:
        if (self.model is None) == (self.rule is None):
            raise ValueError("a judge is either a model or a rule")
        if (self.model is None) != (self.label is None):
            raise ValueError("a judge that is a model needs `label:`, the name of the toxic label; a rule takes none")
        return self


class EvaluateConfig(StageConfig):
    """Sample from every model on the same held-out prompts and compare each with the baseline, prompt by prompt."""

    kind: Literal["evaluate"]
    models: list[Reference] = Field(min_length=1)
    baseline: Reference | None = None
    """Differences and KL are against this model (default: `sft` where it is among the models, else the first)."""
    data: list[EvaluationData] = Field(min_length=1)
    metrics: list[Metric] = ["rouge", "toxicity", "kl", "length", "distinct"]
    judge: JudgeConfig | None = None
    reward: RewardSpec | None = None
    """Also measure this reward, and how well it agrees with the judge: AUC of reward against judged toxicity."""
    require_reward_auc: Fraction | None = None
    """The stage fails where that AUC, on the baseline's responses, is lower: PPO would follow a wrong pointer."""
    generation: GenerationSettings = GenerationSettings()
    batch_size: PositiveInt = 64
    bootstrap_samples: PositiveInt = 2000
    samples: PositiveInt = 5
    """Samples shown on the terminal (the artifact holds all)."""

    @model_validator(mode="after")
    def _parts_fit(self) -> EvaluateConfig:
        if self.baseline is not None and self.baseline not in self.models:
            raise ValueError(f"baseline {self.baseline!r} is not among models: {', '.join(self.models)}")
        if "toxicity" in self.metrics and self.judge is None:
            raise ValueError("metric toxicity needs a `judge:`")
        if "reward" in self.metrics and self.reward is None:
            raise ValueError("metric reward needs a `reward:`")
        if self.require_reward_auc is not None and (self.reward is None or self.judge is None):
            raise ValueError("require_reward_auc compares `reward:` with `judge:`: set both")
        return self

    @property
    def baseline_model(self) -> str:
        """The model that the others are compared with."""
        return self.baseline or ("sft" if "sft" in self.models else self.models[0])
