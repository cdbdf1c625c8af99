"""How the time of a PPO update grows with batch and response length, and what an encoder-decoder policy costs.

    python benchmarks/ppo_scaling.py          # writes results/ppo_scaling.json

The exponent is the slope of a least-squares line through log(seconds) over log(size): 1 is linear. Sizes are visited
in turn, round after round, each in a process of its own, without a stop token, so that lengths are what they say.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ppo_vs_trl

RESULTS = Path(__file__).parent / "results" / "ppo_scaling.json"
SWEEPS: dict[str, list[dict[str, Any]]] = {
    "batch": [{"batch": batch, "prompt_len": 32, "response_len": 32} for batch in (16, 32, 64, 128, 256)],
    "response_len": [{"batch": 32, "prompt_len": 32, "response_len": length} for length in (16, 32, 64, 128, 256)],
    "architecture": [
        {"batch": 64, "prompt_len": 48, "response_len": 48, "architecture": name} for name in ("llama", "t5")
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed updates in a process, after one to warm up")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--shape", type=json.loads, help=argparse.SUPPRESS)  # this process measures one size
    args = parser.parse_args()
    if args.shape:
        shape = ppo_vs_trl.Shape(**args.shape)
        print(json.dumps(ppo_vs_trl.align("constant reward", shape, args.steps, "cpu")))
        return
    runs = [
        {"sweep": sweep, "round": turn, **shape, **measured(shape, args.steps)}
        for turn in range(args.rounds)
        for sweep, shapes in SWEEPS.items()
        for shape in shapes
    ]
    result = {"cores": os.cpu_count(), "summary": summary(runs), "runs": runs}
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["summary"], indent=1))


def measured(shape: dict[str, Any], steps: int) -> dict[str, Any]:
    """One size in a process of its own."""
    command = [sys.executable, __file__, "--shape", json.dumps(shape), "--steps", str(steps)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(shape, round(figures["seconds_per_update"], 3), flush=True)
    return figures


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median seconds of each size and the exponent of each sweep; response tokens per second of each architecture."""

    def median(sweep: str, shape: dict[str, Any]) -> float:
        same = [run for run in runs if run["sweep"] == sweep and all(run.get(key) == shape[key] for key in shape)]
        return statistics.median(run["seconds_per_update"] for run in same)

    found: dict[str, Any] = {}
    for sweep in ("batch", "response_len"):
        sizes = [shape[sweep] for shape in SWEEPS[sweep]]
        seconds = [median(sweep, shape) for shape in SWEEPS[sweep]]
        exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
        found[sweep] = {
            "seconds": {str(size): round(time, 3) for size, time in zip(sizes, seconds, strict=True)},
            "exponent": round(float(exponent), 3),
            "exponent_of_last_doubling": round(math.log2(seconds[-1] / seconds[-2]), 3),
        }
    for shape in SWEEPS["architecture"]:
        of_it = [run for run in runs if run.get("architecture") == shape["architecture"]]
        found[shape["architecture"]] = {
            "parameters": of_it[0]["parameters"],
            "response_tokens_per_second": round(shape["batch"] * shape["response_len"] / median("architecture", shape)),
        }
    return found


if __name__ == "__main__":
    main()
