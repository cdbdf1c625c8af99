"""A whole pipeline, killed without warning at random moments, run again, and compared with one that was never killed.

    python benchmarks/soak.py                              # 100 moments; writes benchmarks/results/soak.json
    python benchmarks/soak.py --kills 6 --at events        # the same moments every time; what the tests run

The quickstart at tiny size (base, sft, reward, PPO, evaluation), each time in a new directory: SIGKILL, every byte of
the registry verified, the same command again, verified again, and every artifact's digest compared. `--at time` kills
after a random time; `--at events` at a random one of the run's file events (an open, a rename, a removal, ...), which
is the same moment in every such run.

A run is a fork of this process, which has imported the libraries already: a process of its own that dies like any
other, without the seconds of start-up in which nothing can happen to a registry.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import argparse
import collections
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from align import stages
from align.cli import app
from align.registry import Registry

HERE = Path(__file__).parent
TINY = HERE.parent / "tests" / "recipes" / "tiny" / "quickstart.txt"
OFTEN = [f"stages.{stage}.train.save_steps=4" for stage in ("base", "sft", "toxicity")] + [
    "stages.sft.train.max_steps=12",
    "stages.ppo.ppo.total_episodes=40",
    "stages.ppo.ppo.save_steps=1",
    "stages.evaluation.batch_size=4",
]
"""Checkpoints after every few steps: the more of them, the more there is to break."""
FILE_EVENTS = ("open", "os.", "shutil.")


def start(directory: Path, *, fatal_event: int = 0, count_to: Path | None = None) -> int:
    """The process id of `align run quickstart` in a directory; it kills itself at the file event of that number."""
    if child := os.fork():
        return child
    code = 70
    try:
        os.chdir(directory)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        seen = 0

        def hook(event: str, _: object) -> None:
            nonlocal seen
            if event.startswith(FILE_EVENTS):
                seen += 1
                if seen == fatal_event:
                    os.kill(os.getpid(), signal.SIGKILL)

        if fatal_event or count_to:
            sys.addaudithook(hook)
        overrides = [line for line in TINY.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        arguments = [part for override in (*overrides, *OFTEN) for part in ("--set", override)]
        try:
            app(["run", "quickstart", "--wandb", "disabled", *arguments], prog_name="align")
        except SystemExit as ended:
            code = int(ended.code or 0)
        if count_to:
            count_to.write_text(str(seen), encoding="utf-8")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def status_of(process: int) -> int:
    """Wait: the exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed_after(process: int, seconds: float) -> int:
    """The same, after SIGKILL at that time, if it has not ended by then."""
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    return status_of(process)


def digests(directory: Path) -> dict[str, str]:
    """Of every artifact: `sft@v1` -> sha256."""
    return {artifact.reference: artifact.digest for artifact in Registry(directory / "registry").artifacts()}


def problems(directory: Path) -> list[str]:
    """What is wrong in the registry, every byte hashed."""
    return [str(problem) for problem in Registry(directory / "registry").verify()]


def soak(whole: Path, directory: Path, *, event: int = 0, seconds: float = 0) -> dict[str, Any]:
    """Run, kill at a file event or after so many seconds, verify, run again, verify, compare."""
    directory.mkdir()
    process = start(directory, fatal_event=event)
    status = status_of(process) if event else killed_after(process, seconds)
    there = digests(directory)
    at_work = sorted(path.name.partition("-")[0] for path in (directory / "registry" / "workspaces").glob("*"))
    after_kill = problems(directory)
    again = status_of(start(directory))
    log = (directory / "log.txt").read_text(encoding="utf-8", errors="replace")
    report = {
        "killed": status == -signal.SIGKILL,
        "published_before": sorted(there),
        "at_work": [stage for stage in at_work if f"{stage}@v1" not in there],
        "resumed": ": resume (" in log,
        "set_aside": log.count("set aside as"),
        "after_kill": after_kill,
        "again": again,
        "problems": problems(directory),
        "equal": digests(directory) == digests(whole),
    }
    sound = again == 0 and not after_kill and not report["problems"] and report["equal"]
    return {**report, "sound": sound, **({} if sound else {"log": log[-4000:]})}


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill a tiny pipeline at random moments, and compare.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--at", choices=["time", "events"], default="time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, help="where to write what happened (default: stdout)")
    options = parser.parse_args()
    for kind in stages.FILES:
        stages.load(kind)
    draw = random.Random(options.seed)
    reports = []
    with tempfile.TemporaryDirectory() as temporary:
        root, began = Path(temporary), time.monotonic()
        whole, counted = root / "whole", root / "events.txt"
        whole.mkdir()
        assert status_of(start(whole, count_to=counted)) == 0, (whole / "log.txt").read_text(encoding="utf-8")
        duration, events = time.monotonic() - began, int(counted.read_text(encoding="utf-8"))
        assert problems(whole) == []
        for number in range(options.kills):
            # One moment in each of so many equal parts of the run: early and late ones are as likely as those between.
            share = (number + draw.random()) / options.kills
            report: dict[str, Any] = {"killed": False}
            while not report["killed"]:  # a run may take less time than the one that was timed
                moment = {"event": 1 + int(share * events)} if options.at == "events" else {"seconds": share * duration}
                report = {"share": round(share, 4)} | soak(whole, root / f"{number}-{share}", **moment)
                share *= 0.9
            print(f"{number + 1}/{options.kills}  {json.dumps(report)}", file=sys.stderr, flush=True)
            reports.append(report)
    at_work = collections.Counter(stage for report in reports for stage in report["at_work"])
    result = {
        "command": f"python benchmarks/soak.py --kills {options.kills} --at {options.at} --seed {options.seed}",
        "runs": len(reports),
        "killed_before_their_end": sum(report["killed"] for report in reports),
        "registry_verified_clean_after_the_kill": sum(not report["after_kill"] for report in reports),
        "rerun_ended_with_equal_artifacts": sum(report["sound"] for report in reports),
        "uninterrupted_seconds": round(duration, 1),
        "file_events": events,
        "resumed_from_a_checkpoint": sum(report["resumed"] for report in reports),
        "half_written_checkpoints_set_aside": sum(report["set_aside"] for report in reports),
        "stages_at_work": dict(sorted(at_work.items())),
        "moments": {report["share"]: _told(report) for report in reports},
        "unsound": [report for report in reports if not report["sound"]],
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.result:
        options.result.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 1 if result["unsound"] else 0


def _told(report: dict[str, Any]) -> str:
    return f"in {' '.join(report['at_work']) or 'between stages'}{', resumed' if report['resumed'] else ''}"


if __name__ == "__main__":
    sys.exit(main())
