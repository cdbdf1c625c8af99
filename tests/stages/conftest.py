"""Small rows and small real models, made once: a Llama and a T5 by the pretrain stage itself, a RoBERTa at random."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from align.configs.pretrain import PretrainConfig
from align.stages import pretrain
from align.tracking import NullTracker
from align.workspace import Workspace

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 rows: `prompt`, `completion` (its first word again), `label` (nice where a nice word stands in the prompt)."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for index in range(80):
            nice = index % 2 == 0
            words = draw.choices(["red", "blue", "cat", "dog", "house", "tree", "runs", "sees"], k=draw.randint(3, 20))
            words.insert(draw.randrange(len(words)), "lovely" if nice else "rotten")
            row = {"prompt": " ".join(words), "completion": words[0], "label": "nice" if nice else "not nice"}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="session")
def pretrain_config(rows: Path) -> Callable[..., PretrainConfig]:
    def config(architecture: str, **train: Any) -> PretrainConfig:
        return PretrainConfig.model_validate(
            {
                "kind": "pretrain",
                "architecture": architecture,
                "seed": 5,
                "size": SIZE,
                "tokenizer": {"vocab_size": 340},
                "data": [{"dataset": {"path": str(rows)}, "text": "{prompt}. {completion}"}],
                "max_length": 48,
                "train": {"num_train_epochs": 2, "learning_rate": 2e-3, "per_device_train_batch_size": 2, **train},
            }
        )

    return config


@pytest.fixture(scope="session")
def tiny_models(
    tmp_path_factory: pytest.TempPathFactory, pretrain_config: Callable[..., PretrainConfig]
) -> dict[str, Path]:
    """Directories of a `llama`, a `t5`, a `modernbert` and a `roberta`."""
    models = {}
    for architecture in ("llama", "t5", "modernbert"):
        workspace = Workspace(tmp_path_factory.mktemp(architecture))
        pretrain.run(pretrain_config(architecture), {}, workspace, NullTracker())
        models[architecture] = workspace.output
    models["roberta"] = tmp_path_factory.mktemp("roberta")
    _save_roberta(models["llama"], models["roberta"])
    return models


def _save_roberta(tokenizer_from: Path, directory: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_from)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<unk> $A </s>", special_tokens=[("<unk>", tokenizer.unk_token_id), ("</s>", tokenizer.eos_token_id)]
    )
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, eos_token_id=1, bos_token_id=2, **SIZE
    )
    RobertaForMaskedLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@pytest.fixture(scope="session")
def wide_models(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Llama and a T5 of random weights, wide enough for blocks of 4-bit numbers."""
    found: dict[str, Path] = {}
    for architecture, widths in (
        ("llama", {"hidden_size": 64, "intermediate_size": 128}),
        ("t5", {"d_model": 64, "d_ff": 128, "d_kv": 32, "num_heads": 2}),
    ):
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(tiny_models[architecture], **widths)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        found[architecture] = tmp_path_factory.mktemp("wide") / architecture
        auto.from_config(config).save_pretrained(found[architecture])
        AutoTokenizer.from_pretrained(tiny_models[architecture]).save_pretrained(found[architecture])
    return found
