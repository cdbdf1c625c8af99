"""What it costs a PPO update that its reward is asked over HTTP.

    python benchmarks/reward_served.py          # writes results/reward_served.json

The same PPO run, with the same classifier as reward: loaded in the process that trains, and served on loopback by
`align reward serve`. The two take turns, round after round; the first update of each run warms up. Beside the clock's
seconds stand CPU seconds of trainer and server together, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ppo_vs_trl
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, TrainerCallback

import reward_models
from align.ppo import PPOConfig, PPOTrainer

RESULTS = Path(__file__).parent / "results" / "reward_served.json"
SHAPES = {
    "64 responses of 24 tokens": ppo_vs_trl.SHAPES["real"],
    "16 responses of 8 tokens": {**ppo_vs_trl.SHAPES["real"], "batch": 16, "mean_len": 8, "response_len": 16},
}
SIDES = ("in process", "served")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="timed updates in a run, after one to warm up")
    parser.add_argument("--threads", type=int, default=1, help="of the trainer, and of the server")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = []
    for name, sizes in SHAPES.items():
        shape = ppo_vs_trl.Shape(**sizes)
        with tempfile.TemporaryDirectory() as directory:
            save_reward(shape, directory)
            with served(directory, args.threads) as (address, pid):
                spec = {"in process": directory, "served": address}
                runs = [
                    {"side": side, **updates(shape, spec[side], args.steps, pid)}
                    for _ in range(args.rounds)
                    for side in SIDES
                ]
        table.append({"shape": name, **row(runs), "runs": runs})
        print({key: value for key, value in table[-1].items() if key != "runs"}, flush=True)
    machine = {"cores": os.cpu_count(), "threads": args.threads}
    args.out.write_text(json.dumps({"machine": machine, "table": table}, indent=1) + "\n", encoding="utf-8")


def save_reward(shape: ppo_vs_trl.Shape, directory: str) -> None:
    """A classifier of the policy's size, with random weights."""
    tokenizer, policy, *_ = ppo_vs_trl.models(shape, "cpu")
    sizes = {key: getattr(policy.config, key) for key in ("vocab_size", "hidden_size", "intermediate_size")}
    labels = {"id2label": {0: "nontoxic", 1: "toxic"}, "label2id": {"nontoxic": 0, "toxic": 1}}
    config = LlamaConfig(
        **sizes,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        pad_token_id=0,
        eos_token_id=2,
        **labels,
    )
    LlamaForSequenceClassification(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (Path(directory) / "reward_model.json").write_text('{"label": "nontoxic"}', encoding="utf-8")


@contextmanager
def served(directory: str, threads: int) -> Iterator[tuple[str, int]]:
    """The address of a server of its own process, and that process."""
    command = [sys.executable, "-m", "align", "reward", "serve", directory, "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        found = re.search(r"at (http://\S+);", process.stderr.readline())
        assert found is not None, process.stderr.read()
        yield found[1], process.pid
    finally:
        process.terminate()
        process.wait()


def updates(shape: ppo_vs_trl.Shape, reward: str, steps: int, server: int) -> dict[str, Any]:
    """Seconds of each update but the first."""
    tokenizer, policy, *_ = ppo_vs_trl.models(shape, "cpu")
    ends: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append((time.perf_counter(), time.process_time() + cpu_seconds(server)))

    trainer = PPOTrainer(
        PPOConfig(
            batch_size=shape.batch,
            total_episodes=shape.batch * (steps + 1),
            num_ppo_epochs=shape.ppo_epochs,
            response_length=shape.response_len,
            learning_rate=shape.lr,
            temperature=1.0,
            seed=shape.seed,
            use_cpu=True,
            save_strategy="no",
        ),
        tokenizer,
        policy,
        None,
        reward_models.load(reward),
        [{"input_ids": prompt} for prompt in ppo_vs_trl.prompts_of(shape, steps + 1)],
        None,
        callbacks=[Clock()],
    )
    trainer.train()
    clock, cpu = zip(*ends, strict=True)
    return {
        "seconds": [round(after - before, 4) for before, after in itertools.pairwise(clock)],
        "cpu_seconds": [round(after - before, 4) for before, after in itertools.pairwise(cpu)],
    }


def cpu_seconds(pid: int) -> float:
    """Of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def row(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over all updates of a side, and how much more the served one takes."""
    found: dict[str, float] = {}
    for figure in ("seconds", "cpu_seconds"):
        inside, outside = (
            statistics.median(one for run in runs if run["side"] == side for one in run[figure]) for side in SIDES
        )
        found |= {f"{figure}_in_process": inside, f"{figure}_served": outside}
        found[f"{figure}_more"] = round(outside / inside - 1, 4)
    return found


if __name__ == "__main__":
    main()
