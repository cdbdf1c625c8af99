"""What is not computed was not needed: scores are those of the whole model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import reward_models
from reward_models import first_token

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(params=first_token.MODEL_TYPES)
def directory(request: pytest.FixtureRequest, make_classifier, tmp_path: Path) -> Path:
    """A random classifier of each kind, with large weights, so that every position matters."""
    tokenizer = AutoTokenizer.from_pretrained(make_classifier("roberta", ["toxic", "nontoxic"]))
    config = AutoConfig.for_model(
        request.param,
        **TINY,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        id2label={0: "toxic", 1: "nontoxic"},
        label2id={"toxic": 0, "nontoxic": 1},
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_scores_are_those_of_the_whole_model(directory: Path, texts: list[str]) -> None:
    texts = [text[:60] for text in texts]
    whole = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    reward = reward_models.load(str(directory), label="nontoxic", transform="logit", batch_tokens=100)
    scores = reward.score([""] * len(texts), texts)
    ids = reward._model._token_ids(texts)
    with torch.no_grad():
        expected = [float(whole(input_ids=torch.tensor([one])).logits[0, 1]) for one in ids]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert max(scores) - min(scores) > 0.01


def test_the_last_layer_computes_one_position(directory: Path) -> None:
    reward = reward_models.load(str(directory), label="nontoxic")._model
    lengths = []
    for layer in reward._model.base_model.encoder.layer:
        layer.intermediate.register_forward_hook(lambda module, given, made: lengths.append(made.shape[1]))
    reward.score(["", ""], ["one two three", "four"])
    assert min(lengths[::2]) > 1
    assert set(lengths[1::2]) == {1}


def test_gradients_are_those_of_the_whole_layer(directory: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    of_each = []
    for alone in (False, True):
        model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
        if alone:
            first_token.compute_alone(model)
        model(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
        of_each.append({name: part.grad for name, part in model.named_parameters() if part.grad is not None})
    torch.testing.assert_close(of_each[1], of_each[0])
    assert any(gradient.abs().max() > 1e-3 for gradient in of_each[0].values())
