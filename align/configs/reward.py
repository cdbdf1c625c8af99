"""`kind: reward`: a classifier of texts or a model of preferences, to steer PPO or to judge an evaluation."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from align.configs.base import (
    Config,
    Fraction,
    FractionBelowOne,
    GenerationSettings,
    LabelledData,
    LoraSettings,
    PreferenceData,
    PromptData,
    Reference,
    StageConfig,
    TrainConfig,
)


class RewardLabels(Config):
    """Which label is the good one, or the bad one, by name."""

    positive: str | None = None
    """The label that a high reward stands for: `nontoxic`."""
    negative: str | None = None
    """The label that a low reward stands for: `toxic`. The published reward has its sign changed."""

    @model_validator(mode="after")
    def _one_pole(self) -> Self:
        if (self.positive is None) == (self.negative is None):
            raise ValueError("needs either `positive:` or `negative:`, the name of a label")
        return self

    @property
    def scored(self) -> str:
        """The label whose number the reward is read from."""
        return self.positive or self.negative or ""


class EarlyStopping(Config):
    """Stop when the loss on rows kept aside no longer falls, and publish the weights with which it was lowest."""

    eval_steps: PositiveInt = 100
    """Optimizer steps between looks; also the steps between checkpoints."""
    patience: PositiveInt = 3
    """Looks in a row without a new lowest loss, after which training ends."""


class Normalize(Config):
    """Shift and scale rewards so that on responses of this policy their mean is 0 and their variance 1."""

    policy: Reference
    prompts: list[PromptData] = Field(min_length=1)
    generation: GenerationSettings = GenerationSettings()


class RewardConfig(StageConfig):
    """Train a sequence classifier on the body of `model`: on labelled texts (`data`), or on preferences (`pairs`)."""

    kind: Literal["reward"]
    model: Reference
    method: Literal["full", "lora"] = "full"
    lora: LoraSettings | None = None
    labels: RewardLabels | None = None
    """Of `data`; a model of preferences has none."""
    transform: Literal["logit", "log_odds", "probability", "log_probability"] = "log_odds"
    """What the published reward model returns, unless whoever loads it says otherwise. (Of one logit, as a model of
    preferences has, `logit` and `log_odds` are the same.)"""
    data: list[LabelledData] = []
    evaluation_data: list[LabelledData] = []
    """Held-out rows for accuracy, F1, AUC and calibration error (default: one tenth of `data`, kept aside)."""
    pairs: list[PreferenceData] = []
    evaluation_pairs: list[PreferenceData] = []
    """Held-out pairs for the pair accuracy (default: one tenth of `pairs`, kept aside)."""
    max_length: PositiveInt = 256
    dtype: Literal["float32", "bfloat16"] = "float32"
    """While training, of the weights that adapters leave as they are (what is published is always float32)."""
    attn_implementation: str | None = None
    """While training, as transformers has it: `eager`, `sdpa` (default: what it chooses)."""
    dropout: FractionBelowOne = 0.0
    token_dropout: FractionBelowOne = 0.0
    """Share of the tokens of training texts that the model is shown as the mask or unknown token, anew each epoch."""
    masked_lm_weight: NonNegativeFloat = 0.0
    """Weight of predicting the tokens that `token_dropout` hides, beside the labels: 0.3. An encoder goes on learning
    the language of the texts (Radford et al. 2018, section 3.2, lambda there)."""
    r_drop: NonNegativeFloat = 0.0
    """Weight of the disagreement between two passes over each text, which `dropout` and `token_dropout` make differ
    (R-Drop, Liang et al. 2021, alpha there). An update then takes twice the time."""
    average_weights: FractionBelowOne = 0.0
    """Publish a moving average of the weights, of which a step keeps this share: 0.998 (0: the last weights)."""
    class_weights: Literal["none", "balanced"] | dict[str, PositiveFloat] = "none"
    """Of the loss: as many as labels, or `balanced`, so that all labels weigh the same in sum."""
    early_stopping: EarlyStopping | None = None
    calibration: Literal["none", "temperature"] = "none"
    """`temperature`: logits are divided by the number that makes probabilities truest on rows kept aside (Guo et al.
    2017), and the published weights say it already."""
    normalize: Normalize | None = None
    probes: list[tuple[str, str]] = []
    """Pairs of a better and a worse response, published with the model: PPO refuses it where it is read upside down."""
    require_auc: Fraction | None = None
    """The stage fails where the ROC AUC (of pairs: the pair accuracy) on held-out rows is below this."""
    train: TrainConfig = TrainConfig()

    @property
    def needs_tuning_rows(self) -> bool:
        """Whether rows are needed that are neither trained on nor measured with."""
        return self.early_stopping is not None or self.calibration != "none"

    @model_validator(mode="after")
    def _labels_or_pairs(self) -> Self:
        if bool(self.data) == bool(self.pairs):
            raise ValueError("needs either `data:` (labelled texts) or `pairs:` (preferences)")
        if self.data and self.labels is None:
            raise ValueError("`data:` needs `labels:`, which says what a high reward stands for: {positive: nontoxic}")
        if (self.data and self.evaluation_pairs) or (self.pairs and self.evaluation_data):
            raise ValueError("`evaluation_data:` belongs to `data:`, and `evaluation_pairs:` to `pairs:`")
        return self

    @model_validator(mode="after")
    def _pairs_have_no_labels(self) -> Self:
        if self.pairs and (self.labels is not None or self.class_weights != "none"):
            raise ValueError("`pairs:` have no labels: remove `labels:` and `class_weights:`")
        if self.pairs and self.train.label_smoothing_factor:
            raise ValueError("`pairs:` have no labels to smooth: remove train.label_smoothing_factor")
        return self

    @model_validator(mode="after")
    def _training_is_of_one_kind(self) -> Self:
        for key in ("token_dropout", "masked_lm_weight", "r_drop"):
            if self.pairs and getattr(self, key):
                raise ValueError(f"{key} is for `data:`, not for `pairs:`: remove it")
        if self.r_drop and not (self.dropout or self.token_dropout):
            raise ValueError("r_drop compares two passes, which differ by dropout alone: set dropout or token_dropout")
        if self.masked_lm_weight and not self.token_dropout:
            raise ValueError("masked_lm_weight is of the tokens that token_dropout hides: set token_dropout")
        if self.early_stopping is not None and self.average_weights:
            raise ValueError("early_stopping looks at the weights themselves, not at average_weights: choose one")
        return self

    @model_validator(mode="after")
    def _labels_are_of_one_kind(self) -> Self:
        kinds = {tuple(sorted(one.labels)) for one in (*self.data, *self.evaluation_data)}
        if len(kinds) > 1:
            raise ValueError("all data must have the same `labels:`, or all `label:`")
        if len({one.prompt is None for one in (*self.data, *self.evaluation_data)}) > 1:
            raise ValueError("all data must have a `prompt:`, or none of it")
        return self

    @model_validator(mode="after")
    def _lora_only_with_lora(self) -> Self:
        if self.lora is not None and self.method == "full":
            raise ValueError("`lora:` is set, but method is full: set method: lora, or remove the block")
        if self.dtype != "float32" and not (self.method == "lora" and self.train.bf16):
            raise ValueError(
                f"dtype: {self.dtype} is for weights that do not train, beside products in bfloat16: "
                "set method: lora and train.bf16: true, or remove it"
            )
        return self
