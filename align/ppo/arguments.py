"""`PPOConfig` as the Python API has it: a recipe's settings, and all that a script written for TRL 1.12 may say."""

from __future__ import annotations

import dataclasses
import difflib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator
from transformers import TrainingArguments

from align.configs import ppo
from align.ppo.no_effect import NO_EFFECT, complaints, defaults


class PPOConfig(ppo.PPOConfig):
    """Settings of `PPOTrainer`.

    Every name of TRL 1.12's `PPOConfig`, which are those of `TrainingArguments` too, either works or is accepted with
    a warning that says why it changes nothing; a name that neither knows is an error. `HfArgumentParser` takes this
    class like a dataclass. Defaults are those of a recipe, also where TRL's differ: `docs/from_trl.md` lists them.
    """

    model_config = ConfigDict(extra="allow", frozen=False)
    __dataclass_fields__: ClassVar[dict[str, Any]]
    """What `HfArgumentParser` reads."""

    output_dir: str | None = None
    """Where checkpoints go, and `save_model` without a directory."""
    per_device_train_batch_size: PositiveInt | None = None
    gradient_accumulation_steps: PositiveInt | None = None
    """`batch_size` is the product of these two, and of the processes that torchrun started, where one is given; 8 and 1
    stand in for the other, as in TRL."""
    save_strategy: str = "steps"
    """`no` writes no checkpoints."""
    use_cpu: bool = False
    report_to: str | list[str] | None = None
    """`wandb` mirrors the figures to Weights & Biases."""
    run_name: str | None = None
    model_adapter_name: str | None = None
    """The adapter of a peft policy that trains (default: the active one)."""
    ref_adapter_name: str | None = None
    """The adapter of a peft policy that is the reference (default: none, the trunk with all adapters off)."""
    push_to_hub: bool = False
    """For the script to read: `trainer.push_to_hub()` is its own to call."""
    hub_model_id: str | None = None
    hub_private_repo: bool | None = None
    hub_token: str | None = Field(default=None, repr=False, exclude=True)
    hub_revision: str | None = None
    sft_model_path: str = "EleutherAI/pythia-160m"
    """For the script to read, like the two below: the trainer takes models, and data that is ready."""
    reward_model_path: str = "EleutherAI/pythia-160m"
    dataset_num_proc: PositiveInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_scripts_say_it(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        settings = {name: getattr(value, "value", value) for name, value in given.items()}  # enums of transformers
        known = {*cls.model_fields, *NO_EFFECT, *(field.name for field in dataclasses.fields(TrainingArguments))}
        for name in settings.keys() - known:
            guess = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"PPOConfig has no setting `{name}`" + (f"; did you mean `{guess[0]}`?" if guess else ""))
        if told := complaints(settings):
            warnings.warn("PPOConfig: these change nothing:\n  " + "\n  ".join(told), stacklevel=3)
        optional = ("total_episodes", "stop_token", "save_total_limit")
        settings = {name: value for name, value in settings.items() if value is not None or name in optional}
        if isinstance(settings.get("output_dir"), Path):
            settings["output_dir"] = str(settings["output_dir"])
        return {**defaults(), **settings, **_batch_size(settings)}

    @field_validator("save_strategy")
    @classmethod
    def _saves_by_steps(cls, strategy: str) -> str:
        if strategy in ("epoch", "best"):
            warnings.warn(f"PPOConfig: save_strategy {strategy!r} is taken as 'steps': see save_steps", stacklevel=2)
            return "steps"
        if strategy not in ("no", "steps"):
            raise ValueError(f"save_strategy {strategy!r} is neither 'steps' nor 'no'")
        return strategy

    def to_dict(self) -> dict[str, Any]:
        """All settings, as callbacks of transformers ask for them."""
        return self.model_dump()


def _batch_size(settings: Mapping[str, Any]) -> dict[str, int]:
    """`batch_size` as TRL reckons it, where the script says it in TRL's way."""
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    if not any(name in settings for name in names):
        return {}
    product = int(settings.get(names[0], 8)) * int(settings.get(names[1], 1)) * int(os.environ.get("WORLD_SIZE", "1"))
    default = ppo.PPOConfig.model_fields["batch_size"].default  # which an argument parser says for a script
    if settings.get("batch_size", default) not in (default, product):
        raise ValueError(
            f"batch_size {settings['batch_size']} is not {names[0]} × {names[1]} × processes = {product}: remove one"
        )
    return {"batch_size": product}


def _fields_for_argument_parser(config: type[BaseModel]) -> dict[str, Any]:
    """A dataclass's fields for all that the command line can say; nested settings it cannot."""
    hints = get_type_hints(config)
    inherited = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    inherited_hints = get_type_hints(TrainingArguments)
    fields: list[tuple[str, Any, Any]] = []
    for name, info in config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            continue
        hint = float if name in ("eval_steps", "save_steps") else str if name == "report_to" else hints[name]
        fields.append((name, hint, dataclasses.field(default=info.default)))
    for name, default in defaults().items():
        metadata = dict(inherited[name].metadata) if name in inherited else {}
        hint = inherited_hints.get(name, bool if isinstance(default, bool) else int)
        field: Any = (
            dataclasses.field(default_factory=list, metadata=metadata)
            if default == []
            else dataclasses.field(default=default, metadata=metadata)
        )
        fields.append((name, hint, field))
    config.__annotations__.update({name: hint for name, hint, _ in fields})
    return {field.name: field for field in dataclasses.fields(dataclasses.make_dataclass(config.__name__, fields))}


PPOConfig.__dataclass_fields__ = _fields_for_argument_parser(PPOConfig)
