"""What every stage configuration shares: strictness, references to other artifacts, training arguments, data.

These classes say what a recipe may contain. They import no torch, so that checking a recipe is instant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from reward_models import nesting

Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _bound_or_none(steps: int) -> int:
    if steps < 1 and steps != -1:
        raise ValueError(f"{steps} updates train nothing: set 1 or more, or -1 for no bound")
    return steps


StepLimit = Annotated[int, AfterValidator(_bound_or_none)]

COLUMN = re.compile(r"\{(\w[\w. /()-]*)\}")
"""A column of the data in a template: `{text}`, `{continuation.text}`."""


def _with_a_column(template: str) -> str:
    if not COLUMN.search(template):
        column = template if template.isidentifier() else "text"
        raise ValueError(
            f"{template!r} names no column, so that all rows say the same: write it in braces, '{{{column}}}'"
        )
    return template


Template = Annotated[str, AfterValidator(_with_a_column)]
"""Text with at least one column of the data in it."""


class Config(BaseModel):
    """Immutable, and an unknown key is an error at every depth."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class ReferenceMarker:
    """Marks a field that names an artifact: a stage, `registry:name@v2`, `hub:org/name@revision`, `path:./dir`."""


Reference = Annotated[str, Field(min_length=1), ReferenceMarker()]

RewardSpec = Annotated[str | dict[str, Any], ReferenceMarker()]
"""What `reward_models.load` understands, with stage names and references where it wants directories.

A string (`toxicity`, `hub:org/classifier`, `my_module:MyReward`, `http://127.0.0.1:8000`) or a mapping whose `model:`
is such a string (`{model: toxicity, transform: probability}`); lists under `of:` nest further specs.
"""


_ONLY_FOR = {"subset": ["hub"], "revision": ["hub"], "split": ["hub", "generator"], "size": ["generator"]}
"""Keys of a data set that only some sources understand."""


class LastReply(Config):
    """Dialogues written out in columns, cut before their last reply."""

    marker: str = Field(min_length=1)
    """What stands before each reply: `"\\n\\nAssistant:"`. It stays at the end of the prompt."""
    columns: list[str] = Field(min_length=1)
    """Columns that hold dialogues. Each becomes its last reply; what stood before is the new column `prompt`. Rows
    without the marker, or whose columns have different prompts, are dropped and counted."""


class DatasetConfig(Config):
    """Where rows come from, and how they are divided into disjoint parts. Named once under the recipe's `datasets:`."""

    path: str | None = None
    """A `.jsonl`, `.json` (a list of objects) or `.csv` file."""
    hub: str | None = None
    """A data set id on the Hugging Face Hub."""
    generator: Literal["dialogues", "sentences"] | None = None
    """The embedded synthetic corpus: nothing to download."""
    artifact: Reference | None = None
    """An evaluation, of this recipe or `registry:name@v1`, whose samples are the rows: responses and their scores."""
    subset: str | None = None
    """The configuration name of a Hub data set."""
    revision: str | None = None
    """The commit or tag of a Hub data set."""
    split: str | None = None
    """`train`, `dev`/`validation` or `test`, of a Hub data set or a generator."""
    size: PositiveInt | None = None
    """Rows that a generator writes for this split (default: the generator's own)."""
    seed: Seed = 0
    """Of the generator, and of the division into parts."""
    last_reply: LastReply | None = None
    unique_by: str | None = None
    """A template such as `{dialogue}`: rows whose rendered key was seen before (ignoring case, punctuation and digits)
    are dropped."""
    exclude: DatasetConfig | None = None
    """Rows whose `unique_by` key also stands in that data set are dropped (so that no evaluation row is trained on)."""
    parts: dict[str, PositiveInt] | None = None
    """Disjoint parts by number of rows, drawn once from the shuffled rows: `{train: 3000, judge: 400}`."""

    @model_validator(mode="after")
    def _one_source(self) -> DatasetConfig:
        sources = ("path", "hub", "generator", "artifact")
        given = [name for name in sources if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(sources)}, but has {given or 'none of them'}")
        for name, told in _ONLY_FOR.items():
            if getattr(self, name) is not None and given[0] not in told:
                raise ValueError(f"`{name}` does not apply to `{given[0]}`, only to `{'` or `'.join(told)}`: remove it")
        if self.exclude is not None and self.unique_by is None:
            raise ValueError("`exclude` compares rows by `unique_by`: add it, for example unique_by: '{dialogue}'")
        return self


class SelectionConfig(Config):
    """Which rows of a data set to take."""

    dataset: DatasetConfig
    """A name from the recipe's `datasets:`, or a data set written out here."""
    part: str | None = None
    """One of the data set's `parts`."""
    limit: PositiveInt | None = None
    """At most so many rows, from the front."""
    where: dict[str, str | float | bool | dict[Literal["min", "max"], float]] = {}
    """Keep rows whose column equals the value, or lies within `{min: …, max: …}`; dots reach into nested columns."""

    @model_validator(mode="after")
    def _part_exists(self) -> SelectionConfig:
        parts = self.dataset.parts or {}
        if self.part is not None and self.part not in parts:
            raise ValueError(
                f"part {self.part!r} is not among the data set's parts: {', '.join(parts) or 'it has none'}"
            )
        return self


class TextData(SelectionConfig):
    """Plain text, for pre-training."""

    text: Template
    """`{dialogue}`, `{continuation.text}`; other characters stand for themselves."""


class InstructionData(SelectionConfig):
    """Prompt and completion, for instruction tuning."""

    prompt: str
    """A template; one without a column asks the same of all rows."""
    completion: Template


class PromptData(SelectionConfig):
    """Prompts for PPO, with references where a reward compares with them."""

    prompt: str
    reference: Template | None = None


Metric = Literal["rouge", "bleu", "perplexity", "toxicity", "kl", "length", "distinct", "reward"]


class EvaluationData(SelectionConfig):
    """Prompts, their references where there are any, and the metrics to take on them."""

    prompt: str
    reference: Template | None = None
    metrics: list[Metric] | None = None
    """Of the stage's metrics, those taken on these rows (default: all)."""


class LabelConfig(Config):
    """How a row's label is read: by its name, through a map of names, or by a threshold on a number."""

    column: str
    names: dict[str, str] | None = None
    """From what stands in the column to the label's name: `{"0": nothate, "1": hate}`."""
    threshold: float | None = None
    above: str | None = None
    """The label of rows whose number is above the threshold."""
    below: str | None = None
    """The label of the others."""

    @model_validator(mode="after")
    def _one_way(self) -> LabelConfig:
        by_threshold = [self.threshold, self.above, self.below]
        if any(part is not None for part in by_threshold):
            if any(part is None for part in by_threshold) or self.names is not None:
                raise ValueError("a label by threshold needs threshold, above and below, and no names")
        return self


class LabelledData(SelectionConfig):
    """Texts with labels, for classifiers. Rows whose label column is null are left out, and counted."""

    text: Template
    prompt: str | None = None
    """What the text responds to: a template. Both are read then, in training and by whoever loads the model."""
    label: LabelConfig | None = None
    """One label of several that exclude each other."""
    labels: dict[str, str] = {}
    """Several labels that may hold together: from a label's name to the column with its number."""
    threshold: float = 0.5
    """A label of `labels` holds where its number is above."""

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> LabelledData:
        if (self.label is None) == (not self.labels):
            raise ValueError("needs either `label:` (exactly one per row) or `labels:` (any number per row)")
        if len(self.labels) == 1:
            raise ValueError("`labels:` is for two or more labels; for one, write `label:` with a threshold")
        return self


class PreferenceData(SelectionConfig):
    """Pairs of responses to one prompt, of which one was preferred."""

    prompt: str | None = None
    chosen: Template
    rejected: Template


Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]
"""Those of transformers that need no arguments of their own."""

Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "sgd",
    "adagrad",
    "rmsprop",
    "adamw_8bit",
    "adamw_bnb_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "lion_8bit",
    "lion_32bit",
    "paged_lion_8bit",
    "paged_lion_32bit",
    "ademamix",
    "ademamix_8bit",
]
"""Those of torch and transformers, and those of bitsandbytes."""


class TrainConfig(Config):
    """The `TrainingArguments` of transformers that a recipe may set, under their own names."""

    learning_rate: PositiveFloat = 5e-5
    num_train_epochs: PositiveFloat = 3.0
    max_steps: StepLimit = -1
    per_device_train_batch_size: PositiveInt = 8
    per_device_eval_batch_size: PositiveInt = 32
    gradient_accumulation_steps: PositiveInt = 1
    lr_scheduler_type: Schedule = "linear"
    warmup_steps: NonNegativeFloat = 0
    """Below 1: a share of all steps."""
    weight_decay: NonNegativeFloat = 0.0
    adam_beta1: FractionBelowOne = 0.9
    adam_beta2: FractionBelowOne = 0.999
    adam_epsilon: PositiveFloat = 1e-8
    max_grad_norm: NonNegativeFloat = 1.0
    optim: Optimizer = "adamw_torch"
    label_smoothing_factor: FractionBelowOne = 0.0
    bf16: bool = False
    torch_compile: bool = False
    gradient_checkpointing: bool = False
    logging_steps: PositiveInt = 10
    save_steps: PositiveInt = 200
    """A checkpoint to resume from every so many steps."""
    dataloader_num_workers: NonNegativeInt = 0


Method = Literal["full", "lora", "qlora"]
"""What trains: all weights; adapters (Hu et al. 2021); or adapters on a base held in 4 bits (Dettmers et al. 2023)."""


class LoraSettings(Config):
    """Low-rank adapters, under peft's names."""

    r: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: FractionBelowOne = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


class GenerationSettings(Config):
    """How text is sampled. Complete: nothing is taken from a checkpoint's own `generation_config`."""

    max_new_tokens: PositiveInt = 64
    do_sample: bool = True
    temperature: PositiveFloat = 1.0
    top_k: NonNegativeInt = 0
    top_p: Fraction = 1.0


class StageConfig(Config):
    """What every kind of stage may be told."""

    kind: str
    seed: Seed = 0
    """Of everything random in the stage (default: the recipe's)."""
    after: list[str] = []
    """Stages that must be done before this one starts, although it takes nothing from them."""

    def references(self) -> dict[str, str]:
        """Each input's place in this configuration (`model`, `models.0`, `reward.of.1`) and what it refers to."""
        return dict(_references(self))


def _references(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in type(config).model_fields.items():
        value, place = getattr(config, name), f"{prefix}{name}"
        if _is_marked(field.annotation, *field.metadata):
            yield from _references_in(value, place)
        elif isinstance(value, BaseModel):
            yield from _references(value, f"{place}.")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield from _references(item, f"{place}.{index}.")


def _is_marked(*annotations: Any) -> bool:
    return any(isinstance(part, ReferenceMarker) or _is_marked(*get_args(part)) for part in annotations)


def _references_in(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Of one reference, a list of them, or a reward that is made of some."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _references_in(item, f"{place}.{index}")
    for keys, inner in nesting.walk(value):
        if isinstance(inner, str):
            yield ".".join([place, *map(str, keys)]), inner
