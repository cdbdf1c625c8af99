from __future__ import annotations

import sys

import pytest

from align import progress


def test_plain_lines_every_tenth_with_the_latest_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.track("sft", 600, initial=120) as advance:
        for step in range(480):
            advance(loss=1.5 - step / 480)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert len(lines) == 8
    assert lines[0].startswith("sft  180/600  30 %  loss 1.377  ETA 0:0")
    assert lines[-1].startswith("sft  600/600  100 %  loss 0.5021  took 0:0")


def test_a_line_is_due_after_some_seconds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 4.0, 3720.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.track("ppo", 1000) as advance:
        advance()
        advance()
    assert capsys.readouterr().err == "ppo  2/1000  0 %  ETA 515:38:00\n"


def test_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.track("sft", 2) as advance:
        advance(2, loss=0.25)
    assert "sft" in capsys.readouterr().err
