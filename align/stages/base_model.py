"""`kind: base`: take a model that exists, from the Hugging Face Hub or from a directory, and keep it as an artifact.

The weights are loaded with the code that will train them later, so that a model which cannot be used fails here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

import reward_models
from align.configs.base_model import BaseModelConfig
from align.errors import UsageError
from align.modeling.export import empty_directory, save_model
from align.modeling.load import LOADING_ERRORS, load_tokenizer, parameter_count
from align.tracking import Tracker
from align.workspace import Inputs, Metrics, Workspace
from reward_models.pretrained import file_if_there

LOADERS = {
    "ForCausalLM": AutoModelForCausalLM,
    "LMHeadModel": AutoModelForCausalLM,
    "ForConditionalGeneration": AutoModelForSeq2SeqLM,
    "MTModel": AutoModelForSeq2SeqLM,
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForMaskedLM": AutoModelForMaskedLM,
}
"""By the ending of the architecture's name: language models to align, and encoders for classifiers."""


def run(config: BaseModelConfig, inputs: Inputs, workspace: Workspace, tracker: Tracker) -> Metrics:
    """Load, convert and save the model.

    Raises:
        UsageError: where it does not exist, cannot be reached, or is no model that a later stage could use.
    """
    torch.manual_seed(config.seed)  # an encoder's body may come without its pooler, which is then made here
    try:
        settings = AutoConfig.from_pretrained(config.model, **_where(config))
        model = _loader(config, settings).from_pretrained(
            config.model, config=settings, dtype=getattr(torch, config.dtype), **_where(config)
        )
        tokenizer = _tokenizer(config)
    except LOADING_ERRORS as error:
        raise UsageError(_explanation(config, error)) from error
    save_model(model, tokenizer, empty_directory(workspace.output))
    if type(model).__name__.endswith("ForSequenceClassification"):
        _keep_declaration(config, workspace.output)
    metrics = {"parameters": float(parameter_count(model))}
    tracker.summary(metrics)
    return metrics


def _keep_declaration(config: BaseModelConfig, output: Path) -> None:
    """What a reward model says of itself goes along, its sign first of all."""
    revision = None if _is_local(config) else config.revision or "main"
    try:
        found = file_if_there(config.model, reward_models.DECLARATION, config.model, revision)
    except reward_models.RewardError as error:
        raise UsageError(str(error)) from error
    if found is not None:
        shutil.copyfile(found, output / reward_models.DECLARATION)


def _is_local(config: BaseModelConfig) -> bool:
    return Path(config.model).is_dir()


def _where(config: BaseModelConfig) -> dict[str, Any]:
    if _is_local(config):
        return {"local_files_only": True, "trust_remote_code": False}
    return {"revision": config.revision or "main", "trust_remote_code": False}


def _tokenizer(config: BaseModelConfig) -> PreTrainedTokenizerBase:
    if _is_local(config):
        return load_tokenizer(Path(config.model))
    return AutoTokenizer.from_pretrained(config.model, **_where(config))


def _loader(config: BaseModelConfig, settings: PretrainedConfig) -> Any:
    encoder = settings.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not settings.is_encoder_decoder
    for architecture in settings.architectures or []:
        for ending, loader in LOADERS.items():
            if architecture.endswith(ending):
                return loader
        if encoder and architecture.endswith(("Model", "ForPreTraining")):  # as of sentence encoders and ELECTRA
            return AutoModel
    if encoder and not settings.architectures:
        return AutoModel
    what = f"is a {', '.join(settings.architectures)}" if settings.architectures else "names no `architectures`"
    raise UsageError(
        f"{config.model} {what}; a base is a causal or an encoder-decoder language model, an encoder, a masked "
        "language model or a sequence classifier"
    )


def _explanation(config: BaseModelConfig, error: Exception) -> str:
    if isinstance(error, UsageError):
        return str(error)
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if _is_local(config):
        return f"the directory {config.model} holds no model that can be loaded: {reason}"
    return (
        f"{config.model} is not a directory here, and could not be loaded from the Hugging Face Hub "
        f"(revision {config.revision or 'main'}): {reason} If it is a directory, check the path. If it is on the Hub: "
        "without a network it must be in the cache already (HF_HOME says where that is; HF_HUB_OFFLINE=1 forbids the "
        "network, unset it to download), and a private or gated model needs HF_TOKEN"
    )
