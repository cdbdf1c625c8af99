"""What is not computed was not needed: scores are those of the whole model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import reward_models
from reward_models import first_token

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


LAYERS = {"distilbert": "transformer.layer", "modernbert": "layers"}
AS_PUBLISHED = {"deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}}


@pytest.fixture(params=first_token.MODEL_TYPES)
def directory(request: pytest.FixtureRequest, make_classifier, tmp_path: Path) -> Path:
    """A random classifier of each kind, with large weights, so that every position matters."""
    return made(request.param, make_classifier, tmp_path)


def made(model_type: str, make_classifier, tmp_path: Path, **settings: object) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(make_classifier("roberta", ["toxic", "nontoxic"]))
    config = AutoConfig.for_model(
        model_type,
        **{**TINY, **AS_PUBLISHED.get(model_type, {}), **settings},
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
    compare_scores(directory, texts)


def test_so_are_those_of_a_head_that_reads_the_mean(make_classifier, tmp_path: Path, texts: list[str]) -> None:
    compare_scores(made("modernbert", make_classifier, tmp_path, classifier_pooling="mean"), texts)


def compare_scores(directory: Path, texts: list[str]) -> None:
    texts = [text[:60] for text in texts]
    whole = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    reward = reward_models.load(str(directory), label="nontoxic", transform="logit", batch_tokens=100)
    reward._model._unpadded = None  # as on a GPU
    scores = reward.score([""] * len(texts), texts)
    ids = reward._model._token_ids(texts)
    with torch.no_grad():
        expected = [float(whole(input_ids=torch.tensor([one])).logits[0, 1]) for one in ids]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert max(scores) - min(scores) > 0.01


def test_the_last_layer_computes_one_position(directory: Path) -> None:
    reward = reward_models.load(str(directory), label="nontoxic")._model
    reward._unpadded = None  # as on a GPU
    body = reward._model.base_model
    lengths: list[list[int]] = []
    for layer in body.get_submodule(LAYERS.get(body.config.model_type, "encoder.layer")):
        lengths.append(of_layer := [])
        for product in (module for module in layer.modules() if isinstance(module, torch.nn.Linear)):
            product.register_forward_hook(lambda module, given, made, into=of_layer: into.append(made.shape[1]))
    reward.score(["", ""], ["one two three", "four"])
    first, last = lengths
    assert min(first) > 1
    assert last[-1] == 1
    assert last.count(1) in (2, 3), "the two after attention's, and BERT's of attention itself"


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


def test_adapters_on_every_product(directory: Path) -> None:
    """As the reward stage attaches them: after the cut."""
    from peft import LoraConfig, get_peft_model

    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    logits = []
    for alone in (False, True):
        model = AutoModelForSequenceClassification.from_pretrained(directory)
        if alone:
            first_token.compute_alone(model)
        everywhere = LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", exclude_modules=".*classifier")
        adapted = get_peft_model(model, everywhere)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_" in name:
                    weight.normal_(0, 0.1)
        logits.append(adapted.eval()(input_ids=ids).logits)
    torch.testing.assert_close(logits[1], logits[0])
