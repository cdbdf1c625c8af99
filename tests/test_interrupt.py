from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

import reward_models
from align import interrupt
from align.errors import Interrupted


def test_first_signal_only_sets_a_flag_which_is_gone_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interrupt.guarded():
        assert interrupt.requested() is None
        interrupt.raise_if_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested() == signal.SIGTERM
        with pytest.raises(Interrupted, match="interrupted by SIGTERM; all is saved") as raised:
            interrupt.raise_if_requested("all is saved")
        assert raised.value.exit_code == 143
    assert interrupt.requested() is None
    assert signal.getsignal(signal.SIGTERM) is before


def test_second_signal_leaves_at_once() -> None:
    program = """
import os, signal
from align import interrupt
with interrupt.guarded():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert ended.stdout == ""
    assert "finishing this step and saving a checkpoint" in ended.stderr
    assert "quit now; run the same command to resume from the last checkpoint" in ended.stderr


def test_a_signal_at_the_very_end_shows_no_traceback() -> None:
    program = """
import atexit, os, signal, sys
from align.cli import app
from align.cli.commands import Command

@app.command(cls=Command)
def stopped():
    raise KeyboardInterrupt

atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
sys.argv = ["align", "stopped"]
app()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert ended.stderr.rstrip() == "interrupted; run the same command again to resume\n  align stopped"


def test_workers_do_not_repeat_what_the_terminal_sends_to_all_of_them() -> None:
    program = """
import os, signal
from align import interrupt
with interrupt.guarded():
    if not os.fork():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.write(1, b"goes on; ")
        os.kill(os.getpid(), signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.wait()[1]), interrupt.requested())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("goes on; 143 None\n", "")


def test_sigterm_outside_a_stage_ends_in_order() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="interrupted by SIGTERM") as raised, interrupt.terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert raised.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_within_a_reward_model_is_no_failure_of_the_model() -> None:
    def score(prompts: list[str], responses: list[str]) -> list[float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return [1.0 for _ in responses]

    with pytest.raises(Interrupted, match="interrupted by SIGTERM"), interrupt.terminable():
        reward_models.load(score).score(["p"], ["r"])


def test_other_threads_are_left_alone() -> None:
    seen: list[int | None] = []

    def work() -> None:
        with interrupt.guarded():
            seen.append(interrupt.requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
