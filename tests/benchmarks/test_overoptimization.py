"""The kept figures of the over-optimisation study are those of its kept runs, and the page says them."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("overoptimization")
    sys.modules.pop("overoptimization")


@pytest.fixture
def kept() -> Any:
    return json.loads((BENCHMARKS / "results" / "overoptimization.json").read_text(encoding="utf-8"))


def test_figures_follow_from_the_runs(study: Any, kept: Any) -> None:
    runs = {name: {int(seed): run for seed, run in of_seed.items()} for name, of_seed in kept["runs"].items()}
    assert {len(of_seed) for of_seed in runs.values()} == {len(kept["seeds"])} == {5}
    for condition, of_seed in runs.items():
        found = study.summary(list(of_seed.values()))
        for name, expected in kept["ppo"][condition].items():
            assert found[name] == pytest.approx(expected, rel=1e-4), (condition, name)
    for condition, figures in study.differences(runs).items():
        for name, found in figures.items():
            assert found == pytest.approx(kept["differences"][condition][name], rel=1e-4, abs=1e-9)


def test_the_page_has_the_tables(study: Any, kept: Any) -> None:
    page = (BENCHMARKS / "overoptimization.md").read_text(encoding="utf-8")
    cells = {cell for line in study.markdown(kept).splitlines() for cell in line.split("|") if "[" in cell}
    assert [cell for cell in sorted(cells) if cell.strip() not in page] == []


def test_gold_that_turns_down_is_seen(study: Any) -> None:
    gold = [0.5, 0.8, 0.9, 0.7]
    run = [
        {"eval/objective/kl": float(step), "eval/objective/scores": float(step), "eval/judge/scores": score}
        for step, score in enumerate(gold)
    ]
    found = study.of_run(run)
    assert found["proxy_end"] == 3.0
    assert found["gold_highest"] == pytest.approx(0.4)
    assert found["gold_lost_after_highest"] == pytest.approx(0.2)
    assert found["gold_lost_along_a_line"] == pytest.approx(0.1)  # .8, .9, .7 fall by .05 from one to the next
    assert found["kl_at_highest"] == 2.0
    assert found["beta"] > 0


def test_one_seed_says_nothing_of_a_turn(study: Any, kept: Any) -> None:
    run = next(iter(next(iter(kept["runs"].values())).values()))
    assert math.isnan(study.summary([run])["gold_lost_after_turn"]["mean"])


def test_an_interval_of_five_seeds(study: Any) -> None:
    found = study.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776 * math.sqrt(2.5 / 5)  # Student's t of four degrees of freedom
    assert (found["mean"], found["n"]) == (3.0, 5)
    assert found["high"] - found["mean"] == pytest.approx(half, abs=1e-3)
