"""The registry's benchmark runs, and its table says what was measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MEASURED = json.loads((BENCHMARKS / "results" / "registry.json").read_text(encoding="utf-8"))


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark at small size."""
    spec = importlib.util.spec_from_file_location("registry_benchmark", BENCHMARKS / "registry.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "MEBIBYTES", 1)
    monkeypatch.setattr(module, "VERSIONS", 20)
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    return module


def test_it_measures(benchmark: ModuleType, tmp_path: Path) -> None:
    published = benchmark.publishing(tmp_path, rounds=2)
    assert published["bytes"] > 4 << 20
    assert {len(values) for values in published["seconds"].values()} == {2}
    assert benchmark.resolving(tmp_path)["warm_milliseconds_median"] < 20
    assert benchmark.listing(tmp_path)["versions"] == 20


def test_what_was_measured_is_what_was_wanted() -> None:
    assert MEASURED["publish"]["bytes"] > 2e9
    assert MEASURED["publish"]["ratio_to_copy_and_sha256"]["median"] <= 1.3
    assert MEASURED["resolve"]["warm_milliseconds_worst"] < 20
    assert (MEASURED["ls_seconds"]["versions"], MEASURED["ls_seconds"]["median"] < 0.5) == (1000, True)
    assert MEASURED["cached_run_seconds"]["median"] < 2


def test_the_table_says_what_was_measured() -> None:
    text = (BENCHMARKS / "registry.md").read_text(encoding="utf-8")
    middle = {name: sorted(values)[len(values) // 2] for name, values in MEASURED["publish"]["seconds"].items()}
    resolve = MEASURED["resolve"]
    for figure in (
        f"rename | {middle['copied']:.2f} s |",
        f"one copy ({middle['copy']:.2f} s) and one sha256 pass ({middle['sha256']:.2f} s)",
        f"an fsync of the copy ({middle['fsync']:.2f} s)",
        f"no copy | {middle['moved']:.2f} s |",
        f"hard links, no copy | {middle['linked']:.2f} s |",
        f"round by round | {MEASURED['publish']['ratio_to_copy_and_sha256']['median']:.2f} |",
        f"known | {resolve['warm_milliseconds_median']} ms, at worst {resolve['warm_milliseconds_worst']} ms |",
        f"eight files | {MEASURED['ls_seconds']['median']:.2f} s |",
        f"all cached | {MEASURED['cached_run_seconds']['median']:.2f} s |",
    ):
        assert figure in text
