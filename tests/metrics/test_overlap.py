from __future__ import annotations

import os
import statistics
from pathlib import Path

import pytest

from align.configs.base import DatasetConfig
from align.data import sources
from align.metrics import overlap


def test_rouge_of_equal_and_of_unrelated_texts():
    same, other = overlap.rouge(["The cats are sleeping.", "one two"], ["the cat is sleep", "three four"])
    assert same["rouge_1"] == pytest.approx(0.75)  # stems agree: cat, sleep; case does not matter
    assert set(other.values()) == {0.0}


def test_rouge_l_minds_the_order_of_words():
    (scores,) = overlap.rouge(["It rained. Tom left."], ["Tom left. It rained."])
    assert scores["rouge_l"] == pytest.approx(0.5)
    assert scores["rouge_1"] == pytest.approx(1.0)


def test_empty_predictions_score_nothing_and_numbers_must_agree():
    assert overlap.rouge([""], ["something"])[0]["rouge_l"] == 0.0
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        overlap.rouge(["a"], ["a", "b"])


PREDICTIONS = Path(os.environ.get("ALIGN_DATA", "")) / "lab2_predictions"


@pytest.mark.skipif("ALIGN_DATA" not in os.environ, reason="needs $ALIGN_DATA")
@pytest.mark.parametrize(
    ("model", "published"),
    [
        ("original", (0.2334, 0.0760, 0.2015)),
        ("instruct", (0.4216, 0.1804, 0.3384)),
        ("peft", (0.4081, 0.1633, 0.3251)),
    ],
)
def test_published_means_are_reproduced(model, published):
    """Printed by a well-known course for 1,500 summaries; its aggregator bootstraps, hence the fourth digit."""
    (path,) = PREDICTIONS.glob("*.csv")
    rows = sources.load_rows(DatasetConfig(path=str(path)))
    scores = overlap.rouge([r[f"{model}_model_summaries"] for r in rows], [r["human_baseline_summaries"] for r in rows])
    for name, mean in zip(("rouge_1", "rouge_2", "rouge_l"), published, strict=True):
        assert statistics.mean(score[name] for score in scores) == pytest.approx(mean, abs=0.0004)
