from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

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
    assert "stopping after this step" in ended.stderr


def test_other_threads_are_left_alone() -> None:
    seen: list[int | None] = []

    def work() -> None:
        with interrupt.guarded():
            seen.append(interrupt.requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
