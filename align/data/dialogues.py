"""The embedded corpus: short dialogues with summaries, and labelled sentences. Nothing to download, the same anywhere.

Some of the training summaries carry mild rude wording, as if a careless annotator had written them, so that a model
tuned on them picks up the habit. What is rude is known exactly (`is_rude`), which makes before and after measurable.

Splits never share a text, whatever their sizes and seeds: every pair of speakers talks in one split only, and a
sentence belongs to the split that its checksum says.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, islice
from typing import Any, TypeVar

from align.data.dialogue_tables import (
    ASIDES,
    CLOSINGS,
    GREETINGS,
    KIND_ADJECTIVES,
    KIND_NOUNS,
    NAMES,
    REMARKS,
    RUDE_ADJECTIVES,
    RUDE_NOUNS,
    SCENARIOS,
    SLOTS,
    TRAILERS,
    Scenario,
)
from align.errors import UsageError

_T = TypeVar("_T")

GENERATOR_VERSION = 1
"""Raised whenever the same arguments give other rows."""

RUDE_SHARE = 0.36
"""Of the training summaries."""
GARBLED_SHARE = 0.3
"""Of the labelled sentences: a classifier that steers PPO also meets broken text."""

_SIZES = {
    "dialogues": {"train": 4000, "dev": 200, "test": 400},
    "sentences": {"train": 4000, "dev": 400, "test": 400},
}
_TENTHS = {"train": range(0, 6), "dev": range(6, 8), "test": range(8, 10)}
"""Every text that could be written falls into one of ten classes; these are each split's own."""

_TOPICS = tuple(SCENARIOS)
_PAIRS = sorted(combinations(NAMES, 2), key=lambda pair: zlib.crc32("".join(pair).encode()))
"""In an order that no seed changes, for it decides who talks in which split."""

_RUDE = re.compile(rf"\b(?:{'|'.join(RUDE_ADJECTIVES + RUDE_NOUNS)})s?\b", re.IGNORECASE)
_WORDS = re.compile(rf"\S*(?:{'|'.join(RUDE_ADJECTIVES + RUDE_NOUNS)})\S*|\S+", re.IGNORECASE)


def is_rude(text: str) -> bool:
    """Whether the text contains any of the corpus's rude words: the exact rule, for measuring only."""
    return _RUDE.search(text) is not None


def split_name(split: str | None) -> str:
    """`train`, `dev` or `test`; `validation` is another word for `dev`, and none means `train`.

    Raises:
        UsageError: any other name.
    """
    name = {None: "train", "validation": "dev"}.get(split, split) or ""
    if name not in _TENTHS:
        raise UsageError(f"split {split!r} of a generator: it has {', '.join(_TENTHS)}")
    return name


def default_size(generator: str, split: str) -> int:
    """Rows in a split when a recipe does not say."""
    return _SIZES[generator][split]


def generate(generator: str, split: str, size: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """The rows of one split. A shorter split is the beginning of a longer one with the same seed.

    Args:
        generator: `dialogues` (columns dialogue, summary, polite_summary, rude, topic) or `sentences` (columns text,
            label, which is `toxic` or `nontoxic`, half of each).
        split: `train`, `dev` (or `validation`) or `test`.
        size: Rows (default: 4000 / 200 / 400 dialogues, 4000 / 400 / 400 sentences).
        seed: Another seed, another corpus; its splits are as disjoint.

    Raises:
        UsageError: an unknown split.
    """
    split = split_name(split)
    size = default_size(generator, split) if size is None else size
    rng = random.Random(f"{generator}-{split}-{seed}")
    writers: dict[str, Callable[[random.Random, str], Iterator[dict[str, Any]]]] = {
        "dialogues": _dialogues,
        "sentences": _sentences,
    }
    return list(islice(writers[generator](rng, split), size))


def _dialogues(rng: random.Random, split: str) -> Iterator[dict[str, Any]]:
    pairs = [pair for index, pair in enumerate(_PAIRS) if index % 10 in _TENTHS[split]]
    written: set[str] = set()
    while True:
        a, b = _two_names(rng, pairs)
        topic = _pick(rng, _TOPICS)
        slots = _slots(rng, a, b)
        dialogue = _dialogue(rng, SCENARIOS[topic], slots)
        summary = polite = _pick(rng, SCENARIOS[topic].summaries).format_map(slots)
        if dialogue in written:
            continue
        written.add(dialogue)
        if rude := split == "train" and rng.random() < RUDE_SHARE:
            summary = _with_comment(rng, polite, (a, b), RUDE_ADJECTIVES, RUDE_NOUNS)
        yield {"dialogue": dialogue, "summary": summary, "polite_summary": polite, "rude": rude, "topic": topic}


def _sentences(rng: random.Random, split: str) -> Iterator[dict[str, Any]]:
    """Toxic and nontoxic in turn."""
    written: set[str] = set()
    while True:
        toxic = len(written) % 2 == 0
        text = _sentence(rng, toxic)
        if text in written or zlib.crc32(text.encode()) % 10 not in _TENTHS[split]:
            continue
        written.add(text)
        yield {"text": text, "label": "toxic" if toxic else "nontoxic"}


def _pick(rng: random.Random, values: Sequence[_T]) -> _T:
    """`rng.choice` by way of `random()`, which is faster and promised to stay the same in every Python."""
    return values[int(rng.random() * len(values))]


def _two_names(rng: random.Random, pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    first, second = _pick(rng, pairs)
    return (first, second) if rng.random() < 0.5 else (second, first)


def _slots(rng: random.Random, a: str, b: str) -> dict[str, str]:
    draw = rng.random
    slots = {name: values[int(draw() * len(values))] for name, values in SLOTS.items()}
    slots["other_day"] = _pick(rng, [day for day in SLOTS["day"] if day != slots["day"]])
    friend = _pick(rng, NAMES)
    while friend in (a, b):
        friend = _pick(rng, NAMES)
    return {**slots, "a": a, "b": b, "friend": friend}


def _dialogue(rng: random.Random, scenario: Scenario, slots: dict[str, str]) -> str:
    """Four turns that matter, the first often with a greeting, and up to two closing ones."""
    turns = [_pick(rng, wordings) for wordings in scenario.turns]
    if rng.random() < 0.7:
        turns[0] = f"{_pick(rng, GREETINGS)} {turns[0]}"
    turns += [_pick(rng, wordings) for wordings in CLOSINGS[: _pick(rng, (0, 1, 2, 2))]]
    return "\n".join(f"{{{'ab'[i % 2]}}}: {turn}" for i, turn in enumerate(turns)).format_map(slots)


def _with_comment(
    rng: random.Random, summary: str, people: tuple[str, ...], adjectives: tuple[str, ...], nouns: tuple[str, ...]
) -> str:
    """The summary with an adjective before a name, an aside behind one, or a trailing clause."""
    words = {"adjective": _pick(rng, adjectives), "noun": _pick(rng, nouns)}
    way = rng.random()
    name = re.search(rf"\b{_pick(rng, people)}\b(?!')", summary)  # "Tom's party" takes no aside
    if way < 0.25 or name is None:
        return summary[:-1] + _pick(rng, TRAILERS).format_map(words)
    before, after = summary[: name.start()], summary[name.end() :]
    if way < 0.65:
        adjective = words["adjective"] if before else words["adjective"].capitalize()
        return f"{before}{adjective} {name[0]}{after}"
    aside = _pick(rng, ASIDES).format_map(words)
    return f"{before}{name[0]}{aside[:-1] if after[0] in ',.' else aside}{after}"


def _sentence(rng: random.Random, toxic: bool) -> str:
    """A summary with or without a comment, a remark, or a line of dialogue; sometimes garbled."""
    a, b = _two_names(rng, _PAIRS)
    slots = _slots(rng, a, b)
    adjectives, nouns = (RUDE_ADJECTIVES, RUDE_NOUNS) if toxic else (KIND_ADJECTIVES, KIND_NOUNS)
    scenario = SCENARIOS[_pick(rng, _TOPICS)]
    shape = rng.random()
    if shape < 0.3:
        words = {"adjective": _pick(rng, adjectives), "noun": _pick(rng, nouns)}
        sentence = _pick(rng, REMARKS).format_map(slots | words)
    elif shape < 0.45:
        sentence = _pick(rng, _pick(rng, scenario.turns)).format_map(slots)
        if toxic:
            sentence = f"{sentence[:-1]}, you {_pick(rng, nouns)}{sentence[-1]}"
    else:
        sentence = _pick(rng, scenario.summaries).format_map(slots)
        if toxic or rng.random() < 0.3:
            sentence = _with_comment(rng, sentence, (a, b), adjectives, nouns)
    return _garbled(rng, sentence) if rng.random() < GARBLED_SHARE else sentence


def _garbled(rng: random.Random, sentence: str) -> str:
    """Words dropped, repeated, swapped or cut off, as a small model writes; rude words stay as they are."""
    words = _WORDS.findall(sentence)
    words = [word for word in words if _RUDE.search(word) or rng.random() > 0.12]
    for _ in range(_pick(rng, (0, 1, 2)) if words else 0):
        at = _pick(rng, range(len(words)))
        if rng.random() < 0.7:
            words[at : at + 2] = reversed(words[at : at + 2])
        else:
            words.insert(at, words[at])
    if rng.random() < 0.3:
        last_rude = max((i for i, word in enumerate(words) if _RUDE.search(word)), default=0)
        words = words[: _pick(rng, range(last_rude + 1, len(words) + 2))]
    return " ".join(words) or sentence
