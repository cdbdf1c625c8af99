"""Loading tokenizers, language models and classifiers from directories. Never runs code that a directory brings."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from align.errors import UsageError
from align.workspace import BASE

disable_progress_bar()  # A bar for every loading and saving would run through the stages' own.

Loaded = TypeVar("Loaded")

LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError)
"""What libraries raise for a directory, or a name on the Hub, that is not what it should be."""


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory, with a pad token, padding on the right.

    Where the tokenizer has none, an existing token stands in (unknown, else end-of-text), so that no embedding is
    added; masks are made from lengths everywhere, never from where the pad token is.

    Raises:
        UsageError: where the directory holds no tokenizer.
    """
    tokenizer = _attempt(
        lambda: AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False),
        f"{directory} holds no tokenizer that can be loaded",
    )
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise UsageError(f"{directory}: the tokenizer has neither a pad, an unknown nor an end-of-text token")
    return tokenizer


def load_config(directory: Path) -> PretrainedConfig:
    """The configuration of a model directory.

    Raises:
        UsageError: where the directory holds no model.
    """
    if not (directory / "config.json").is_file():
        held = ", ".join(sorted(path.name for path in directory.glob("*"))[:8]) if directory.is_dir() else "nothing"
        raise UsageError(f"{directory} is not a model directory: it has no config.json (it holds {held or 'nothing'})")
    return _attempt(
        lambda: AutoConfig.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False),
        f"{directory}/config.json does not describe a model that transformers knows",
    )


def load_causal_or_seq2seq(
    directory: Path,
    *,
    base: Path | None = None,
    dropout: float | None = None,
    dtype: torch.dtype = torch.float32,
    four_bits: bool = False,
) -> PreTrainedModel:
    """A language model, decoder-only or encoder-decoder as its configuration says, in evaluation mode.

    Args:
        directory: A model; or a peft adapter alone, which is merged into `base`.
        base: What the adapter was trained on (default: what the link `base` beside the adapter leads to).
        dropout: Overrides every dropout rate of the configuration.
        dtype: Of the weights, whatever they are stored as: training needs float32.
        four_bits: Hold the weights of linear layers as 4-bit NormalFloats, for adapters to train on.

    Raises:
        UsageError: where the directory holds no language model, or an adapter without `base`; for `four_bits` without
            bitsandbytes.
    """
    if is_adapter(directory):
        if four_bits:
            raise UsageError(f"{directory} holds only an adapter: publish it with `publish: merged` for method: qlora")
        return _with_adapter(directory, base, dropout, dtype)
    config = load_config(directory)
    if dropout is not None:
        set_dropout(config, dropout)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    quantized = {"quantization_config": _normal_float(dtype)} if four_bits else {}
    model: PreTrainedModel = _attempt(
        lambda: auto.from_pretrained(
            str(directory), config=config, dtype=dtype, local_files_only=True, trust_remote_code=False, **quantized
        ),
        f"{directory} holds no language model that can be loaded",
    )
    for module in model.modules():
        # A path of bitsandbytes for inference on some CPUs. It rounds to bfloat16, so that sampling would disagree with
        # training, and packs the weights of a layer anew in their place.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


def load_classifier(
    directory: Path,
    labels: Sequence[str],
    problem_type: str | None = "single_label_classification",
    *,
    dropout: float | None = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """A sequence classifier on the body of any model: decoder-only, T5 or encoder. Float32.

    A head that the body lacks is initialised from torch's global generator: seed it before.

    Args:
        directory: The model that gives the body.
        labels: Their names, in the order of the classifier's outputs.
        problem_type: As transformers has it; `multi_label_classification` where labels may hold together.
        dropout: Overrides every dropout rate of the configuration.
        attn_implementation: As transformers has it (default: what it chooses).

    Raises:
        UsageError: where the directory holds no model that can become a classifier.
    """
    config = load_config(directory)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = problem_type
    if dropout is not None:
        set_dropout(config, dropout)
    model: PreTrainedModel = _attempt(
        lambda: AutoModelForSequenceClassification.from_pretrained(
            str(directory),
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            trust_remote_code=False,
        ),
        f"{directory} holds no model that can become a classifier",
    )
    if attn_implementation is not None:
        set_attention(model, attn_implementation)
    return model


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds a peft adapter and no model of its own."""
    return (directory / "adapter_config.json").is_file() and not (directory / "config.json").is_file()


def set_attention(model: PreTrainedModel, implementation: str) -> None:
    """Choose how a model computes attention.

    Raises:
        UsageError: transformers has no such implementation for this architecture, or it needs a library.
    """
    try:
        model.set_attn_implementation(implementation)
    except (ValueError, ImportError) as error:
        raise UsageError(f"attn_implementation: {error}") from error


def set_dropout(config: PretrainedConfig, rate: float) -> None:
    """Set every dropout rate that a configuration has (each architecture has its own names for them)."""
    for name, value in config.to_dict().items():
        if ("dropout" in name or name.endswith("pdrop") or name.endswith("drop_rate")) and type(value) in (int, float):
            setattr(config, name, rate)


def parameter_count(model: torch.nn.Module, *, trainable: bool = False) -> int:
    """Number of parameters, tied ones once, and each of those that are held in 4 bits, of which a byte has two."""
    parts = (part for part in model.parameters() if part.requires_grad or not trainable)
    return sum(part.numel() * (2 if type(part).__name__ == "Params4bit" else 1) for part in parts)


def _normal_float(dtype: torch.dtype) -> BitsAndBytesConfig:
    """4-bit NormalFloats whose scales are quantized too (Dettmers et al. 2023, section 3)."""
    if find_spec("bitsandbytes") is None:
        raise UsageError("method: qlora needs bitsandbytes: pip install 'align-rlhf[quantization]'")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else dtype,
    )


def _with_adapter(directory: Path, base: Path | None, dropout: float | None, dtype: torch.dtype) -> PreTrainedModel:
    if base is None and (directory / BASE).is_symlink():  # which no artifact holds: it was put there for this stage
        base = directory / BASE
    if base is None:
        settings = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
        name = settings.get("base_model_name_or_path") or "unknown"
        raise UsageError(
            f"{directory} holds only an adapter (of base model: {name}), and its base was not given; "
            "publish it with `publish: merged` to use it as a model"
        )
    from peft import PeftModel

    model = load_causal_or_seq2seq(base, dropout=dropout, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for an attribute that transformers renames.
        adapted: Any = _attempt(
            lambda: PeftModel.from_pretrained(model, str(directory)), f"the adapter in {directory} does not fit {base}"
        )
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged.eval()


def _attempt(load: Callable[[], Loaded], complaint: str) -> Loaded:
    """What `load` returns; whatever transformers raises for a bad directory becomes one clear error."""
    try:
        return load()
    except LOADING_ERRORS as error:
        reason = str(error).strip().splitlines()
        raise UsageError(f"{complaint}: {reason[0] if reason else type(error).__name__}") from error
