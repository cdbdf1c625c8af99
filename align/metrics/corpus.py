"""Metrics of a corpus as a whole that are no means over its texts, with jackknife intervals.

The bootstrap will not do here: a resample holds some texts twice, and a text said twice is exactly what distinct-n
counts. The jackknife leaves one unit out at a time instead (Efron & Stein 1981); two corpora of answers to the same
prompts are compared by leaving out the same prompt in both.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from align.metrics.diversity import ngrams, words
from align.workspace import Interval

_NORMAL_95 = 1.96

Numbers = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class CorpusMetric:
    """A metric of all units, and of all but each one."""

    value: float
    without: Numbers
    """[units]"""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """What it can be, and its interval does not pass."""

    def interval(self) -> Interval:
        """The value with its 95 % interval; one unit alone gives an interval of no width."""
        n = len(self.without)
        error = float(np.sqrt((n - 1) / n * np.square(self.without - self.without.mean()).sum()))
        low, high = np.clip((self.value - _NORMAL_95 * error, self.value + _NORMAL_95 * error), *self.bounds)
        return Interval(self.value, float(low), float(high), n)

    def minus(self, other: CorpusMetric) -> CorpusMetric:
        """The difference from a corpus of the same units."""
        return CorpusMetric(self.value - other.value, self.without - other.without)


def distinct(texts: Sequence[str], n: int, units: Sequence[Hashable]) -> CorpusMetric:
    """Distinct-n: different n-grams of words over all of them, 0 where there are none.

    It falls as a corpus grows: compare corpora of equally many texts.
    """
    grams = _by_unit([ngrams(words(text), n) for text in texts], units)
    per_unit = [Counter(gram for text in unit for gram in text) for unit in grams]
    holders = Counter(gram for unit in per_unit for gram in unit)
    only_here = np.array([sum(holders[gram] == 1 for gram in unit) for unit in per_unit], dtype=np.float64)
    sizes = np.array([unit.total() for unit in per_unit], dtype=np.float64)
    different, total = float(len(holders)), sizes.sum()
    rest = total - sizes
    without = np.divide(different - only_here, rest, out=np.zeros_like(rest), where=rest > 0)
    return CorpusMetric(different / total if total else 0.0, without, bounds=(0.0, 1.0))


def bleu(predictions: Sequence[str], references: Sequence[str], units: Sequence[Hashable]) -> CorpusMetric:
    """Corpus BLEU from 0 to 100, with sacrebleu's default tokenizer. No mean of sentences: it has no value per text."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU()
    # sacrebleu's own sufficient statistics of a text: lengths, and matches and totals of each n-gram order.
    statistics = metric._extract_corpus_statistics(list(predictions), [list(references)])
    return _of_sums(statistics, units, lambda sums: float(metric._compute_score_from_stats(list(map(int, sums))).score))


def perplexity(
    negative_log_likelihoods: Sequence[float], tokens: Sequence[int], units: Sequence[Hashable]
) -> CorpusMetric:
    """exp of the mean negative log-likelihood per token, from sums in nats and numbers of tokens per text."""
    statistics = list(zip(negative_log_likelihoods, tokens, strict=True))
    return _of_sums(statistics, units, lambda sums: float(np.exp(sums[0] / sums[1])))


def _of_sums(
    statistics: Sequence[Sequence[float]], units: Sequence[Hashable], metric: Callable[[Numbers], float]
) -> CorpusMetric:
    """A metric of statistics [texts, k] that add up over texts."""
    sums = np.array([np.sum(unit, axis=0) for unit in _by_unit(statistics, units)], dtype=np.float64)
    total = sums.sum(0)
    value = metric(total)
    # With one unit nothing would be left.
    without = [metric(total - one) for one in sums] if len(sums) > 1 else [value]
    return CorpusMetric(value, np.array(without, dtype=np.float64))


def _by_unit(values: Sequence[T], units: Sequence[Hashable]) -> list[list[T]]:
    grouped: dict[Hashable, list[T]] = {}
    for unit, value in zip(units, values, strict=True):
        grouped.setdefault(unit, []).append(value)
    return list(grouped.values())
