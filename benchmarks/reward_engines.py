"""How fast the larger classifier would be with its passes in another engine.

    pip install openvino
    python benchmarks/reward_engines.py --data $ALIGN_DATA          # writes results/reward_engines.json

The texts and the classifier of reward_throughput.py, where three times the pipeline's defaults are not reached. Tokens
and batches are ours throughout; only the forward pass changes hands: torch as it is, with `torch_compile: true`,
OpenVINO. Each engine has a process of its own, where it takes turns with torch and the
pipeline. Seconds by the clock, two threads, next to nothing else running.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from reward_throughput import (
    TOLERANCE,
    contestants,
    gigaflops_of_a_product,
    mixed_texts,
    real_texts,
    save_random_classifier,
    trained_tokenizer,
)

import reward_models
from reward_models.compiling import compiled

RESULTS = Path(__file__).parent / "results" / "reward_engines.json"
SIZE = "6 layers, 384 wide"
PIPELINE = "pipeline, defaults"
Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Token ids and mask, both [texts, tokens] -> logits [texts, labels]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a directory with dynahate/ and realtoxicityprompts/")
    parser.add_argument("--texts", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", choices=ENGINES, help=argparse.SUPPRESS)  # this process measures one of them
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measured(args.only, args.data, args.texts, args.rounds)))
        return
    runs = []
    for engine in ENGINES:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", engine]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        runs += json.loads(done.stdout.strip().splitlines()[-1])
        print(*runs[-2:], sep="\n", flush=True)
    args.out.write_text(json.dumps({"model": SIZE, "runs": runs}, indent=1) + "\n", encoding="utf-8")


def torch_compiled(model: Any) -> Forward:
    forward = compiled(model)
    return lambda ids, mask: forward(input_ids=ids, attention_mask=mask).logits


def openvino(model: Any) -> Forward:
    import openvino

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=ids, attention_mask=mask).logits

    model.config._attn_implementation = "eager"  # a trace of the other branches on the mask's values
    ids = torch.tensor([[0, 5, 6, 7, 2], [0, 5, 2, 1, 1]])
    converted = openvino.convert_model(Logits(), example_input=(ids, (ids != 1).long()), input=[[-1, -1], [-1, -1]])
    model.config._attn_implementation = "sdpa"
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 2}
    request = openvino.Core().compile_model(converted, "CPU", settings).create_infer_request()
    return lambda ids, mask: torch.from_numpy(request.infer([ids.numpy(), mask.numpy()])[0].copy())


ENGINES: dict[str, Callable[[Any], Forward]] = {"torch_compile": torch_compiled, "OpenVINO": openvino}


def measured(engine: str, data: Path, count: int, rounds: int) -> list[dict[str, Any]]:
    """Figures of one engine on both mixtures."""
    torch.set_num_threads(2)
    real = real_texts(data)
    of_real = trained_tokenizer([text for texts in real.values() for text in texts], vocabulary=16_000)
    mixed = mixed_texts(count, 200)
    mixtures = {
        "DynaHate dev": (of_real, random.Random(0).sample(real["DynaHate dev"], count)),
        "1 to 200": (trained_tokenizer(mixed), mixed),
    }
    found = []
    for words, (tokenizer, texts) in mixtures.items():
        with tempfile.TemporaryDirectory() as directory:
            save_random_classifier(SIZE, tokenizer, Path(directory))
            competitors = contestants(Path(directory), texts)
            reward = reward_models.load(directory, transform="probability", device="cpu")
        sides = {
            "align": competitors["align"],
            engine: partial(through_engine(reward, ENGINES[engine]), texts),
            PIPELINE: competitors[PIPELINE],
        }
        for _ in range(2):  # the second time nothing is compiled any more
            scores = {name: score() for name, score in sides.items()}
        apart = max(abs(a - b) for a, b in zip(scores["align"], scores[engine], strict=True))
        assert apart < TOLERANCE, apart
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, score in sides.items():
                started = time.perf_counter()
                score()
                seconds[name].append(time.perf_counter() - started)
        medians = {name: statistics.median(taken) for name, taken in seconds.items()}
        found.append(
            {
                "engine": engine,
                "words": words,
                "times_the_defaults": {name: round(medians[PIPELINE] / median, 2) for name, median in medians.items()},
                "largest_difference_of_scores": apart,
                "gigaflops_of_a_product": gigaflops_of_a_product(SIZE, time.perf_counter),
                "seconds": {name: [round(one, 3) for one in taken] for name, taken in seconds.items()},
            }
        )
    return found


def through_engine(reward: Any, engine: Callable[[Any], Forward]) -> Callable[[list[str]], list[float]]:
    """Scores by a reward model of its own, whose passes are handed to the engine."""
    classifier = reward._model
    forward = engine(classifier._model)

    def logits(rows: list[list[int]]) -> torch.Tensor:
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[1] * (longest - len(row))] for row in rows])
        return forward(ids, (ids != 1).long())

    classifier._logits = logits
    return lambda texts: reward.score([""] * len(texts), texts)


if __name__ == "__main__":
    main()
