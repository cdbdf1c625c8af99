"""The quickstart gives the same bytes again, also after Ctrl-C, and a failure costs little."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Finished = Callable[[str], Any]
NewRun = Callable[[str], Any]

pytestmark = pytest.mark.xdist_group("quickstart")


def test_the_same_seed_gives_the_same_artifacts_in_another_registry(finished: Finished, new_run: NewRun) -> None:
    again = new_run("quickstart")
    assert again.align("run", "--wandb", "disabled").exit_code == 0
    assert again.digests == finished("quickstart").digests
    assert not (again.directory / "wandb").exists()


def test_a_run_stopped_by_ctrl_c_goes_on_to_the_same_artifacts(finished: Finished, new_run: NewRun) -> None:
    run = new_run("quickstart")
    command = ("run", "ppo")
    for stage, figure in (("sft", "train/loss"), ("ppo", "objective/kl")):
        process = run.start(*command)
        _wait_for(process, run.directory / "registry" / "workspaces", stage, figure)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert "interrupted by SIGINT; a checkpoint of" in said
        assert "Run the same command again to resume" in said
        assert "Traceback" not in said
        actions = {line.split()[0]: line.split()[2] for line in run.align("plan", "ppo").stdout.splitlines()[2:]}
        assert actions[stage] == "resume"
        assert f"{stage}@v1" not in run.digests
    assert run.align(*command).exit_code == 0
    wandb = [path.name.rpartition("-")[2] for path in (run.directory / "wandb").glob("offline-run-*")]
    assert (len(wandb), len(set(wandb))) == (6, 4)  # sft and ppo went on with the W&B runs that they had begun
    whole = finished("quickstart").digests
    assert run.digests == {reference: whole[reference] for reference in run.digests}
    assert "ppo@v1" in run.digests


def test_a_stage_that_fails_leaves_the_others_and_says_how_to_go_on(finished: Finished) -> None:
    run = finished("quickstart")
    before = run.digests
    unreachable = ("--set", "stages.toxicity.require_auc=1", "--set", "stages.toxicity.train.max_steps=1")
    failed = run.align("run", "--wandb", "disabled", *unreachable)
    assert failed.exit_code == 1
    assert "stage toxicity failed: the classifier's AUC on held-out rows is" in failed.stderr
    assert "Earlier artifacts are kept; run the same command again to resume" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert run.digests == before
    assert run.registry.verify() == []
    assert run.align("run").exit_code == 0
    assert run.digests == before


def test_the_commands_of_the_guide_work(finished: Finished) -> None:
    run = finished("quickstart")
    before = run.digests
    guide = Path(__file__).parents[2] / "docs" / "resume.md"
    (block,) = re.findall(r"^```sh\n(.*?)^```$", guide.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        program, command, recipe, *more = shlex.split(line, comments=True)
        assert (program, recipe) == ("align", "quickstart")
        result = run.align(command, *more, *(("--wandb", "disabled") if command == "run" else ()))
        assert result.exit_code == 0, result.output
    assert run.digests == before


def _wait_for(process: subprocess.Popen[str], workspaces: Path, stage: str, figure: str) -> None:
    """Return once the stage has logged a figure: it is in the middle of its work then."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(figure in events.read_text(encoding="utf-8") for events in workspaces.glob(f"{stage}-*/events.jsonl")):
            return
        time.sleep(0.005)
    process.kill()
    raise AssertionError(f"{stage} never logged {figure}: {process.communicate()[1]}")
