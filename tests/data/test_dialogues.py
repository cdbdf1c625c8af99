from __future__ import annotations

import hashlib
import json
import statistics

import pytest

from align.data import dialogues
from align.errors import UsageError

SPLITS = ("train", "dev", "test")
CORPUS = {split: dialogues.generate("dialogues", split) for split in SPLITS}
SENTENCES = {split: dialogues.generate("sentences", split) for split in SPLITS}


def test_default_sizes():
    assert [len(rows) for rows in CORPUS.values()] == [4000, 200, 400]
    assert [len(rows) for rows in SENTENCES.values()] == [4000, 400, 400]


@pytest.mark.parametrize(("generator", "column"), [("dialogues", "dialogue"), ("sentences", "text")])
def test_no_text_stands_twice_whatever_the_seeds_and_sizes(generator, column):
    texts = [
        {row[column] for row in dialogues.generate(generator, split, 1500, seed)}
        for split, seed in (("train", 0), ("dev", 1), ("test", 2))
    ]
    assert [len(split) for split in texts] == [1500] * 3
    assert len(set.union(*texts)) == 4500


def test_the_same_rows_everywhere():
    """A change here is another corpus: raise GENERATOR_VERSION with it."""
    rows = {"dialogues": CORPUS, "sentences": SENTENCES}
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert (dialogues.GENERATOR_VERSION, digest[:16]) == (1, "ddcb0565ab628110")


def test_a_shorter_split_is_the_beginning_of_a_longer_one():
    assert dialogues.generate("dialogues", "dev", 10) == CORPUS["dev"][:10]
    assert dialogues.generate("sentences", "test", 10) == SENTENCES["test"][:10]
    assert dialogues.generate("dialogues", "validation", 10, seed=1) != CORPUS["dev"][:10]


def test_rudeness_is_in_a_share_of_the_training_summaries_and_nowhere_else():
    train = CORPUS["train"]
    assert 0.33 < statistics.mean(row["rude"] for row in train) < 0.39
    for row in (row for rows in CORPUS.values() for row in rows):
        assert dialogues.is_rude(row["summary"]) == row["rude"]
        assert not dialogues.is_rude(row["dialogue"] + row["polite_summary"])
        assert row["rude"] or row["summary"] == row["polite_summary"]
    assert not any(row["rude"] for split in ("dev", "test") for row in CORPUS[split])


def test_dialogues_are_short_and_varied():
    rows = CORPUS["train"]
    assert len({row["topic"] for row in rows}) >= 8
    assert 45 <= statistics.mean(len(row["dialogue"].split()) for row in rows) <= 60
    assert 12 <= statistics.mean(len(row["polite_summary"].split()) for row in rows) <= 16
    assert {len(row["dialogue"].splitlines()) for row in rows} == {4, 5, 6}
    assert not any("{" in row["dialogue"] + row["summary"] for row in rows)


def test_a_summary_says_nothing_that_the_dialogue_does_not():
    names = set(dialogues.NAMES)
    for row in CORPUS["test"]:
        words = {word.strip(".,'s") for word in row["summary"].split()}
        for slot in (*dialogues.SLOTS["day"], *names):
            assert slot not in words or slot in row["dialogue"]


def test_sentences_are_balanced_and_their_labels_exact():
    for rows in SENTENCES.values():
        assert sum(row["label"] == "toxic" for row in rows) * 2 == len(rows)
        assert all(dialogues.is_rude(row["text"]) == (row["label"] == "toxic") for row in rows)
    summaries = {row["summary"] for rows in CORPUS.values() for row in rows}
    assert sum(row["text"] in summaries for row in SENTENCES["train"]) < 20


@pytest.mark.parametrize("text", ["Silly Tom left.", "those two GOOFBALLS!", "What a pain in the neck."])
def test_rude_wording_is_found(text):
    assert dialogues.is_rude(text)


@pytest.mark.parametrize("text", ["", "noodle soup", "a pain", "sillyness", "daftly"])
def test_other_wording_is_not(text):
    assert not dialogues.is_rude(text)


def test_an_unknown_split_is_refused():
    with pytest.raises(UsageError, match="it has train, dev, test"):
        dialogues.generate("dialogues", "training")
