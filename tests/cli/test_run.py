"""`align check`, `plan` and `run`: what they print, their exit codes, and how long they take to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from align.cli import run as command

Align = Callable[..., Result]

HEAVY = "{'torch', 'transformers', 'datasets', 'peft', 'trl', 'wandb', 'numpy', 'sklearn'}"


def _fresh(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command line in a new process; exit code 99 if it imported something heavy."""
    script = (
        "import atexit, os, sys\n"
        f"atexit.register(lambda: os._exit(99) if {HEAVY} & set(sys.modules) else None)\n"
        f"{code}\nfrom align.cli import main\nmain()"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, env=os.environ
    )


def test_help_is_instant() -> None:
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        done = _fresh("--help")
        durations.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    assert min(durations) < 0.3
    code = "import sys; import align, align.cli; print({'pydantic', 'yaml', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_check_says_that_a_recipe_is_fine(here: Path, run_align: Align) -> None:
    result = run_align("check", "tiny.yaml")
    assert result.exit_code == 0
    assert "tiny.yaml is fine: base -> sft -> evaluation" in result.stdout
    marked = here / "runs[old]"
    marked.mkdir()
    (marked / "tiny.yaml").write_text((here / "tiny.yaml").read_text())
    assert "runs[old]/tiny.yaml is fine" in run_align("check", "runs[old]/tiny.yaml").stdout


def test_check_says_everything_that_is_wrong(here: Path, run_align: Align) -> None:
    (here / "tiny.yaml").write_text(
        (here / "tiny.yaml").read_text().replace("model: base", "modle: base").replace("samples", "sampels")
    )
    result = run_align("check", "tiny.yaml")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "tiny.yaml:6: stages.sft.model: is missing, and has no default",
        "tiny.yaml:6: stages.sft.modle: unknown key; did you mean `model`?",
        "tiny.yaml:11: stages.evaluation.sampels: unknown key; did you mean `samples`?",
    ]


def test_check_looks_at_the_data(here: Path, run_align: Align) -> None:
    (here / "rows.jsonl").unlink()
    result = run_align("check", "tiny.yaml")
    assert result.exit_code == 2
    assert "tiny.yaml:6: stages.sft.data.0: data file rows.jsonl does not exist" in result.stderr
    assert "Traceback" not in result.stderr


def test_plan_gives_reasons(here: Path, run_align: Align) -> None:
    result = run_align("plan", "tiny.yaml", "sft")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()[2:]] == [
        ["base", "base", "run", "-", "-", "-", "no", "artifact", "yet"],
        ["sft", "sft", "run", "-", "-", "-", "no", "artifact", "yet"],
    ]
    assert not (here / "registry").exists()


def test_plan_as_json_is_json_alone(finished: Path, run_align: Align) -> None:
    result = run_align("plan", "tiny.yaml", "--json", "--set", "stages.sft.max_length=9")
    steps = {step["stage"]: step for step in json.loads(result.stdout)}
    assert {name: step["action"] for name, step in steps.items()} == {
        "base": "cached",
        "sft": "run",
        "evaluation": "run",
    }
    assert steps["base"]["artifact"] == "base@v1"
    assert steps["sft"]["reason"] == "config changed: max_length 512 -> 9"


def test_run_ends_with_the_evaluation_and_where_things_are(here: Path, run_align: Align) -> None:
    result = run_align("run", "tiny.yaml")
    assert result.exit_code == 0, result.stderr
    assert "sft: published sft@v1" in result.stderr
    assert "[0.000, 0.020]" in result.stdout
    assert result.stdout.index("(baseline)") < result.stdout.index("│ sft ")
    said = "sft against base: ROUGE-L 0.400 -> 0.400 (no clear change), toxicity 0.360 -> 0.010 (better), KL 1.200 nats"
    assert said in " ".join(result.stdout.split())
    assert result.stdout.count("Summarize [b]this[/b]") == 1
    assert "registry/artifacts/sft/v1/files" in result.stdout
    assert "all samples of evaluation: registry/artifacts/evaluation/v1/files/samples.jsonl" in result.stdout


def test_a_run_that_is_all_cached_shows_the_same_at_once_without_torch(finished: Path, run_align: Align) -> None:
    shown = run_align("run", "tiny.yaml").stdout
    start = time.perf_counter()
    done = _fresh("run", "tiny.yaml")
    assert time.perf_counter() - start < 2
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("run", "nothing.yaml"), 2, "no recipe file nothing.yaml"),
        (("run", "tiny.yaml", "nothing"), 2, "no stage called 'nothing'"),
        (("run", "tiny.yaml", "--set", "stages.sft.x=1"), 2, "--set stages.sft.x=1: stages.sft.x: unknown key"),
        (("run", "tiny.yaml", "--force", "nothing"), 2, "no stage called 'nothing'"),
        (("run", "tiny.yaml", "--registry", "tiny.yaml"), 2, "is not a directory"),
        (("run", "tiny.yaml", "--wandb", "maybe"), 2, "'maybe'"),
        (("rum",), 2, "Did you mean 'run'"),
        (("run",), 2, "RECIPE"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(
    here: Path, run_align: Align, arguments: tuple[str, ...], exit_code: int, said: str
) -> None:
    result = run_align(*arguments)
    assert result.exit_code == exit_code
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not (here / "registry").exists()


def test_a_refused_run_prints_no_plan(here: Path, run_align: Align) -> None:
    (here / "rows.jsonl").write_text("", encoding="utf-8")
    result = run_align("run", "tiny.yaml")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "rows.jsonl: none of 0 rows left" in result.stderr


def test_debug_shows_the_traceback(here: Path, run_align: Align) -> None:
    assert "Traceback" in run_align("check", "nothing.yaml", "--debug").stderr


def test_ctrl_c_outside_a_stage_is_no_traceback(here: Path, run_align: Align, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_print_plan", interrupted)
    result = run_align("run", "tiny.yaml")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; run the same command again to resume\n  align run tiny.yaml\n"
