"""A compiled classifier says what it says uncompiled."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

import reward_models
from reward_models.compiling import compiled


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    yield
    torch._dynamo.reset()
    torch._dynamo.config.suppress_errors = False


def test_scores_are_the_same(tiny_classifier: Path, texts: list[str]) -> None:
    """By a real compiler; where there is none, by falling back. One text, two, and all of them."""
    as_it_is = reward_models.load(tiny_classifier)
    fast = reward_models.load(tiny_classifier, torch_compile=True)
    words = ["w4 w5", "w6", "w7 w8 w9 w10", "w11 w12 w13", *texts]
    for some in (words[:1], words[:2], words):
        prompts = [""] * len(some)
        assert fast.score(prompts, some) == pytest.approx(as_it_is.score(prompts, some), abs=1e-5)
    assert len(set(fast.score([""] * 4, words[:4]))) > 1
    assert not torch._inductor.config.freezing, "of others' compiling nothing is changed"


def test_passes_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        graphs.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    many = torch._dynamo.config.recompile_limit + 2
    with torch.inference_mode():
        for _ in range(many):
            forward = compiled(torch.nn.Linear(3, 2))
            for rows in (2, 3, 5):
                forward(input=torch.ones(rows, 3))
    assert len(graphs) == many, "of each one for all shapes, however many there are"


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch, tiny_classifier: Path) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        raise RuntimeError("no compiler")

    expected = reward_models.load(tiny_classifier).score(["", ""], ["w4", "w5 w6"])
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    found = reward_models.load(tiny_classifier, torch_compile=True).score(["", ""], ["w4", "w5 w6"])
    assert found == pytest.approx(expected)


def test_it_is_true_or_false(tiny_classifier: Path) -> None:
    with pytest.raises(reward_models.RewardError, match="torch_compile is 'yes'; it can be True, False"):
        reward_models.load(tiny_classifier, torch_compile="yes")
