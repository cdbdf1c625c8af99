"""Texts in one row, without padding, are scored as each of them is alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSequenceClassification

import reward_models
from reward_models.unpadded import MODEL_TYPES, Unpadded, attend, in_one_row, unpadded

TINY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
PADDING = 1
ROWS = [
    [5],
    [6, 7],
    [8, 5],
    [9, 10, 11],
    [3, 4, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21],
    [7, PADDING],
    [2, PADDING, 8, 9],
]
"""Token ids, of which one is the padding token's, as where that closes every text."""
VARIETIES: dict[str, tuple[str, dict[str, Any]]] = {
    **{model_type: (model_type, {}) for model_type in MODEL_TYPES},
    "modernbert, mean": ("modernbert", {"classifier_pooling": "mean"}),
    "modernbert, narrow windows": (
        "modernbert",
        {"classifier_pooling": "mean", "local_attention": 6, "global_attn_every_n_layers": 2},
    ),
    "electra, narrow embeddings": ("electra", {"embedding_size": 8}),
    "bert, segments": ("bert", {"type_vocab_size": 3}),
}
cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, rows are padded")


def random_classifier(model_type: str, **said: Any) -> Any:
    """With large weights, so that every token and position matters."""
    names = {0: "nontoxic", 1: "toxic"}
    config = AutoConfig.for_model(
        model_type,
        **{**TINY, "vocab_size": 50, "max_position_embeddings": 130, "pad_token_id": PADDING, **said},
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return model


@pytest.fixture(params=VARIETIES)
def model(request: pytest.FixtureRequest) -> Any:
    model_type, said = VARIETIES[request.param]
    return random_classifier(model_type, **said)


@torch.inference_mode()
def test_logits_are_those_of_each_text_alone(model: Any) -> None:
    alone = [model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row)).long()).logits for row in ROWS]
    found = unpadded(model)(**in_one_row(ROWS, {}))
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-5, atol=1e-5)
    assert found.std(0).min() > 0.01


@torch.inference_mode()
def test_segments_are_told_apart() -> None:
    model = random_classifier("bert", type_vocab_size=3)
    segments = torch.tensor([[0, 2, 0]])
    expected = model(input_ids=torch.tensor([[5, 6, 7]]), token_type_ids=segments).logits
    forward = unpadded(model)
    torch.testing.assert_close(forward(**in_one_row([[8], [5, 6, 7]], {6: 2}))[1:], expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(forward(**in_one_row([[5, 6, 7]], {})), expected, atol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("model_type", [one for one in MODEL_TYPES if one != "modernbert"])
def test_no_product_is_computed_that_is_not_needed(model_type: str) -> None:
    model = random_classifier(model_type)
    rows_of = []
    body = model.base_model.get_submodule("transformer" if model_type == "distilbert" else "encoder").layer
    for product in (module for layer in body for module in layer.modules() if isinstance(module, torch.nn.Linear)):
        product.register_forward_hook(lambda module, given, made: rows_of.append(made.numel() // made.shape[-1]))
    unpadded(model)(**in_one_row(ROWS, {}))
    tokens, texts = sum(map(len, ROWS)), len(ROWS)
    assert rows_of == [tokens] * 6 + [tokens] * 6 + [texts] * 4, "of the last layer no keys and values"


@torch.inference_mode()
def test_passes_can_be_compiled_whole(model: Any) -> None:
    """In one graph, for any number of texts and tokens."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    forward = unpadded(model)
    fast = torch.compile(forward, dynamic=True, fullgraph=True, backend=backend)
    for rows in (ROWS, ROWS[:3], ROWS[2:]):
        torch.testing.assert_close(fast(**in_one_row(rows, {})), forward(**in_one_row(rows, {})))
    torch._dynamo.reset()
    assert len(graphs) == 1


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 4), st.sampled_from([0, 3]))
def test_attention_stays_within_a_text(lengths: list[int], window: int, queries: int) -> None:
    heads, width = 2, 4
    generator = torch.Generator().manual_seed(sum(lengths))
    query, key, value = (
        torch.randn(count, heads, width, generator=generator)
        for count in (queries * len(lengths) or sum(lengths), sum(lengths), sum(lengths))
    )
    window = 0 if queries else window
    found = attend(query, key, value, torch.tensor(lengths), 0.5, queries=queries, window=window)
    asked = query.split([queries or length for length in lengths])
    for asking, keys, values, made in zip(
        asked, key.split(lengths), value.split(lengths), found.split([len(one) for one in asked]), strict=True
    ):
        products = torch.einsum("qhw,khw->hqk", asking, keys) * 0.5
        if window:
            place = torch.arange(len(keys))
            products = products.masked_fill((place[:, None] - place).abs() > window, -torch.inf)
        torch.testing.assert_close(made, torch.einsum("hqk,khw->qhw", products.softmax(-1), values))


def test_attention_is_an_operation_of_torch() -> None:
    query = torch.randn(5, 2, 4)
    torch.library.opcheck(attend, (query, query, query, torch.tensor([2, 3]), 0.5))


@cpu
def test_a_classifier_of_that_kind_is_called_so(model: Any, word_tokenizer: Any, tmp_path: Path) -> None:
    assert isinstance(saved(model, word_tokenizer, tmp_path)._model._unpadded, Unpadded)


@pytest.mark.parametrize("model_type", ["gpt2", "deberta-v2", "bert, a decoder"])
def test_others_are_called_as_transformers_does(model_type: str, word_tokenizer: Any, tmp_path: Path) -> None:
    name, _, decoder = model_type.partition(", ")
    model = random_classifier(name, **({"is_decoder": True} if decoder else {}))
    assert saved(model, word_tokenizer, tmp_path)._model._unpadded is None


def head_of_zeros(self: Any, first: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(first), 2)


def head_that_fails(self: Any, first: torch.Tensor) -> torch.Tensor:
    raise AttributeError("no part of that name")


@pytest.mark.parametrize("head", [head_of_zeros, head_that_fails])
def test_so_is_one_that_would_say_otherwise(
    head: Any, tiny_classifier: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    """A release of transformers may change what its parts do."""
    expected = reward_models.load(tiny_classifier).score([""] * len(texts), texts)
    monkeypatch.setattr("reward_models.unpadded._LikeRoberta._head", head)
    reward = reward_models.load(tiny_classifier)
    assert reward._model._unpadded is None
    assert reward.score([""] * len(texts), texts) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) > 1


def saved(model: Any, tokenizer: Any, directory: Path) -> Any:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return reward_models.load(directory, label="toxic")
