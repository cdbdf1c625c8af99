"""The recipes of the DynaHate benchmark run at tiny size on made-up rows; their figures are in benchmarks/."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from align import pipeline

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCORES = ("toxicity", "identity_attack", "insult", "threat", "profanity", "sexually_explicit")
TINY = (
    "stages.body.size={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}",
    "stages.body.tokenizer.vocab_size=300",
    "stages.body.max_length=32",
    "stages.body.train.torch_compile=false",
    "stages.body.train.num_train_epochs=1",
    "stages.offence.train.max_steps=2",
    "stages.hate.train.max_steps=8",
)
TINY_ENCODER = ("stages.hate.train.max_steps=2", "stages.hate.train.per_device_train_batch_size=8")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rotten is hateful."""
    texts = [(f"{name} is {'rotten' if bad else 'lovely'}", bad) for name in "ABCDEFGHIJKLMNOPQRST" for bad in (0, 1)]
    files: dict[str, list[dict[str, Any]]] = {
        "dialogsum/dialogsum.train.jsonl": [{"dialogue": text, "summary": text} for text, _ in texts],
        "hh-rlhf/harmless.train.jsonl": [{"chosen": text, "rejected": text} for text, _ in texts],
        "alpaca/alpaca_5000.json": [{"instruction": text, "input": "", "output": text} for text, _ in texts],
        "realtoxicityprompts/train.jsonl": [
            {part: {"text": text, **dict.fromkeys(SCORES, 0.9 * bad)} for part in ("prompt", "continuation")}
            for text, bad in texts
        ],
    }
    for name, rows in files.items():
        (tmp_path / name).parent.mkdir()
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (tmp_path / name).write_text(json.dumps(rows) if name.endswith(".json") else lines, encoding="utf-8")
    (tmp_path / "dynahate").mkdir()
    for split in ("train", "dev"):
        with (tmp_path / "dynahate" / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *texts])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGN_DATA", str(tmp_path))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return tmp_path


def test_both_recipes_publish_a_classifier_that_is_measured(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pipeline.run_recipe(BENCHMARKS / "dynahate.yaml", overrides=TINY, registry="scratch", wandb="disabled")
    monkeypatch.setenv("ENCODER", str(made["body"].path))
    encoder = BENCHMARKS / "dynahate_encoder.yaml"
    tuned = pipeline.run_recipe(encoder, overrides=TINY_ENCODER, registry="encoder", wandb="disabled")
    for artifact in (made["hate"], tuned["hate"]):
        command = ["dynahate.py", str(artifact.path), "dynahate/dev.csv", "--result", "result.json"]
        monkeypatch.setattr(sys, "argv", command)
        importlib.import_module("dynahate").main()
        result = json.loads((data / "result.json").read_text(encoding="utf-8"))
        assert 0 <= result["macro_f1"]["low"] <= result["macro_f1"]["value"] <= result["macro_f1"]["high"] <= 1
        assert result["macro_f1"]["n"] == 40
