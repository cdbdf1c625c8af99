"""Run by the tests as a process of its own: every stage of a tiny pipeline stopped by real signals, and gone on with.

python stopped.py SOAK DIRECTORY SIGNAL...   SOAK: benchmarks/soak.py, whose runs these are; one chain for each signal

`TWICE` in the place of a signal: two runs at once in one registry, to the end.

A chain is one registry: the signal in base, the same command again, the signal in sft, and so on to the end. Prints
one JSON object a run, and one for what a chain ends with.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from align import stages

STAGES = ("base", "sft", "toxicity", "ppo", "evaluation")


def wait_for(directory: Path, stage: str, process: int) -> None:
    """Until the stage is in the middle of its work: it has logged a figure, or, evaluating, begun."""
    sign = '"event"' if stage != "evaluation" else ""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for events in (directory / "registry" / "workspaces").glob(f"{stage}-*/events.jsonl"):
            if sign in events.read_text(encoding="utf-8"):
                return
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    raise AssertionError(f"{stage} was never at work: {(directory / 'log.txt').read_text(encoding='utf-8')}")


def chain(soak: Any, directory: Path, number: int) -> None:
    directory.mkdir()
    log = directory / "log.txt"
    for stage in STAGES:
        process = soak.start(directory)
        wait_for(directory, stage, process)
        os.kill(process, number)
        status = soak.status_of(process)
        complete = [
            path.parent.name
            for path in (directory / "registry" / "workspaces").glob(f"{stage}-*/checkpoints/*/COMPLETE.json")
        ]
        report = {
            "chain": directory.name,
            "stage": stage,
            "status": status,
            "said": log.read_text(encoding="utf-8"),
            "checkpoints": complete,
        }
        print(json.dumps({**report, "problems": soak.problems(directory)}), flush=True)
        log.unlink()
    status, said = soak.status_of(soak.start(directory)), log.read_text(encoding="utf-8")
    report = {"chain": directory.name, "stage": "end", "status": status, "said": said}
    print(json.dumps({**report, "digests": soak.digests(directory)}), flush=True)


def twice(soak: Any, directory: Path) -> None:
    """Two runs at once in one registry."""
    directory.mkdir()
    processes = [soak.start(directory), soak.start(directory)]
    report = {"status": [soak.status_of(process) for process in processes], "digests": soak.digests(directory)}
    said = (directory / "log.txt").read_text(encoding="utf-8")
    print(
        json.dumps({"chain": directory.name, **report, "said": said, "problems": soak.problems(directory)}), flush=True
    )


def main(path: str, root: Path, signals: list[str]) -> None:
    spec = importlib.util.spec_from_file_location("soak", path)
    assert spec is not None
    assert spec.loader is not None
    soak = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(soak)
    for kind in stages.FILES:
        stages.load(kind)
    (root / "whole").mkdir()
    assert soak.status_of(soak.start(root / "whole")) == 0
    print(json.dumps({"chain": "whole", "digests": soak.digests(root / "whole")}), flush=True)
    for name in signals:
        if name == "TWICE":
            twice(soak, root / name)
            continue
        chain(soak, root / name, signal.Signals[name])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
