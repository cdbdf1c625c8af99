from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data import templates
from align.errors import UsageError

COLUMN = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


@settings(deadline=None)
@given(st.dictionaries(COLUMN, st.text(), min_size=1), st.text(alphabet=st.characters(exclude_characters="{}")))
def test_values_stand_between_literals_untouched_even_with_braces_in_them(row, literal):
    template = literal.join(f"{{{column}}}" for column in row)
    assert templates.columns(template) == list(row)
    assert templates.render(template, row) == literal.join(row.values())


@settings(deadline=None)
@given(st.text())
def test_text_without_a_column_stands_for_itself(text):
    if not templates.columns(text):
        assert templates.render(text, {}) == text


def test_braces_that_name_no_column_are_literal():
    assert templates.render('{} {"json": 1} {{text}} {', {"text": "x"}) == '{} {"json": 1} {x} {'


def test_dots_reach_into_objects_and_lists():
    row = {"prompt": {"text": "hello", "scores": [{"toxicity": 0.5}]}, "a.b": "literal"}
    assert templates.render("{prompt.text}/{prompt.scores.0.toxicity}/{a.b}", row) == "hello/0.5/literal"


@pytest.mark.parametrize("row", [{}, {"a": None}, {"a": {"b": None}}, {"a": {}}, {"a": "no object"}, {"a": []}])
def test_null_and_missing_columns_render_as_none(row):
    assert templates.render("text: {a.b}", row) is None


def test_a_number_that_is_none_is_no_text():
    assert templates.render("{text}", {"text": float("nan")}) is None


def test_zero_and_false_are_not_null():
    assert templates.render("{zero} {no}", {"zero": 0, "no": False}) == "0 False"


def test_an_object_or_list_is_no_text_and_the_error_says_how_to_go_on():
    with pytest.raises(UsageError, match=r"\{messages\.0\}"):
        templates.render("{messages}", {"messages": ["hi"]})
    with pytest.raises(UsageError, match=r"\{prompt\.text\}"):
        templates.render("{prompt}", {"prompt": {"text": "hi"}})
