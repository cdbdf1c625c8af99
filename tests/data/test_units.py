from __future__ import annotations

from align.data.units import units_of


def test_prompts_are_units_where_there_are_many() -> None:
    alone = [*range(40)]
    assert units_of([f"p{row // 2}" for row in alone]) == [f"p{row // 2}" for row in alone]
    assert units_of(["Rate this text."] * 40) == alone
    assert units_of([""] * 40) == alone
    assert units_of(["", *(f"p{row}" for row in alone[1:])])[:2] == [0, "p1"]
    assert units_of(["a", "a", "b"], fewest=2) == ["a", "a", "b"]
    assert units_of(["a", "a"], fewest=2) == [0, 1]
    assert units_of(["Rate this.", "Rate this."], ["x", "x"]) == [("Rate this.", "x")] * 2
