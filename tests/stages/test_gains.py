from __future__ import annotations

from pathlib import Path

import pytest

from align.metrics.overoptimization import Curve
from align.stages import gains


def _evaluations(peak: float) -> list[dict[str, float]]:
    judge = Curve("rl", 1.0, 1.0 / peak)
    return [
        {
            "eval/objective/kl": distance**2,
            "eval/objective/scores": 2 + distance,
            "eval/judge/scores": 1 + (judge.gain(distance) if distance else 0.0),
        }
        for distance in (0.0, 1.0, 2.0, 3.0)
    ]


def test_points_and_curves_are_gains_over_the_distance() -> None:
    axes = gains.figure(_evaluations(2.0)).axes[0]
    reward, reward_curve, judge, judge_curve = axes.lines
    assert [line.get_label() for line in (reward, judge)] == ["reward", "judge"]
    curve = Curve("rl", 1.0, 0.5)
    for points, of in ((reward, lambda distance: distance), (judge, curve.gain)):
        assert list(points.get_xdata()) == [0.0, 1.0, 2.0, 3.0]
        assert list(points.get_ydata()) == pytest.approx([0.0, of(1.0), of(2.0), of(3.0)])
    for line, of in ((reward_curve, lambda distance: distance), (judge_curve, curve.gain)):
        assert (min(line.get_xdata()), max(line.get_xdata())) == pytest.approx((0.03, 3.0))
        assert list(line.get_ydata()) == pytest.approx([of(distance) for distance in line.get_xdata()])
    assert "KL" in axes.get_xlabel()
    assert "gain" in axes.get_ylabel()


def test_a_run_that_was_evaluated_once_has_points_and_no_curve(tmp_path: Path) -> None:
    assert len(gains.figure(_evaluations(1.0)[:1]).axes[0].lines) == 2
    gains.draw(_evaluations(1.0)[:1], tmp_path / "gains.png")
    assert (tmp_path / "gains.png").read_bytes().startswith(b"\x89PNG")
