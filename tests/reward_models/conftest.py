"""Tiny real classifiers of three architectures, each made once with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TEXTS = [
    "yes",
    "",
    "You are kind, and I thank you for it.",
    "No.",
    "Anna and Ben meet at the old station at noon, then walk to the market together.",
    "a b c d e f g",
    "You are kind, and I thank you for it. " * 3,
    "Was it </s> or <pad> that you said?",
]
PROMPTS = [f"Summarize conversation {number}:" for number in range(len(TEXTS))]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    return PROMPTS


def _tokenizer(architecture: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    if architecture != "llama":
        single = "<s> $A </s>" if architecture == "roberta" else "$A </s>"
        inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=64
    )


def _model(architecture: str, num_labels: int, tokenizer: Any) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    common = {"vocab_size": len(tokenizer), "num_labels": num_labels, "pad_token_id": 0, "eos_token_id": 2}
    if architecture == "t5":
        config = transformers.T5Config(
            d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4, decoder_start_token_id=0, **common
        )
        return transformers.T5ForSequenceClassification(config)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    if architecture == "roberta":
        config = transformers.RobertaConfig(max_position_embeddings=65, **shape, **common)
        return transformers.RobertaForSequenceClassification(config)
    return transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**shape, **common))


ClassifierMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def make_classifier(tmp_path_factory: pytest.TempPathFactory) -> ClassifierMaker:
    """`make_classifier("roberta", ["toxic", "nontoxic"])` -> its directory.

    The weights that belong to a label are the same wherever it stands in the list.
    """
    import torch

    made: dict[Any, Path] = {}

    def make(architecture: str, labels: list[str], problem_type: str | None = None) -> Path:
        key = (architecture, tuple(labels), problem_type)
        if key in made:
            return made[key]
        tokenizer = _tokenizer(architecture)
        model = _model(architecture, len(labels), tokenizer)
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: index for index, label in enumerate(labels)}
        model.config.problem_type = problem_type
        head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
        with torch.no_grad():
            for index, label in enumerate(labels):
                generator = torch.Generator().manual_seed(sum(label.encode()))
                head.weight[index] = torch.randn(head.in_features, generator=generator)
                if head.bias is not None:
                    head.bias[index] = torch.randn((), generator=generator)
        directory = tmp_path_factory.mktemp("classifier") / architecture
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return made.setdefault(key, directory)

    return make
