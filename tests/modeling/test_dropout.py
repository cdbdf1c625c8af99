from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import Trainer

from align.configs.base import TrainConfig
from align.modeling import dropout
from align.modeling.dropout import quick_dropout
from align.modeling.training import fit, training_arguments
from align.tracking import NullTracker
from align.workspace import Workspace


@given(
    shape=st.lists(st.integers(0, 9), max_size=3),
    p=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_an_element_is_zero_or_divided_by_the_share_that_stays(shape: list[int], p: float, dtype: torch.dtype) -> None:
    given = torch.rand(shape, dtype=dtype) + 1
    found = dropout.dropout(given, p)
    assert (found.shape, found.dtype) == (given.shape, dtype)
    expected = given * (1 / (1 - p) if p < 1 else 0.0)
    assert torch.allclose(found, torch.where(found == 0, 0.0, expected), rtol=0.02)


@pytest.mark.parametrize("p", [0.00002, 0.001, 0.3, 0.5, 0.9, 0.99999, 0.999999])
def test_as_many_are_dropped_as_it_says(p: float) -> None:
    torch.manual_seed(0)
    count = 400_000
    dropped = (dropout.dropout(torch.ones(count), p) == 0).double()
    assert dropped.mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / count) ** 0.5)
    together = (dropped[:-1] * dropped[1:]).mean().item()  # neighbours are independent
    assert together == pytest.approx(p**2, abs=4 * (p**2 * (1 - p**2) / count) ** 0.5 + 1e-5)


def test_the_gradient_is_that_of_what_was_kept() -> None:
    given = torch.rand(5, 7, requires_grad=True)
    found = dropout.dropout(given, 0.25)
    found.sum().backward()
    assert given.grad is not None
    assert torch.allclose(given.grad, torch.where(found == 0, 0.0, 1 / 0.75))


def test_within_it_every_dropout_is_drawn_quickly_and_from_torch_s_generator() -> None:
    ones = torch.ones(1000)
    torch.manual_seed(3)
    expected = [dropout.dropout(ones, 0.4), dropout.dropout(ones, 0.4)]
    torch.manual_seed(3)
    with quick_dropout():
        found = [nn.Dropout(0.4)(ones), functional.dropout(ones, p=0.4)]
        assert torch.equal(nn.Dropout(0.4).eval()(ones), ones)
        inplace = torch.ones(1000)
        functional.dropout(inplace, 0.4, inplace=True)
        assert 0 < (inplace == 0).sum() < 1000
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    torch.manual_seed(3)
    assert not torch.equal(nn.Dropout(0.4)(ones), expected[0])


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_what_a_backward_pass_computes_again_is_dropped_as_before(use_reentrant: bool) -> None:
    def gradient(again: bool) -> torch.Tensor:
        torch.manual_seed(5)
        given = torch.ones(50, requires_grad=True)
        with quick_dropout():
            dropped = nn.Dropout(0.5)
            squared = lambda x: dropped(x) ** 2  # noqa: E731
            found = checkpoint(squared, given, use_reentrant=use_reentrant) if again else squared(given)
            torch.rand(3)
            found.sum().backward()
        assert given.grad is not None
        return given.grad

    assert torch.equal(gradient(again=True), gradient(again=False))


def test_afterwards_it_is_torch_s_own_again() -> None:
    before = functional.dropout
    with pytest.raises(KeyError), quick_dropout():
        raise KeyError
    assert functional.dropout is before


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(2, 1), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.linear(self.dropout(x)).square().mean()}


def test_training_draws_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, of_torch = [], functional.dropout

    def counted(*given: Any, **named: Any) -> torch.Tensor:
        calls.append(given)
        return of_torch(*given, **named)

    monkeypatch.setattr(dropout, "dropout", counted)
    workspace = Workspace(tmp_path)
    arguments = training_arguments(TrainConfig(max_steps=2, per_device_train_batch_size=2), workspace, seed=0)
    fit(Trainer(Regression(), arguments, train_dataset=[{"x": torch.ones(2)}] * 4), workspace, NullTracker(), "test")
    assert len(calls) == 2
