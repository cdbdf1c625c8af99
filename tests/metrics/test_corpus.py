from __future__ import annotations

import math

import numpy as np
import pytest
import sacrebleu

from align.metrics import corpus
from align.metrics.diversity import ngrams, words

TEXTS = ["the cat sat on the mat", "the dog sat", "a bird sang in the old tree", "the cat sat", ""]
REFERENCES = ["the cat sat on a mat", "the dog sat down", "a bird sang in a tree", "a cat sat", "nothing"]


def plain_distinct(texts: list[str], n: int) -> float:
    grams = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def plain_bleu(predictions: list[str], references: list[str]) -> float:
    return float(sacrebleu.corpus_bleu(predictions, [references]).score)


def test_values_are_those_of_the_plain_metrics():
    units = range(len(TEXTS))
    for n in (1, 2):
        assert corpus.distinct(TEXTS, n, units).value == plain_distinct(TEXTS, n)
    assert corpus.bleu(TEXTS, REFERENCES, units).value == pytest.approx(plain_bleu(TEXTS, REFERENCES))
    assert corpus.perplexity([2.0, 4.0], [3, 3], [0, 1]).value == pytest.approx(math.e)


def test_distinct_counts_over_the_corpus_and_bleu_is_of_the_whole_corpus():
    assert corpus.distinct(["a b c", "A, b d."], 2, [0, 1]).value == pytest.approx(3 / 4)
    assert corpus.distinct(["a", ""], 2, [0, 1]).value == 0.0
    texts = ["the cat sat on the mat today", "it rained all day long in town"]
    assert corpus.bleu(texts, texts, [0, 1]).value == pytest.approx(100)
    assert corpus.bleu(["something else entirely was said"] * 2, texts, [0, 1]).value < 5


def test_each_unit_is_really_left_out():
    units = ["a", "b", "c", "b", "d"]
    for left_out, without in zip("abcd", corpus.distinct(TEXTS, 2, units).without, strict=True):
        rest = [text for text, unit in zip(TEXTS, units, strict=True) if unit != left_out]
        assert without == pytest.approx(plain_distinct(rest, 2))
    found = corpus.bleu(TEXTS, REFERENCES, range(len(TEXTS))).without
    for index, without in enumerate(found):
        kept = [place for place in range(len(TEXTS)) if place != index]
        expected = plain_bleu([TEXTS[place] for place in kept], [REFERENCES[place] for place in kept])
        assert without == pytest.approx(expected)


def test_the_interval_is_that_of_a_mean_where_the_metric_is_one():
    losses = np.random.default_rng(0).normal(2, 0.01, 400)
    interval = corpus.perplexity(losses.tolist(), [1] * 400, range(400)).interval()
    error = 1.96 * losses.std(ddof=1) / 20 * math.exp(2)
    assert interval.high - interval.value == pytest.approx(error, rel=0.02)
    assert interval.n == 400


def test_one_unit_has_an_interval_of_no_width_and_equal_corpora_differ_in_nothing():
    one = corpus.distinct(["a b a b"], 1, [0]).interval()
    assert (one.low, one.value, one.high, one.n) == (0.5, 0.5, 0.5, 1)
    whole = corpus.distinct(TEXTS, 1, range(len(TEXTS)))
    difference = whole.minus(whole).interval()
    assert (difference.low, difference.value, difference.high) == (0, 0, 0)


def test_an_interval_passes_no_bound():
    distinct = corpus.distinct(["a b c", "d e f", "a b g"], 2, [0, 1, 2]).interval()
    assert 0 <= distinct.low < distinct.value < distinct.high == 1
