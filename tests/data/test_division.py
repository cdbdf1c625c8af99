"""What is set aside shares nothing with what is kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from align.data import division


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab")), max_size=60),
    st.one_of(st.none(), st.integers(1, 4)),
)
def test_what_is_set_aside_shares_nothing_with_what_is_kept(rows: list[tuple[int, str]], most: int | None) -> None:
    kept, aside = division.set_aside(rows, lambda row: row[0], lambda row: row[1], most=most, seed=1)
    assert sorted(kept + aside) == sorted(rows)
    assert not {unit for unit, _ in kept} & {unit for unit, _ in aside}
    assert most is None or len({unit for unit, _ in aside}) <= most
    assert len({unit for unit, _ in rows}) < 4 or aside
    assert not rows or kept


def test_of_rows_that_all_differ_the_first_tenth_of_each_label_is_set_aside() -> None:
    rows = [(number, "ab"[number % 4 == 0]) for number in range(80)]
    kept, aside = division.set_aside(rows, lambda row: row[0], lambda row: row[1])
    assert aside == [row for row in rows if row[1] == "a"][:6] + [row for row in rows if row[1] == "b"][:2]
    assert kept == [row for row in rows if row[1] == "a"][6:] + [row for row in rows if row[1] == "b"][2:]
