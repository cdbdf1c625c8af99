from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from align.errors import UsageError
from align.modeling.load import (
    load_causal_or_seq2seq,
    load_classifier,
    load_tokenizer,
    parameter_count,
    set_dropout,
)

SMALL = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def save_tokenizer(directory: Path, **special: str) -> None:
    vocabulary = {"<unk>": 0, "</s>": 1, "<pad>": 2, "a": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)


@pytest.mark.parametrize(
    ("special", "pad"),
    [
        ({"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}, "<pad>"),
        ({"eos_token": "</s>", "unk_token": "<unk>"}, "<unk>"),
        ({"eos_token": "</s>"}, "</s>"),
    ],
)
def test_pad_token_is_an_existing_one(special: dict[str, str], pad: str, tmp_path: Path) -> None:
    save_tokenizer(tmp_path, **special)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.pad_token == pad
    assert len(tokenizer) == 4
    assert tokenizer.padding_side == "right"


def test_no_token_to_pad_with(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    with pytest.raises(UsageError, match="neither a pad, an unknown nor an end-of-text token"):
        load_tokenizer(tmp_path)


def test_architecture_and_float32_whatever_is_stored(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SMALL)).bfloat16().save_pretrained(tmp_path / "llama")
    T5ForConditionalGeneration(
        T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.1)
    ).save_pretrained(tmp_path / "t5")
    llama = load_causal_or_seq2seq(tmp_path / "llama")
    assert isinstance(llama, LlamaForCausalLM)
    assert llama.dtype == torch.float32
    assert not llama.training
    t5 = load_causal_or_seq2seq(tmp_path / "t5", dropout=0.0)
    assert isinstance(t5, T5ForConditionalGeneration)
    assert t5.config.dropout_rate == 0.0
    assert {part.p for part in t5.modules() if isinstance(part, torch.nn.Dropout)} == {0.0}
    assert load_causal_or_seq2seq(tmp_path / "t5").config.dropout_rate == 0.1


def test_classifier_has_its_labels_in_their_order(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SMALL)).save_pretrained(tmp_path)
    model = load_classifier(tmp_path, ["bad", "fair", "good"])
    assert model.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    assert model.config.num_labels == 3
    assert parameter_count(model, trainable=True) == parameter_count(model)


def test_every_name_of_dropout_is_known() -> None:
    config = LlamaConfig(attention_dropout=0, hidden_dropout_prob=0.2, resid_pdrop=0.1, num_dropped=3)
    set_dropout(config, 0.5)
    assert (config.attention_dropout, config.hidden_dropout_prob, config.resid_pdrop) == (0.5, 0.5, 0.5)
    set_dropout(config, 0.0)
    assert (config.attention_dropout, config.hidden_dropout_prob, config.resid_pdrop) == (0.0, 0.0, 0.0)
    assert config.num_dropped == 3


def test_what_is_no_model_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(UsageError, match=r"is not a model directory: it has no config.json \(it holds rows.jsonl\)"):
        load_causal_or_seq2seq(tmp_path)
    with pytest.raises(UsageError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(UsageError, match="not a model directory"):
        load_classifier(tmp_path / "missing", ["a", "b"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(UsageError, match="does not describe a model that transformers knows"):
        load_causal_or_seq2seq(tmp_path)
    LlamaForCausalLM(LlamaConfig(**SMALL)).save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UsageError, match="holds no language model that can be loaded"):
        load_causal_or_seq2seq(tmp_path / "cut")


def test_code_that_a_directory_brings_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.M"}})
    )
    with pytest.raises(UsageError):
        load_causal_or_seq2seq(tmp_path)
