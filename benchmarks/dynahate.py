"""Macro-F1 and calibration of a published hate classifier on DynaHate dev, with intervals.

    python benchmarks/dynahate.py registry/artifacts/hate/v1/files $ALIGN_DATA/dynahate/dev.csv --result result.json

Reads the artifact with plain transformers, so that what is measured is what anyone gets from `from_pretrained`.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

NAMES = {"0": "nothate", "1": "hate"}
BINS, SAMPLES = 10, 2000


@torch.inference_mode()
def probabilities(directory: Path, texts: list[str], max_length: int, batch_size: int = 64) -> NDArray[np.float64]:
    """Of `hate`, [texts]."""
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    found = np.empty(len(texts))
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        batch = tokenizer(
            [texts[index] for index in members],
            padding=True,
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
        )
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        found[members] = logits.double().softmax(-1)[:, model.config.label2id["hate"]].numpy()
    return found


def macro_f1(hate: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    f1 = [2 * (a & b).sum() / max(a.sum() + b.sum(), 1) for a, b in ((hate, predicted), (~hate, ~predicted))]
    return float(np.mean(f1))


def calibration_error(hate: NDArray[np.bool_], of_hate: NDArray[np.float64]) -> float:
    """Mean distance between confidence in the predicted class and accuracy, over ten bins of equal width."""
    sure = np.maximum(of_hate, 1 - of_hate)
    right = (of_hate > 0.5) == hate
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(bins, weights=right - sure, minlength=BINS)).sum() / len(hate))


def with_interval(measure: Any, hate: NDArray[np.bool_], other: Any) -> dict[str, float]:
    """A measure and its 95 % percentile bootstrap interval over rows."""
    rng = np.random.default_rng(0)
    drawn = (rng.integers(len(hate), size=len(hate)) for _ in range(SAMPLES))
    low, high = np.percentile([measure(hate[rows], other[rows]) for rows in drawn], (2.5, 97.5))
    return {"value": measure(hate, other), "low": float(low), "high": float(high), "n": len(hate)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("data", type=Path, help="a CSV of text and label, 1 for hate")
    parser.add_argument("--result", type=Path)
    arguments = parser.parse_args()
    with arguments.data.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["text"].strip()]
    hate = np.array([NAMES[row["label"]] == "hate" for row in rows])
    declared = json.loads((arguments.classifier / "reward_model.json").read_text(encoding="utf-8"))
    of_hate = probabilities(arguments.classifier, [row["text"] for row in rows], declared["max_length"])
    bins = np.minimum((of_hate * BINS).astype(int), BINS - 1)
    result = {
        "macro_f1": with_interval(macro_f1, hate, of_hate > 0.5),
        "calibration_error": with_interval(calibration_error, hate, of_hate),
        "accuracy": float(((of_hate > 0.5) == hate).mean()),
        "reliability": [
            {
                "mean_probability": float(of_hate[bins == b].mean()),
                "hate": float(hate[bins == b].mean()),
                "rows": int(n),
            }
            for b, n in enumerate(np.bincount(bins, minlength=BINS))
            if n
        ],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.result:
        arguments.result.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
