"""The sentence that says what changed."""

from __future__ import annotations

from typing import Any

import pytest

from align.cli.commands import readable
from align.cli.tables import sentence


def _interval(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


@pytest.mark.parametrize(
    ("metric", "before", "after", "difference", "said"),
    [
        ("toxicity", 0.3, 0.1, None, "toxicity 0.300 -> 0.100 (better)"),
        ("toxicity", 0.1, 0.3, None, "toxicity 0.100 -> 0.300 (worse)"),
        ("rouge_l", 0.4, 0.2, None, "ROUGE-L 0.400 -> 0.200 (worse)"),
        ("rouge_l", 0.4, 0.38, None, "ROUGE-L 0.400 -> 0.380 (no clear change)"),
        ("rouge_l", 0.4, 0.38, _interval(-0.02, 0.01), "ROUGE-L 0.400 -> 0.380 (worse)"),
        ("length", 40.0, 20.0, None, "length 40.0 -> 20.0"),
    ],
)
def test_a_change_counts_where_its_interval_says_so(
    metric: str, before: float, after: float, difference: Any, said: str
) -> None:
    models = {"sft": {metric: _interval(before, 0.05)}, "ppo": {metric: _interval(after, 0.05)}}
    assert sentence("ppo", "sft", models, {metric: difference}) == f"ppo against sft: {said}."


def test_plain_numbers_are_compared_without_a_verdict() -> None:
    models = {"sft": {"distinct_2": 0.5}, "ppo": {"distinct_2": 0.6}}
    assert sentence("ppo", "sft", models) == "ppo against sft: distinct-2 0.500 -> 0.600."
    assert sentence("ppo", "sft", {"sft": {}, "ppo": {}}) == "ppo against sft: nothing to compare."


@pytest.mark.parametrize(
    ("number", "said"), [(999, "999"), (999.6, "1 k"), (1_234_567, "1.23 M"), (999_600, "1 M"), (2.5e12, "2.5 T")]
)
def test_numbers_have_three_digits_and_a_unit(number: float, said: str) -> None:
    assert readable(number).strip() == said
