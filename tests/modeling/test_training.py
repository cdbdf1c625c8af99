from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from transformers import TrainingArguments, get_scheduler
from transformers.training_args import OptimizerNames

from align.configs.base import Optimizer, Schedule, TrainConfig
from align.errors import UsageError
from align.modeling import training
from align.modeling.training import LengthGroupedSampler, training_arguments
from align.workspace import Workspace


def test_every_key_of_a_recipe_reaches_the_trainer(tmp_path: Path) -> None:
    train = TrainConfig(learning_rate=0.01, warmup_steps=0.1, lr_scheduler_type="cosine", adam_beta2=0.9)
    arguments = training_arguments(train, Workspace(tmp_path), seed=7)
    assert isinstance(arguments, TrainingArguments)
    for name, value in train.model_dump().items():
        assert getattr(arguments, name) == value
    assert (arguments.seed, arguments.data_seed, arguments.report_to) == (7, 7, [])
    assert arguments.output_dir == str(tmp_path / "checkpoints")


@pytest.mark.parametrize("name", get_args(Schedule))
def test_each_schedule_needs_nothing_but_its_steps(name: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    assert get_scheduler(name, optimizer, num_warmup_steps=2, num_training_steps=10)


def test_each_optimizer_is_one_of_transformers() -> None:
    assert set(get_args(Optimizer)) <= {one.value for one in OptimizerNames}


def test_an_optimizer_of_a_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    assert training_arguments(TrainConfig(optim="adafactor"), Workspace(tmp_path), seed=0)
    with pytest.raises(UsageError, match="lion_8bit needs bitsandbytes: pip install"):
        training_arguments(TrainConfig(optim="lion_8bit"), Workspace(tmp_path), seed=0)


@pytest.mark.parametrize(("key", "value"), [("lr_scheduler_type", "cosin"), ("optim", "adamx")])
def test_another_is_refused_with_those_that_there_are(key: str, value: str) -> None:
    with pytest.raises(ValidationError, match=f"{key}\n.*should be 'linear'|{key}\n.*should be 'adamw_torch'"):
        TrainConfig.model_validate({key: value})


@pytest.mark.parametrize("count", [1, 33, 1003])
def test_sampler_draws_each_row_once_in_an_order_of_seed_and_epoch(count: int) -> None:
    lengths = [(index * 37) % 101 for index in range(count)]
    sampler = LengthGroupedSampler(lengths, batch_size=8, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(count))
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert count == 1 or list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_batches_hold_rows_of_like_length() -> None:
    lengths = [(index * 37) % 101 for index in range(1000)]
    order = list(LengthGroupedSampler(lengths, batch_size=10, seed=0))
    batches = [[lengths[index] for index in order[start : start + 10]] for start in range(0, 1000, 10)]
    padding = sum(max(batch) * len(batch) - sum(batch) for batch in batches)
    assert padding < 0.05 * sum(lengths)
    assert [max(batch) for batch in batches] != sorted((max(batch) for batch in batches), reverse=True)
