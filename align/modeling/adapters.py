"""Low-rank adapters: put on, saved and merged."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor
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


@contextmanager
def frozen_weights_in(model: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within it, the weights that do not train are held in `dtype`; after it they are what they were before.

    Autocast, which converts such a weight anew for every product, then has nothing to convert, and what layers hand to
    one another is of `dtype` as well: half of the memory to go through. Both versions of the weights are kept.
    """
    weights = [part for part in model.parameters() if not part.requires_grad and part.is_floating_point()]
    before = [weight.data for weight in weights]
    try:
        for weight in weights:
            weight.data = weight.data.to(dtype)
        yield
    finally:
        for weight, data in zip(weights, before, strict=True):
            weight.data = data


class _AddedAtOnce:
    """A variant of LoRA, as peft has them, which differs by rounding alone."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        inner = module.lora_A[active_adapter](module.lora_dropout[active_adapter](x))
        weight, scaling = module.lora_B[active_adapter].weight, module.scaling[active_adapter]
        return torch.addmm(result.flatten(0, -2), inner.flatten(0, -2), weight.T, alpha=scaling).view_as(result)


@contextmanager
def adding_at_once(model: torch.nn.Module) -> Iterator[None]:
    """Within it, under autocast, adapters of linear layers add to what the layer returns within their last product.

    Otherwise they write out that product, and then that times its scale, each as large as what the layer returns: of
    a small model, where memory rather than arithmetic takes the time, this is to be felt.
    """
    layers: list[Any] = [part for part in model.modules() if type(part) is LoraLinear]
    variants = [getattr(layer, "lora_variant", None) for layer in layers]  # where peft looks for DoRA, say
    plain = [
        (of_layer, name)
        for layer, of_layer in zip(layers, variants, strict=True)
        for name, up in layer.lora_B.items()
        if of_layer == {} and up.bias is None
    ]
    try:
        for of_layer, name in plain:
            of_layer[name] = _AddedAtOnce()
        yield
    finally:
        for of_layer, name in plain:
            of_layer.pop(name, None)


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
