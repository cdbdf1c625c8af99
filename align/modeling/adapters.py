"""Low-rank adapters: put on, saved and merged."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Literal, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.configs.base import LoraSettings
from align.errors import UsageError
from align.modeling.export import edit_json, empty_directory, save_model, save_tokenizer


def attach(model: PreTrainedModel, settings: LoraSettings) -> PeftModel:
    """The model with fresh adapters, which alone train. Initialised from torch's global generator: seed it before."""
    task = TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    lora = LoraConfig(
        task_type=task,
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
    )
    return adapted(model, lora)


def adapted(model: PreTrainedModel, lora: LoraConfig) -> PeftModel:
    """The model with adapters where the configuration wants them.

    Raises:
        UsageError: it has no such modules.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for an attribute that transformers renames.
        try:
            return get_peft_model(model, lora)
        except ValueError as error:
            wanted = lora.target_modules if isinstance(lora.target_modules, str) else sorted(lora.target_modules or ())
            raise UsageError(f"lora.target_modules: {wanted}: {error}") from error


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Write the adapter alone: the same bytes for the same adapter, and no path of this machine."""
    model.save_pretrained(str(directory), selected_adapters=[model.active_adapter], save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    settings = directory / "adapter_config.json"
    targets = json.loads(settings.read_text(encoding="utf-8"))["target_modules"]
    # peft keeps the targets as a set, whose order changes with Python's hash seed.
    edit_json(settings, base_model_name_or_path="", target_modules=sorted(targets))


def merged(model: PeftModel, adapter: Path) -> PreTrainedModel:
    """The model with its adapter, which was saved to `adapter`, added into the weights. Consumes `model`.

    A base of 4 bits becomes float32 first. What it stands for does not change by that, where adding into 4 bits would
    round the adapter away.
    """
    if getattr(model.get_base_model(), "is_quantized", False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model = PeftModel.from_pretrained(model.unload().dequantize(torch.float32), str(adapter))
    return cast(PreTrainedModel, model.merge_and_unload(safe_merge=True))


def save_tuned(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    publish: Literal["merged", "adapter"],
) -> None:
    """Write what a stage has tuned: a model; or of an adapted one the merged weights with the adapter in `adapter/`
    beside them, or the adapter alone. Consumes `model`."""
    empty_directory(directory)
    if not isinstance(model, PeftModel):
        save_model(model, tokenizer, directory)
    elif publish == "adapter":
        save_adapter(model, directory)
        save_tokenizer(tokenizer, directory)
    else:
        save_adapter(model, directory / "adapter")
        save_model(merged(model, directory / "adapter"), tokenizer, directory)
