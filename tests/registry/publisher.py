"""Run by the tests as a process of its own: publishes, alone among others, or killed at one of its file events.

python publisher.py together REGISTRY SOURCE PROCESSES WRITERS LOCKS   that many processes publish as `sft` at once
python publisher.py killed   publish|gc|import DIRECTORY               one child for each file event, killed there
python publisher.py failing  FAULT SOURCE DISK [moved]                 on a file system of its own, which fails
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from align.errors import AlignError
from align.registry import Artifact, InputRecord, Registry, archive, collection

FILE_EVENTS = ("open", "os.", "shutil.")


def publish(
    registry: Registry, source: Path, writer: str, name: str = "sft", inputs: dict[str, InputRecord] | None = None
) -> Artifact:
    return registry.publish(
        source,
        name=name,
        kind="sft",
        fingerprint="f" * 64,
        inputs=inputs or {},
        config={"writer": writer},
        metrics={},
        environment={},
    )


def together(root: str, source: str, processes: str, writers: str, locks: str) -> None:
    """`writers`: how many different contents they publish. `locks`: `none` for ones that everybody is granted."""
    if locks == "none":
        fcntl.flock = lambda *_: None
    begin, go = os.pipe()
    children = []
    for number in range(int(processes)):
        if not (child := os.fork()):
            os.close(go)
            os.read(begin, 1)  # returns for all of them at once, when the parent closes its end
            registry = Registry(root)
            artifact = publish(registry, Path(source), f"writer {number % int(writers)}")
            registry.tag(artifact.reference, "best")
            os.write(1, f"{artifact.reference}\n".encode())
            os._exit(0)
        children.append(child)
    time.sleep(0.2)
    os.close(go)
    sys.exit(sum(os.waitpid(child, 0)[1] for child in children))


def _publishing(root: str) -> None:
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


def _littered(root: str) -> None:
    """Two generations of `base` and of `sft`, which was made from it, with a stage at work on the older."""
    registry, source = Registry(root), Path(f"{root}-source")
    source.mkdir()
    (source / "config.json").write_text("{}")
    for generation in ("old", "new"):
        base = publish(registry, source, generation, "base")
        publish(
            registry, source, generation, "sft", {"model": InputRecord(reference=base.reference, digest=base.digest)}
        )


def _collecting(root: str) -> None:
    collection.collect(Registry(root))


def _packed(root: str) -> None:
    """An archive beside the registry, which is empty."""
    _littered(f"{root}-packed")
    archive.export(Registry(f"{root}-packed"), "sft", Path(f"{root}.tar"))


def _importing(root: str) -> None:
    archive.import_(Registry(root), Path(f"{root}.tar"))


def _child(work: Callable[[str], None], root: str, fatal: int) -> int:
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
    work(root)
    os._exit(0)


WORK = {
    "publish": (lambda root: None, _publishing),
    "gc": (_littered, _collecting),
    "import": (_packed, _importing),
}
"""What is done before, and what is killed."""


def killed(what: str, root: str) -> None:
    """Prints one JSON object per kill: what the registry said afterwards, and after the same work was done again."""
    prepare, work = WORK[what]
    prepare(f"{root}/untouched")
    work(f"{root}/untouched")  # so that every module is loaded before events are counted
    for fatal in itertools.count(1):
        place = f"{root}/{fatal}"
        prepare(place)
        status = _child(work, place, fatal)
        after_kill = _wrong(Registry(place))
        again = _child(work, place, 0)
        registry = Registry(place)
        report = {
            "status": status,
            "after_kill": after_kill,
            "again": again,
            "problems": _wrong(registry),
            "files": {one.reference: [file.path for file in one.manifest.files] for one in registry.artifacts()},
        }
        print(json.dumps(report))
        if status == 0:
            return


def _wrong(registry: Registry) -> list[str]:
    """What is not as published, and parents that are missing."""
    trees = [registry.lineage(artifact.reference) for artifact in registry.artifacts()]
    broken = [f"{node.reference}: {node.problem}" for tree in trees for node in tree.walk() if node.problem]
    return [*map(str, registry.verify()), *broken]


def failing(fault: str, source: str, disk: str, moved: str = "") -> None:
    """Publish where that fails, with more room each time until it succeeds. Prints one JSON object per attempt."""
    if fault != "EFBIG":
        options = "nr_inodes=64,size=1m" if fault == "inodes" else "size=1m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
    registry = Registry(f"{disk}/registry")
    registry.tag(publish(registry, Path(source), "before").reference, "best")
    output = registry.workspace("sft", "e" * 64).output
    shutil.copytree(source, output, dirs_exist_ok=True)
    origin = output if moved else Path(source)
    for room in range(1000):
        with _room(fault, Path(disk), room):
            error = _error(lambda: publish(registry, origin, "now"))
        report = {
            "error": error,
            "problems": [str(problem) for problem in registry.verify()],
            "versions": registry.versions("sft"),
            "best": registry.resolve("sft@best").version,
            "staging": len(list((registry.root / "staging").iterdir())),
            "source": sorted(path.name for path in origin.rglob("*") if path.is_file()),
        }
        print(json.dumps(report), flush=True)
        if not error or fault == "EROFS":
            break
    if fault == "EROFS":
        with _room(fault, Path(disk), 0):
            registry.check(registry.resolve("sft@best"))
            attempts: dict[str, Callable[[], object]] = {
                "tag": lambda: registry.tag("sft", "other"),
                "pin": lambda: registry.pin("sft"),
                "workspace": lambda: registry.workspace("sft", "d" * 64),
                "export": lambda: archive.export(registry, "sft", Path(disk) / "x.tar"),
                "gc": lambda: collection.collect(registry),
                "begin": lambda: collection.in_use(registry, []).__enter__(),
            }
            print(json.dumps({name: _error(attempt) for name, attempt in attempts.items()}))


@contextmanager
def _room(fault: str, disk: Path, room: int) -> Iterator[None]:
    """So many KiB, inodes, or bytes of one file may be written meanwhile."""
    if fault == "EROFS":
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    elif fault == "EFBIG":
        resource.setrlimit(resource.RLIMIT_FSIZE, (room * 256, resource.RLIM_INFINITY))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    elif fault == "ENOSPC":
        filler = disk / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - room * 4096)
        yield
        filler.unlink()
    else:
        (disk / "fillers").mkdir()
        for number in range(os.statvfs(disk).f_ffree - room):
            (disk / "fillers" / str(number)).touch()
        yield
        shutil.rmtree(disk / "fillers")


def _error(attempt: Callable[[], object]) -> str:
    """What a person is told; empty if it succeeds."""
    try:
        attempt()
    except AlignError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    os.fsync = lambda _: None  # what was written outlives a killed process; only the machine's end would lose it
    {"together": together, "killed": killed, "failing": failing}[sys.argv[1]](*sys.argv[2:])
