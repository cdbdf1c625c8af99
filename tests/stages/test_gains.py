from __future__ import annotations

from pathlib import Path

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


def test_the_same_evaluations_give_the_same_picture_and_others_another(tmp_path: Path) -> None:
    for name, peak in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        gains.draw(_evaluations(peak), tmp_path / f"{name}.png")
    first, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == again != other


def test_a_run_that_was_evaluated_once_has_points_and_no_curve(tmp_path: Path) -> None:
    gains.draw(_evaluations(1.0)[:1], tmp_path / "gains.png")
    assert (tmp_path / "gains.png").read_bytes().startswith(b"\x89PNG")
