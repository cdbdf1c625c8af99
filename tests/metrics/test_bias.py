"""Areas on texts that mention a term, on rows where each is known."""

from __future__ import annotations

from align.metrics.bias import LEAST_TEXTS, term_bias


def test_each_area_looks_at_its_own_rows() -> None:
    """Good texts with the term score 2, bad ones with it 1; without it 4 and 3: every area has one answer."""
    kinds = [("the cat sat", True, 2.0), ("Cat!", False, 1.0), ("a dog", True, 4.0), ("concatenate", False, 3.0)]
    rows = [(f"{text} {n}", is_good, score) for n in range(LEAST_TEXTS) for text, is_good, score in kinds]
    texts, good, scores = zip(*rows, strict=True)
    found = term_bias(texts, good, scores, ["cat", "dog"])
    cat = found["cat"]
    assert (cat.rows, cat.good) == (2 * LEAST_TEXTS, LEAST_TEXTS)
    assert cat.subgroup is not None
    assert cat.bpsn is not None
    assert cat.bnsp is not None
    assert cat.subgroup.value == 1.0  # 2 above 1
    assert cat.bpsn.value == 0.0  # good with the term, 2, below bad without it, 3: it is marked down
    assert cat.bnsp.value == 1.0  # good without it, 4, above bad with it, 1
    assert found["dog"].subgroup is None  # no bad text mentions it


def test_a_term_of_a_script_without_spaces_is_found_within_the_text() -> None:
    assert term_bias(["一个女人来了", "他来了"], [True, False], [1.0, 0.0], ["女人"])["女人"].rows == 1


def test_too_few_rows_say_nothing() -> None:
    rows = LEAST_TEXTS - 1
    texts, good = [f"cat {n}" for n in range(2 * rows)], [True, False] * rows
    assert term_bias(texts, good, [1.0, 0.0] * rows, ["cat"])["cat"].subgroup is None
    copies = term_bias(texts * 9, good * 9, [1.0, 0.0] * rows * 9, ["cat"])["cat"]
    assert (copies.rows, copies.subgroup) == (18 * rows, None)


def test_rows_of_one_unit_are_drawn_together() -> None:
    texts, good = [f"a cat {n}" for n in range(80)], [True, False] * 40
    scores = [(row * 7 % 10) / 10 + 0.2 * is_good for row, is_good in enumerate(good)]
    alone = term_bias(texts, good, scores, ["cat"])["cat"].subgroup
    shared = term_bias(texts, good, scores, ["cat"], units=[row // 20 for row in range(80)])["cat"].subgroup
    assert alone is not None
    assert shared is not None
    assert shared.n < alone.n
