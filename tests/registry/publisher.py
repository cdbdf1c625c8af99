"""Run by the tests as a process of its own: publishes, alone among others, or killed at one of its file events.

python publisher.py together REGISTRY SOURCE WRITER START   publish as `sft`, once START exists
python publisher.py killed   REGISTRY                       one child for each file event, killed there
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path

from align.registry import Artifact, Registry

FILE_EVENTS = ("open", "os.", "shutil.")


def publish(registry: Registry, source: Path, writer: str) -> Artifact:
    return registry.publish(
        source,
        name="sft",
        kind="sft",
        fingerprint="f" * 64,
        inputs={},
        config={"writer": writer},
        metrics={},
        environment={},
    )


def together(root: str, source: str, writer: str, start: str) -> None:
    registry = Registry(root)
    print("ready", flush=True)
    while not Path(start).exists():
        time.sleep(0.001)
    print(publish(registry, Path(source), writer).reference)


def _work(root: str) -> None:
    """What a run does with a finished stage: fill the workspace's output, publish, tag, discard."""
    registry = Registry(root)
    workspace = registry.workspace("sft", "f" * 64)
    workspace.output.mkdir(exist_ok=True)
    (workspace.output / "nested").mkdir(exist_ok=True)
    for name in ("config.json", "nested/weights.txt"):
        (workspace.output / name).write_text(name)
    artifact = registry.find("sft", "f" * 64) or publish(registry, workspace.output, "killed")
    registry.tag(artifact.reference, "best")
    registry.check(artifact)
    registry.discard(workspace)


def _child(root: str, fatal: int) -> int:
    """Exit status of a child that is killed at its file event number `fatal`."""
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    seen = 0

    def count(event: str, _: object) -> None:
        nonlocal seen
        if event.startswith(FILE_EVENTS):
            seen += 1
            if seen == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    _work(root)
    os._exit(0)


def killed(root: str) -> None:
    """Prints one JSON object per kill: what the registry said afterwards, and after the same work was done again."""
    _work(f"{root}/untouched")  # so that every module is loaded before events are counted
    for fatal in itertools.count(1):
        place = f"{root}/{fatal}"
        status = _child(place, fatal)
        after_kill = [str(problem) for problem in Registry(place).verify()]
        again = _child(place, 0)
        registry = Registry(place)
        report = {
            "status": status,
            "after_kill": after_kill,
            "again": again,
            "problems": [str(problem) for problem in registry.verify()],
            "versions": registry.versions("sft"),
            "files": [file.path for file in registry.resolve("sft@best").manifest.files],
        }
        print(json.dumps(report))
        if status == 0:
            return


if __name__ == "__main__":
    os.fsync = lambda _: None  # what was written outlives a killed process; only the machine's end would lose it
    {"together": together, "killed": killed}[sys.argv[1]](*sys.argv[2:])
