"""What the registry costs: publishing 2 GB, resolving, listing 1,000 versions, and a run that finds everything cached.

    python benchmarks/registry.py      # writes benchmarks/results/registry.json; two or three minutes, 7 GB of disk

Publishing is measured against what it cannot do without: one copy of the same bytes and one sha256 pass over them, one
after the other; what making that copy durable (fsync) takes is measured by itself. Each round does all of it in turn,
so that whatever else the machine does falls on both sides; ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from align.registry import Registry, files

RESULTS = Path(__file__).parent / "results" / "registry.json"
TINY = Path(__file__).parents[1] / "tests" / "recipes" / "tiny" / "quickstart.txt"
SHARDS, MEBIBYTES = 4, 512
VERSIONS = 1000


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def write_model(directory: Path) -> None:
    """Shards of random bytes behind a safetensors header, and a configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text("{}\n", encoding="utf-8")
    for shard in range(SHARDS):
        size = MEBIBYTES << 20
        header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        with (directory / f"model-{shard}.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for _ in range(MEBIBYTES):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())


def publish(registry: Registry, source: Path, **changes: Any) -> Path:
    """As a stage's result."""
    arguments: dict[str, Any] = {
        "name": "model",
        "kind": "sft",
        "fingerprint": "f" * 64,
        "inputs": {},
        "config": {},
        "metrics": {},
        "environment": {},
    }
    return registry.publish(source, **(arguments | changes)).path


def publishing(root: Path, rounds: int) -> dict[str, Any]:
    """Seconds of each round, and what they come to."""
    write_model(source := root / "source")
    names = [path for path, _ in files.entries(source)]
    measured: dict[str, list[float]] = {name: [] for name in ("copy", "fsync", "sha256", "copied", "moved", "linked")}
    for number in range(rounds):
        measured["copy"].append(seconds(lambda: shutil.copytree(source, root / "copy")))
        measured["fsync"].append(seconds(lambda: [files.fsync(root / "copy" / name) for name in names]))
        measured["sha256"].append(seconds(lambda: [files.sha256(root / "copy" / name) for name in names]))
        shutil.rmtree(root / "copy")
        registry = Registry(root / "registry")
        measured["copied"].append(seconds(lambda registry=registry: publish(registry, source)))
        published = registry.resolve("model").path
        linking = Registry(root / "linking")
        measured["linked"].append(seconds(lambda linking=linking, published=published: publish(linking, published)))
        shutil.rmtree(linking.root)
        workspace = registry.workspace("model", "e" * 64)
        shutil.rmtree(workspace.output)
        published.rename(workspace.output)
        measured["moved"].append(
            seconds(lambda registry=registry, output=workspace.output: publish(registry, output, name="moved"))
        )
        if number + 1 < rounds:
            shutil.rmtree(registry.root)

    def ratio(*parts: str) -> dict[str, Any]:
        needed = [sum(values) for values in zip(*(measured[part] for part in parts), strict=True)]
        ratios = [round(taken / least, 2) for taken, least in zip(measured["copied"], needed, strict=True)]
        return {"median": statistics.median(ratios), "all": ratios}

    return {
        "bytes": sum(status.st_size for _, status in files.entries(source)),
        "seconds": {name: [round(one, 2) for one in values] for name, values in measured.items()},
        "ratio_to_copy_and_sha256": ratio("copy", "sha256"),
        "ratio_to_copy_fsync_and_sha256": ratio("copy", "fsync", "sha256"),
    }


def resolving(root: Path) -> dict[str, float]:
    """Milliseconds to find an artifact of 2 GB and to make sure of every byte, all of them hashed before."""
    registry = Registry(root / "registry")
    time.sleep(3)  # a file that changed within two seconds is not remembered
    cold = seconds(lambda: registry.check(registry.resolve("moved")))
    warm = [seconds(lambda: registry.check(registry.resolve("moved"))) for _ in range(100)]
    return {
        "first_seconds": round(cold, 2),
        "warm_milliseconds_median": round(1000 * statistics.median(warm), 2),
        "warm_milliseconds_worst": round(1000 * max(warm), 2),
    }


def listing(root: Path) -> dict[str, Any]:
    """Seconds of `align registry ls` with 1,000 versions, each with eight files and forty settings."""
    registry, source = Registry(root / "many"), root / "small"
    source.mkdir()
    for number in range(8):
        (source / f"file-{number}.json").write_text("{}\n", encoding="utf-8")
    config = {"train": {f"setting_{number}": number for number in range(40)}}
    fsync, os.fsync = os.fsync, lambda _: None  # only the reading is measured
    for number in range(VERSIONS):
        publish(registry, source, name=f"model-{number % 10}", config={**config, "number": number}, force=True)
    os.fsync = fsync
    command = [sys.executable, "-m", "align", "registry", "ls", "--registry", str(registry.root)]
    taken = [seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)) for _ in range(9)]
    return {"versions": VERSIONS, "median": round(statistics.median(taken), 3), "all": [round(one, 3) for one in taken]}


def cached_run(root: Path) -> dict[str, Any]:
    """Seconds of `align run` with nothing to do, after the quickstart at tiny size."""
    overrides = [line for line in TINY.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    command = [sys.executable, "-m", "align", "run", "quickstart", "--wandb", "disabled"]
    command += [part for override in overrides for part in ("--set", override)]
    (directory := root / "pipeline").mkdir()
    quiet: dict[str, Any] = {
        "cwd": directory,
        "check": True,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    subprocess.run(command, **quiet)
    taken = [seconds(lambda: subprocess.run(command, **quiet)) for _ in range(9)]
    return {"median": round(statistics.median(taken), 3), "all": [round(one, 3) for one in taken]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="on the disk to be measured (default: the temporary directory)")
    parser.add_argument("--result", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as directory:
        root = Path(directory)
        result = {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "publish": publishing(root, given.rounds),
            "resolve": resolving(root),
            "ls_seconds": listing(root),
            "cached_run_seconds": cached_run(root),
        }
    given.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
