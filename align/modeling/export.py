"""Saving a model so that plain `from_pretrained` loads it, and that the same model makes the same bytes anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def empty_directory(directory: Path) -> Path:
    """The directory, new and empty: a killed attempt may have left half of its files there."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write weights as safetensors, configuration and tokenizer; no path of this machine, no sampling settings."""
    model.config._name_or_path = ""
    model.config.use_cache = True
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if model.can_generate():
        model.generation_config = _neutral_generation_config(model, tokenizer)
    model.save_pretrained(directory)
    save_tokenizer(tokenizer, directory)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write a tokenizer, without the padding and truncation of its last call and without where it came from."""
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        backend.no_padding()
        backend.no_truncation()
    tokenizer.name_or_path = ""
    tokenizer.save_pretrained(directory)
    edit_json(directory / "tokenizer_config.json", drop=("name_or_path", "local_files_only", "is_local"))


def edit_json(path: Path, *, drop: tuple[str, ...] = (), **replaced: Any) -> None:
    """Drop and replace keys of a JSON object in a file; keys come out sorted."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content = {key: value for key, value in content.items() if key not in drop} | replaced
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _neutral_generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Which tokens begin, end and pad, and nothing else: a checkpoint's sampling settings would leak into PPO."""
    given = model.generation_config
    eos = given.eos_token_id if given.eos_token_id is not None else tokenizer.eos_token_id
    return GenerationConfig(
        bos_token_id=given.bos_token_id,
        eos_token_id=eos,
        pad_token_id=given.pad_token_id if given.pad_token_id is not None else tokenizer.pad_token_id,
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
    )
