"""DATA on the command line: a file, or what a recipe calls a data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.errors import UsageError
from align.rewards import data


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("text,label,question\nhello,1,who\n,0,what\nbye,,when\n", encoding="utf-8")
    return path


def test_a_path_and_a_mapping(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", str(file.parent))
    everything = data.select(str(file))
    assert len(everything[0]) == 3
    assert data.select("{path: '${env:HERE}/rows.csv'}") == everything
    rows, _ = data.select(f"{{dataset: {{path: '{file}'}}, where: {{label: '1'}}}}")
    assert [row["text"] for row in rows] == ["hello"]


def test_texts_prompts_and_labels(file: Path) -> None:
    rows, place = data.select(str(file))
    found = data.texts(rows, place, prompt="Q: {question}")
    assert (found.responses, found.prompts) == (["hello", "bye"], ["Q: who", "Q: when"])  # none in the second row
    labelled, values = data.labels(found, "label")
    assert (labelled.responses, values) == (["hello"], ["1"])
    assert data.texts(rows, place, "{question}").prompts == ["", "", ""]


def test_the_space_around_a_text_is_no_part_of_it() -> None:
    assert data.texts([{"text": " a b\n"}], "rows").responses == ["a b"]


def test_a_template_without_a_column_is_none(file: Path) -> None:
    rows, place = data.select(str(file))
    with pytest.raises(UsageError, match=r"--response 'text' names no column: write it in braces, as in '\{text\}'"):
        data.texts(rows, place, "text")
    with pytest.raises(UsageError, match="--rejected 'question' names no column"):
        data.pairs(rows, place, chosen="{text}", rejected="question")


def test_pairs_that_lack_a_response_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("chosen,rejected\nyes,no\nyes,\n ,no\n", encoding="utf-8")
    assert data.pairs(*data.select(str(path))).numbers == [1]


def test_columns_with_signs_in_their_names(tmp_path: Path) -> None:
    path = tmp_path / "signs.csv"
    path.write_text("text/en,text (de)\nyes,ja\n", encoding="utf-8")
    assert data.texts(*data.select(str(path)), "{text/en} {text (de)}").responses == ["yes ja"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing.csv", "data file nothing.csv does not exist"),
        ("rows.parquet", "data files are .jsonl, .json, .csv"),
        ("{paht: x.csv}", "DATA: dataset"),
        ("{path: ", "DATA is not YAML"),
        ("{path: '${env:NO_SUCH_VARIABLE}/x.csv'}", "the environment has no NO_SUCH_VARIABLE"),
    ],
)
def test_what_is_no_data_is_said(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        data.select(text)
    assert message in str(caught.value)


def test_references_reach_the_model() -> None:
    rows = [{"response": "a", "reference": "b"}, {"response": "c", "reference": None}]
    found = data.texts(rows, "x")
    assert (found.responses, found.references) == (["a", "c"], ["b", ""])  # an unrelated column may be called so
    assert data.texts(rows, "x", reference="{reference}").responses == ["a"]
    assert data.texts(rows, "x", reference="= {response}").references == ["= a", "= c"]


def test_only_rows_with_a_reference_are_compared(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "align")
    rows = [{"response": "a", "reference": "b"}, {"response": "c", "reference": ""}, {"response": "d"}]
    found = data.with_references(data.texts(rows, "x"))
    assert (found.responses, found.references, found.numbers) == (["a"], ["b"], [1])
    assert caplog.messages == ["x: 2 of 3 rows left out, without a reference"]
    pairs = [{"chosen": "a", "rejected": "b"}, {"chosen": "c", "rejected": "d", "reference": "e"}]
    assert data.with_references(data.pairs(pairs, "x")).chosen == ["c"]
    with pytest.raises(UsageError, match="x: no row has a reference"):
        data.with_references(data.texts(rows[1:], "x"))


def test_half_a_character_is_refused_with_its_place() -> None:
    with pytest.raises(UsageError, match="x: a text holds half a character"):
        data.texts([{"response": "a \ud800 b"}], "x")
    with pytest.raises(UsageError, match="x: a text holds half a character"):
        data.pairs([{"chosen": "a", "rejected": "\udfff"}], "x")


def test_labels_are_read_without_space_around_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "align")
    rows = [{"text": text, "label": label} for text, label in zip("abcd", ("nice ", "nice", " ", "rude"), strict=True)]
    found, values = data.labels(data.texts(rows, "x"), "label")
    assert (found.responses, values) == (["a", "b", "d"], ["nice", "nice", "rude"])
    assert data.good([*values, "nan"], "label", {"label": "nice"}) == [True, True, False, False]
    assert "column 'label': 'nan', 'rude' should score low" in caplog.messages


def test_an_unknown_text_column_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"x has no column response or text .*, but tweet, label: say which"):
        data.texts([{"tweet": "a", "label": 1}], "x")


def test_pairs_are_read_without_the_space_around_them_as_in_training() -> None:
    pairs = data.pairs([{"prompt": "p\n", "chosen": " a\n", "rejected": " b"}], "x")
    assert (pairs.prompts, pairs.chosen, pairs.rejected) == (["p\n"], ["a"], ["b"])
