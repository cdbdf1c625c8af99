"""The benchmark's own sides run, and do the same work; its figures are in benchmarks/."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def ppo_vs_trl() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ppo_vs_trl", BENCHMARKS / "ppo_vs_trl.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ppo_vs_trl"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize("side", ["shared", "separate", "constant reward", "floor"])
def test_a_side_reports_seconds_and_memory(ppo_vs_trl: ModuleType, side: str, architecture: str) -> None:
    if architecture == "t5" and side in ("floor", "separate"):
        pytest.skip("the floor and the peer's kind of critic are causal")
    shape = ppo_vs_trl.Shape(
        layers=2, hidden=16, vocab=50, batch=4, min_prompt_len=2, prompt_len=6, response_len=5, stop="eos", mean_len=3,
        architecture=architecture,
    )  # fmt: skip
    measure = ppo_vs_trl.floor if side == "floor" else ppo_vs_trl.align
    figures = measure(side, shape, 2, "cpu")
    assert len(figures["all_seconds"]) == 2
    assert figures["seconds_per_update"] > 0


def test_ratios_are_of_medians(ppo_vs_trl: ModuleType) -> None:
    peer = {"shape": "real", "side": "peer", "memory_mb": 100, "seconds_without_gc": 3.0}
    runs = [{**peer, "seconds_per_update": seconds} for seconds in (4.0, 6.0, 50.0)]
    shared = {"shape": "real", "side": "shared", "memory_mb": 25}
    runs += [{**shared, "seconds_per_update": seconds} for seconds in (2.5, 2.0, 2.0)]
    row = ppo_vs_trl.row_of("real", "shared", runs)
    assert (row["times_the_peers_speed"], row["without_its_gc"], row["of_its_memory"]) == (3.0, 1.5, 0.25)
    assert row["in_single_rounds"] == "1.60 to 25.00"
