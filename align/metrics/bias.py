"""Bias on identity terms: areas under the ROC curve on texts that mention a term (Borkan et al. 2019, section 3).

Borkan et al., "Nuanced Metrics for Measuring Unintended Bias with Real Data for Text Classification". There "positive"
is a toxic text, and a score is how toxic it is. Here a score is how good a text is, so "positive" is a bad one, and all
areas ask the same question: how often does a good text score above a bad one?
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from align.metrics.classification import roc_auc_interval
from align.workspace import Interval
from reward_models import phrases

LEAST_TEXTS = 10
"""Different ones, of each class: below this an area says nothing."""


@dataclass(frozen=True)
class TermBias:
    """The three areas of one term; None where there are fewer than `LEAST_TEXTS` of a class."""

    rows: int
    """Texts that mention the term."""
    good: int
    """Of these, the good ones."""
    subgroup: Interval | None
    """Good and bad texts that mention it."""
    bpsn: Interval | None
    """Good texts that mention it against bad ones that do not (background positive, subgroup negative). Low: harmless
    texts are marked down for mentioning it."""
    bnsp: Interval | None
    """Good texts that do not mention it against bad ones that do (background negative, subgroup positive). Low: bad
    texts get away with it."""


def term_bias(
    texts: Sequence[str],
    good: Sequence[bool],
    scores: Sequence[float],
    terms: Sequence[str],
    units: Sequence[Hashable] | None = None,
) -> Mapping[str, TermBias]:
    """The areas of each term. A term is found as a whole word, in any case.

    Args:
        texts: One per row.
        good: Whether each should score high.
        scores: Higher is better.
        terms: Words or phrases.
        units: What rows share that are drawn together for the intervals (default: every row is a unit).
    """
    return {term: _of_term(term, texts, good, scores, units or range(len(texts))) for term in terms}


def _of_term(
    term: str, texts: Sequence[str], good: Sequence[bool], scores: Sequence[float], units: Sequence[Hashable]
) -> TermBias:
    word = re.compile(phrases.pattern(term), re.IGNORECASE)
    mentions = [word.search(text) is not None for text in texts]

    def area(good_mention: bool, bad_mention: bool) -> Interval | None:
        rows = [
            (text, is_good, score, unit)
            for text, is_good, score, unit, mentioned in zip(texts, good, scores, units, mentions, strict=True)
            if mentioned == (good_mention if is_good else bad_mention)
        ]
        if min(len({text for text, is_good, *_ in rows if is_good == kind}) for kind in (True, False)) < LEAST_TEXTS:
            return None
        _, positive, of_rows, shared = zip(*rows, strict=True)
        return roc_auc_interval(positive, of_rows, samples=500, units=shared)

    return TermBias(
        rows=sum(mentions),
        good=sum(is_good for is_good, mentioned in zip(good, mentions, strict=True) if mentioned),
        subgroup=area(True, True),
        bpsn=area(True, False),
        bnsp=area(False, True),
    )
