from __future__ import annotations

import csv
import json
import logging
import os
import random
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.configs.base import DatasetConfig, SelectionConfig
from align.data import sources
from align.errors import UsageError


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(path, **options):
    return sources.load_rows(DatasetConfig(path=str(path), **options))


ROWS = [{"text": "naïve \u2028 line", "n": 1}, {"text": 'quoted "text"\nin two lines', "n": 2}]


def test_the_three_formats_hold_the_same_rows(tmp_path):
    jsonl = tmp_path / "rows.jsonl"
    jsonl.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n", encoding="utf-8-sig")
    as_list = tmp_path / "rows.json"
    as_list.write_text(json.dumps(ROWS, indent=1), encoding="utf-8-sig")
    with (tmp_path / "rows.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["text", "n"])
        writer.writeheader()
        writer.writerows(ROWS)
    assert load(jsonl) == load(as_list) == ROWS
    assert load(tmp_path / "rows.csv") == [{"text": row["text"], "n": str(row["n"])} for row in ROWS]


def test_a_csv_field_may_be_large_and_the_limit_is_put_back(tmp_path):
    before = csv.field_size_limit()
    (tmp_path / "large.csv").write_text("text\n" + "x" * 300_000 + "\n")
    assert len(load(tmp_path / "large.csv")[0]["text"]) == 300_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.jsonl", b'{"a": 1}\n\n{"a": \n', r"bad\.jsonl:3: not JSON"),
        ("list.jsonl", b'{"a": 1}\n[1]\n', r"list\.jsonl:2: .* but is a list"),
        ("latin.jsonl", b'{"a": 1}\n{"a": "caf\xe9"}\n', r"latin\.jsonl:2: not UTF-8"),
        ("bad.json", b'[{"a": 1},\n {"a"}]', r"bad\.json:2: not JSON"),
        ("deep.jsonl", b'{"a": 1}\n' + b"[" * 100_000, r"deep\.jsonl:2: JSON that cannot be read: maximum recursion"),
        ("object.json", b'{"a": 1}', r"object\.json: must be a JSON list of objects, but is an object"),
        ("strings.json", b'[{"a": 1}, "b"]', r"strings\.json: element 2 .* but is a string"),
        ("short.csv", b"a,b\n1,2\n3\n", r"short\.csv:3: 1 fields, but the header has 2"),
        ("open.csv", b'a,b\n1,"2\n3,4\n', r"open\.csv:3: not CSV"),
        ("twice.csv", b"a,a\n1,2\n", r"twice\.csv:1: columns with the same name: a"),
        ("latin.csv", b"a\nok\ncaf\xe9\n", r"latin\.csv:3: not UTF-8"),
        ("rows.txt", b"a", r"data files are \.jsonl, \.json, \.csv"),
    ],
)
def test_a_malformed_file_is_an_error_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load(tmp_path / name)


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    (tmp_path / "dir.json").mkdir()
    with pytest.raises(UsageError, match=r"nowhere\.jsonl does not exist"):
        load(tmp_path / "nowhere.jsonl")
    with pytest.raises(UsageError, match=r"dir\.json is not a file"):
        load(tmp_path / "dir.json")


def test_duplicates_are_found_behind_case_punctuation_and_digits(tmp_path, caplog):
    texts = ["#Person1#: Hello!", "person2 hello", "Hello, Tom", "12", "13", None, None, "कि", "की"]
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    with caplog.at_level(logging.INFO):
        kept = [row["text"] for row in load(path, unique_by="{text}")]
    assert kept == ["#Person1#: Hello!", "Hello, Tom", "12", "13", None, None, "कि", "की"]
    assert "1 duplicate or excluded rows dropped, 8 left" in caplog.text


def test_excluded_rows_are_dropped_by_the_same_key(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", [{"text": "One."}, {"text": "Two."}, {"text": "Three."}])
    dev = write_jsonl(tmp_path / "dev.jsonl", [{"text": "two!"}])
    assert load(train, unique_by="{text}", exclude={"path": dev}) == [{"text": "One."}, {"text": "Three."}]


SIZES = st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 20), min_size=1, max_size=5)


@settings(deadline=None)
@given(SIZES, st.integers(0, 30), st.integers(0, 3), st.randoms(use_true_random=False))
def test_parts_are_disjoint_complete_and_deaf_to_the_order_of_their_names(parts, spare, seed, shuffler):
    rows = [{"id": index} for index in range(sum(parts.values()) + spare)]
    divided = sources.divide(rows, parts, seed, "rows")
    drawn = [row["id"] for part in divided.values() for row in part]
    assert len(drawn) == len(set(drawn)) == sum(parts.values())
    assert {name: len(part) for name, part in divided.items()} == parts
    names = list(parts)
    shuffler.shuffle(names)
    assert sources.divide(rows, {name: parts[name] for name in names}, seed, "rows") == divided


def test_parts_need_enough_rows():
    with pytest.raises(UsageError, match=r"few: parts need 12 rows \(train 8, judge 4\), but there are only 10"):
        sources.divide([{}] * 10, {"train": 8, "judge": 4}, 0, "few")


def test_a_part_is_drawn_from_all_over_the_rows(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"id": index} for index in range(1000)])
    dataset = DatasetConfig(path=path, parts={"a": 100, "b": 100}, seed=5)
    drawn = [row["id"] for row in sources.select(SelectionConfig(dataset=dataset, part="a"))]
    expected = list(range(1000))
    random.Random(5).shuffle(expected)
    assert drawn == expected[:100]


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"split": "dev"}, [1]),
        ({"rude": True}, [0, 3]),
        ({"rude": False}, [1]),
        ({"prompt.toxicity": {"min": 0.5}}, [0, 3]),
        ({"prompt.toxicity": {"min": 0.1, "max": 0.6}}, [0, 1]),
        ({"prompt.toxicity": 0.9}, [3]),
        ({"count": 3}, [0, 1]),
        ({"count": "3"}, [0, 1]),
        ({"rude": True, "count": 3}, [0]),
    ],
)
def test_where_keeps_what_fits(tmp_path, where, ids):
    rows = [
        {"id": 0, "split": "train", "rude": True, "prompt": {"toxicity": 0.6}, "count": 3},
        {"id": 1, "split": "dev", "rude": False, "prompt": {"toxicity": 0.1}, "count": "3"},
        {"id": 2, "split": None, "rude": None, "prompt": {"toxicity": None}, "count": ""},
        {"id": 3, "rude": "True", "prompt": {"toxicity": "0.9"}},
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    selection = SelectionConfig(dataset=DatasetConfig(path=path), where=where)
    assert [row["id"] for row in sources.select(selection)] == ids


def test_limit_takes_the_front_and_nothing_left_is_an_error(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"id": index, "topic": "trip"} for index in range(5)])
    dataset = DatasetConfig(path=path)
    assert [row["id"] for row in sources.select(SelectionConfig(dataset=dataset, limit=2))] == [0, 1]
    with pytest.raises(UsageError, match=r"none of 5 rows left with where: .*lunch"):
        sources.select(SelectionConfig(dataset=dataset, where={"topic": "lunch"}))
    with pytest.raises(UsageError, match=r"compares numbers, but a row holds 'trip'"):
        sources.select(SelectionConfig(dataset=dataset, where={"topic": {"min": 1}}))


@pytest.mark.parametrize(("column", "guess"), [("dialouge", "dialogue"), ("toxicity", "prompt.toxicity")])
def test_an_unknown_column_names_the_file_and_guesses(tmp_path, column, guess):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"dialogue": "hi", "prompt": {"toxicity": 0.1}}])
    with pytest.raises(UsageError, match=rf"rows\.jsonl has no column '{column}'; did you mean '{guess}'\?"):
        sources.select(SelectionConfig(dataset=DatasetConfig(path=path), where={column: "x"}))
    with pytest.raises(UsageError, match=f"no column '{column}'"):
        load(path, unique_by=f"{{{column}}}")


@pytest.mark.parametrize("mark", [";", "\t"])
def test_columns_that_no_commas_separate_are_recognized(tmp_path, mark):
    (tmp_path / "rows.csv").write_text(f"text{mark}label\na{mark}1\n")
    with pytest.raises(UsageError, match="has no column 'text': separate columns by commas, not by"):
        load(tmp_path / "rows.csv", unique_by="{text}")


def test_fingerprints_follow_content_not_paths(tmp_path):
    first = write_jsonl(tmp_path / "first.jsonl", [{"text": "one"}])
    second = write_jsonl(tmp_path / "second.jsonl", [{"text": "one"}])
    print_of = lambda path, **options: sources.fingerprint(DatasetConfig(path=path, **options))  # noqa: E731
    same = print_of(first)
    assert print_of(second) == same == print_of(first, seed=3)
    assert len({same, print_of(first, unique_by="{text}"), print_of(first, parts={"a": 1})}) == 3
    write_jsonl(tmp_path / "first.jsonl", [{"text": "two"}])
    assert print_of(first) != same
    assert print_of(second, unique_by="{text}", exclude={"path": first}) != print_of(
        second, unique_by="{text}", exclude={"path": second}
    )


def test_fingerprints_of_generators_follow_their_parameters():
    print_of = lambda **options: sources.fingerprint(DatasetConfig(generator="dialogues", **options))  # noqa: E731
    assert print_of() == print_of(split="train", size=4000)
    assert print_of(split="dev") == print_of(split="validation")
    assert len({print_of(), print_of(seed=1), print_of(size=10), print_of(split="dev")}) == 4


def test_a_generator_is_a_source_like_any_other():
    rows = sources.load_rows(DatasetConfig(generator="dialogues", split="validation", size=3))
    assert len(rows) == 3
    with pytest.raises(UsageError, match="it has train, dev, test"):
        sources.load_rows(DatasetConfig(generator="dialogues", split="valid"))


def test_rows_are_read_once_as_long_as_the_file_stays_the_same(tmp_path, caplog):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "one"}, {"text": "One!"}])
    with caplog.at_level(logging.INFO):
        first, second = (load(path, unique_by="{text}") for _ in range(2))
    assert first[0] is second[0]
    assert caplog.text.count("1 duplicate or excluded rows dropped") == 1
    first.clear()
    assert load(path, unique_by="{text}") == [{"text": "one"}]
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "another"}])
    assert load(path, unique_by="{text}") == [{"text": "another"}]


def test_a_hub_data_set_that_cannot_be_had_is_named_and_asked_for_once(monkeypatch):
    import datasets

    asked = []
    load_dataset = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: (asked.append(a), load_dataset(*a, **k))[1])
    started = time.monotonic()
    for split in ("train", "train", "test"):
        with pytest.raises(UsageError, match=rf"hub:nobody/nothing \({split}\): could not be loaded.*--set 'datasets"):
            sources.load_rows(DatasetConfig(hub="nobody/nothing", split=split))
    assert len(asked) == 2
    assert time.monotonic() - started < 20  # the libraries alone would try again for 25 s each


def test_a_hub_that_does_not_answer_is_not_waited_for():
    code = (
        "from align.data import sources; from align.configs.base import DatasetConfig\n"
        "import datasets, time; from huggingface_hub import constants\n"
        "started = time.monotonic()\n"
        "try: sources.load_rows(DatasetConfig(hub='nobody/nothing'))\n"
        "except Exception as error: assert 'could not be loaded' in str(error), error\n"
        "assert time.monotonic() - started < 10\n"
        "assert not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE"
    )
    refusing = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", code], check=False, text=True, env={**os.environ, **refusing})
    assert done.returncode == 0


def test_reading_local_data_imports_no_heavy_library():
    code = (
        "import sys; from align.data import checking, examples; from align.configs.base import *;"
        "examples.prompts([PromptData(dataset=DatasetConfig(generator='dialogues', size=2), prompt='{dialogue}')]);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'datasets', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_dialogues_are_cut_before_their_last_reply(tmp_path, caplog):
    rows = [
        {"chosen": "Q: a? A: no. Q: b? A: yes", "rejected": "Q: a? A: no. Q: b? A:  never "},
        {"chosen": "Q: a? A: x", "rejected": "Q: b? A: y"},
        {"chosen": "no marker", "rejected": "no marker"},
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    cut = {"marker": "A:", "columns": ["chosen", "rejected"]}
    with caplog.at_level(logging.INFO):
        found = load(path, last_reply=cut)
    assert found == [{"prompt": "Q: a? A: no. Q: b? A:", "chosen": "yes", "rejected": "never"}]
    assert "2 rows without one prompt left out" in caplog.text
    plain, other = DatasetConfig(path=path), DatasetConfig(path=path, last_reply=cut)
    assert sources.fingerprint(plain) != sources.fingerprint(other)
    with pytest.raises(UsageError, match="in none of 3 rows do chosen and rejected contain 'B:'"):
        load(path, last_reply={**cut, "marker": "B:"})
    with pytest.raises(UsageError, match="no column 'chose'; did you mean 'chosen'"):
        load(path, last_reply={**cut, "columns": ["chose"]})
