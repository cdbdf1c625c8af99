from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    ElectraConfig,
    ElectraForPreTraining,
    GenerationConfig,
    MarianConfig,
    MarianMTModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from align import stages
from align.configs import KINDS
from align.configs.base_model import BaseModelConfig
from align.errors import UsageError
from align.modeling.load import load_causal_or_seq2seq, load_classifier, load_tokenizer
from align.stages import base_model
from align.tracking import NullTracker
from align.workspace import Workspace


def take(model: Path | str, tmp_path: Path, dtype: str = "float32") -> dict[str, object]:
    config = BaseModelConfig.model_validate({"kind": "base", "model": str(model), "dtype": dtype})
    return dict(base_model.run(config, {}, Workspace(tmp_path), NullTracker()))


@pytest.mark.parametrize("architecture", ["llama", "t5", "roberta"])
def test_every_kind_of_model_is_kept(architecture: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    metrics = take(tiny_models[architecture], tmp_path)
    kept = load_file(tmp_path / "output" / "model.safetensors")
    given = load_file(tiny_models[architecture] / "model.safetensors")
    assert kept.keys() == given.keys()
    assert all(torch.equal(kept[name], given[name]) for name in given)
    assert metrics["parameters"] == sum(tensor.numel() for tensor in given.values())
    assert (tmp_path / "output" / "tokenizer.json").is_file()


def test_a_classifier_keeps_its_labels(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    config = RobertaConfig.from_pretrained(tiny_models["roberta"])
    config.id2label, config.label2id = {0: "nothate", 1: "hate"}, {"nothate": 0, "hate": 1}
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "given")
    load_tokenizer(tiny_models["roberta"]).save_pretrained(tmp_path / "given")
    declared = '{"label": "hate", "sign": -1}'
    (tmp_path / "given" / "reward_model.json").write_text(declared)
    take(tmp_path / "given", tmp_path)
    assert (tmp_path / "output" / "reward_model.json").read_text() == declared
    kept = json.loads((tmp_path / "output" / "config.json").read_text())
    assert kept["id2label"] == {"0": "nothate", "1": "hate"}
    assert kept["architectures"] == ["RobertaForSequenceClassification"]


def test_dtype_is_converted_and_sampling_settings_are_dropped(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_models["llama"])
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.3, repetition_penalty=1.3, eos_token_id=1)
    model.save_pretrained(tmp_path / "given")
    load_tokenizer(tiny_models["llama"]).save_pretrained(tmp_path / "given")
    take(tmp_path / "given", tmp_path, "bfloat16")
    kept = load_file(tmp_path / "output" / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.bfloat16}
    generation = json.loads((tmp_path / "output" / "generation_config.json").read_text())
    assert set(generation) == {"eos_token_id", "pad_token_id", "transformers_version"}


def test_an_encoder_without_a_head_becomes_a_classifier(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """As sentence encoders and ELECTRA are published."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    made = {
        "bert": BertModel(BertConfig(vocab_size=50, **shape)),
        "electra": ElectraForPreTraining(ElectraConfig(vocab_size=50, embedding_size=16, **shape)),
    }
    for name, model in made.items():
        model.save_pretrained(tmp_path / name)
        load_tokenizer(tiny_models["roberta"]).save_pretrained(tmp_path / name)
        take(tmp_path / name, tmp_path)
        body = getattr(load_classifier(tmp_path / "output", ["a", "b"]), name)
        given = getattr(model, name, model).state_dict()
        assert all(torch.equal(part, given[key]) for key, part in body.state_dict().items())
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTModel"]}')
    with pytest.raises(UsageError, match="bert is a ViTModel; a base is a causal or an encoder-decoder"):
        take(tmp_path / "bert", tmp_path)


def test_what_a_body_lacks_is_made_the_same_each_time(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Its pooler; and a configuration that names no architecture is that of a body."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=50, **shape), add_pooling_layer=False).save_pretrained(tmp_path / "bert")
    load_tokenizer(tiny_models["roberta"]).save_pretrained(tmp_path / "bert")
    config = tmp_path / "bert" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "architectures": None}))
    kept = []
    for _ in range(2):
        take(tmp_path / "bert", tmp_path)
        kept.append(load_file(tmp_path / "output" / "model.safetensors"))
    assert "pooler.dense.weight" in kept[0]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    config.write_text('{"model_type": "llama"}')
    with pytest.raises(UsageError, match="bert names no `architectures`; a base is a causal"):
        take(tmp_path / "bert", tmp_path)


def test_a_translator_is_a_language_model(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    marks = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    MarianMTModel(MarianConfig(vocab_size=50, **shape, **heads, **marks)).save_pretrained(tmp_path / "marian")
    load_tokenizer(tiny_models["roberta"]).save_pretrained(tmp_path / "marian")
    take(tmp_path / "marian", tmp_path)
    assert type(load_causal_or_seq2seq(tmp_path / "output")).__name__ == "MarianMTModel"


def test_what_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"align-test/no-such-model is not a directory.*HF_HOME.*HF_TOKEN"):
        take("align-test/no-such-model", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty holds no model that can be loaded"):
        take(tmp_path / "empty", tmp_path)


def test_every_kind_has_a_file() -> None:
    assert stages.FILES.keys() == KINDS.keys()
    assert stages.load("base") is base_model
