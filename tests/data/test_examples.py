from __future__ import annotations

import json
import logging

import pytest

from align.configs.base import EvaluationData, InstructionData, LabelledData, PreferenceData, PromptData, TextData
from align.data import examples
from align.errors import UsageError


@pytest.fixture
def dataset(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"path": str(path)}

    return write


def test_each_kind_renders_its_templates(dataset):
    rows = dataset({"d": "hi", "s": "greeting"}, {"d": "bye", "s": "farewell"})
    assert examples.texts([TextData(dataset=rows, text="{d}: {s}")]) == ["hi: greeting", "bye: farewell"]
    assert examples.prompts([PromptData(dataset=rows, prompt="{d}\nSummary:")]) == ["hi\nSummary:", "bye\nSummary:"]
    instructions = examples.instructions([InstructionData(dataset=rows, prompt="{d}", completion=" {s}")])
    assert instructions == [examples.Instruction("hi", " greeting"), examples.Instruction("bye", " farewell")]
    evaluation = examples.evaluation(
        [
            EvaluationData(dataset=rows, prompt="{d}", reference="{s}", metrics=["rouge"], limit=1),
            EvaluationData(dataset=rows, prompt="{s}", limit=1),
        ]
    )
    assert evaluation == [
        examples.EvaluationExample("hi", "greeting", ("rouge",)),
        examples.EvaluationExample("greeting", None, None),
    ]


def test_rows_without_text_are_left_out_and_counted(dataset, caplog):
    rows = dataset(
        {"d": "hi", "s": None}, {"d": "hi"}, {"d": "hi", "s": " "}, {"d": None, "s": "x"}, {"d": "a", "s": "b"}
    )
    with caplog.at_level(logging.INFO):
        found = examples.instructions([InstructionData(dataset=rows, prompt="{d}", completion=" {s}")])
    assert found == [examples.Instruction("a", " b")]
    assert "4 of 5 rows left out" in caplog.text


def test_nothing_left_and_unknown_columns_are_errors(dataset):
    rows = dataset({"text": ""}, {"text": None})
    with pytest.raises(UsageError, match="none of 2 rows has text"):
        examples.texts([TextData(dataset=rows, text="{text}")])
    with pytest.raises(UsageError, match=r"no column 'txt'; did you mean 'text'"):
        examples.texts([TextData(dataset=rows, text="{txt}")])


def test_half_a_character_is_an_error(dataset):
    with pytest.raises(UsageError, match="lone surrogate"):
        examples.texts([TextData(dataset=dataset({"text": "bad \ud83d"}), text="{text}")])


@pytest.mark.parametrize("values", [(0, 1), ("0", "1"), (0.0, 1.0), ("0.0", "1.00"), (" 0", "1 "), (False, True)])
def test_labels_are_compared_by_spelling(dataset, values):
    rows = dataset(*({"text": "t", "label": value} for value in (*values, None, "", "  ", float("nan"))))
    names = {"0": "nothate", "1": "hate", "true": "hate", "False": "nothate"}
    found = examples.labelled([LabelledData(dataset=rows, text="{text}", label={"column": "label", "names": names})])
    assert [one.label for one in found] == ["nothate", "hate"]


def test_a_label_may_be_its_own_name_or_lie_beyond_a_threshold(dataset):
    rows = dataset(
        {"t": "a", "l": "good", "x": 0.5}, {"t": "b", "l": "bad", "x": "0.51"}, {"t": "c", "l": "bad", "x": None}
    )
    plain = LabelledData(dataset=rows, text="{t}", label={"column": "l"})
    assert [one.label for one in examples.labelled([plain])] == ["good", "bad", "bad"]
    cut = {"column": "x", "threshold": 0.5, "above": "toxic", "below": "nontoxic"}
    found = examples.labelled([LabelledData(dataset=rows, text="{t}", label=cut)])
    assert found == [examples.Labelled("a", "nontoxic"), examples.Labelled("b", "toxic")]


def test_labels_that_cannot_be_read_say_what_stands_there(dataset):
    rows = dataset({"t": "a", "l": "good"}, {"t": "b", "l": "ugly"}, {"t": "c", "l": None})
    unmapped = LabelledData(dataset=rows, text="{t}", label={"column": "l", "names": {"good": "g", "bad": "b"}})
    with pytest.raises(UsageError, match=r"no name for 'ugly' in column 'l'; the column holds: 'good', 'ugly'"):
        examples.labelled([unmapped])
    cut = LabelledData(dataset=rows, text="{t}", label={"column": "l", "threshold": 1, "above": "x", "below": "y"})
    with pytest.raises(UsageError, match="needs numbers for a threshold"):
        examples.labelled([cut])
    with pytest.raises(UsageError, match=r"no column 'label'"):
        examples.labelled([LabelledData(dataset=rows, text="{t}", label={"column": "label"})])


def test_several_labels_may_hold_of_a_text(dataset, caplog):
    rows = dataset(
        {"t": "a", "x": 0.9, "y": 0.6},
        {"t": "b", "x": "0.1", "y": 0.5},
        {"t": "c", "x": None, "y": 1},
        {"t": "d", "y": 1},
    )
    with caplog.at_level(logging.INFO):
        found = examples.multi_labelled([LabelledData(dataset=rows, text="{t}", labels={"rude": "x", "loud": "y"})])
    assert found == [examples.MultiLabelled("a", ("loud", "rude")), examples.MultiLabelled("b", ())]
    assert "2 rows without some label left out" in caplog.text
    words = dataset({"t": "a", "x": "very", "y": 1})
    with pytest.raises(UsageError, match="labels need numbers"):
        examples.multi_labelled([LabelledData(dataset=words, text="{t}", labels={"rude": "x", "loud": "y"})])


def test_the_space_around_a_text_is_not_learned(dataset):
    """The responses that are scored have none."""
    rows = dataset({"t": " a\n", "l": "good", "x": 1, "y": 0, "b": "\tb "})
    assert examples.labelled([LabelledData(dataset=rows, text="{t}", label={"column": "l"})])[0].text == "a"
    both = {"rude": "x", "loud": "y"}
    assert examples.multi_labelled([LabelledData(dataset=rows, text="{t}", labels=both)])[0].text == "a"
    [pair] = examples.preferences([PreferenceData(dataset=rows, chosen="{t}", rejected="{b}")])
    assert (pair.chosen, pair.rejected) == ("a", "b")


def test_data_has_one_kind_of_label(dataset):
    rows = dataset({"t": "a", "x": 1})
    for wrong in ({}, {"label": {"column": "x"}, "labels": {"a": "x", "b": "x"}}, {"labels": {"a": "x"}}):
        with pytest.raises(ValueError, match="label"):
            LabelledData(dataset=rows, text="{t}", **wrong)


def test_preferences_with_and_without_a_prompt(dataset):
    rows = dataset({"p": "Hi", "c": "yes", "r": "no"}, {"p": "Hm", "c": " ", "r": "no"})
    both = [PreferenceData(dataset=rows, prompt=prompt, chosen="{c}", rejected="{r}") for prompt in ("{p}", None)]
    assert examples.preferences(both) == [examples.Preference("Hi", "yes", "no"), examples.Preference("", "yes", "no")]
    with pytest.raises(UsageError, match="in 1 of 1 pairs the chosen and the rejected response are equal"):
        examples.preferences([PreferenceData(dataset=rows, chosen="{r}", rejected="{r} ", limit=1)])
