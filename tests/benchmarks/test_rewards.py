"""The benchmarks of reward models run at tiny size; their figures are in benchmarks/."""

from __future__ import annotations

import importlib
import time
from pathlib import Path

import pytest

import reward_models


@pytest.fixture(autouse=True)
def benchmarks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


def test_throughput_compares_the_same_scores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benchmark = importlib.import_module("reward_throughput")
    texts = benchmark.mixed_texts(12, 20)
    assert all(1 <= len(text.split()) <= 20 for text in texts)
    monkeypatch.setitem(benchmark.SIZES, "tiny", {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32})
    benchmark.save_random_classifier("tiny", benchmark.trained_tokenizer(texts), tmp_path)
    found = benchmark.measured(tmp_path, texts, 1, time.process_time)
    assert found["largest_difference_of_scores"] < benchmark.TOLERANCE
    assert len(found["texts_per_second"]) == 2 + len(benchmark.BATCH_SIZES)
    assert benchmark.texts_that_fit(tmp_path, ["short", "long " * benchmark.LONGEST]) == ["short"]


def test_an_engine_scores_what_the_classifier_scores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    throughput, engines = importlib.import_module("reward_throughput"), importlib.import_module("reward_engines")
    texts = throughput.mixed_texts(12, 20)
    monkeypatch.setitem(throughput.SIZES, "tiny", {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32})
    throughput.save_random_classifier("tiny", throughput.trained_tokenizer(texts), tmp_path)
    passes = []

    def engine(model):
        def forward(ids, mask):
            passes.append(ids.shape)
            return model(input_ids=ids, attention_mask=mask).logits

        return forward

    expected = reward_models.load(str(tmp_path)).score([""] * 12, texts)
    assert engines.through_engine(reward_models.load(str(tmp_path)), engine)(texts) == pytest.approx(expected, abs=1e-6)
    assert passes


def test_a_served_reward_is_compared_by_medians() -> None:
    benchmark = importlib.import_module("reward_served")
    runs = [
        {"side": side, "seconds": [time, 9 * time, time], "cpu_seconds": [1.0]}
        for side, time in (("in process", 2.0), ("served", 2.1))
    ]
    row = benchmark.row(runs)
    assert (row["seconds_more"], row["cpu_seconds_more"]) == (0.05, 0.0)
