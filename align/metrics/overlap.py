"""How much of a reference's wording a text shares: ROUGE, text by text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

_NAMES = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}


def rouge(predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
    """ROUGE F-measures with Porter stemming, as `rouge_score` computes them.

    Only words of ASCII letters and digits count: for other scripts ROUGE is meaningless.

    Returns:
        Per text: rouge_1, rouge_2 and rouge_l, each from 0 to 1.
    """
    from rouge_score.rouge_scorer import RougeScorer  # brings nltk: half a second

    _require_pairs(predictions, references)
    scorer = RougeScorer(list(_NAMES), tokenizer=_StemmingTokenizer())
    scored = []
    for prediction, reference in zip(predictions, references, strict=True):
        scores = scorer.score(reference, prediction)
        scored.append({name: float(scores[theirs].fmeasure) for theirs, name in _NAMES.items()})
    return scored


class _StemmingTokenizer:
    """That of `rouge_score` with `use_stemmer`, remembering stems: finding them is more than half of the work."""

    def __init__(self) -> None:
        from rouge_score import tokenize, tokenizers

        self._tokenize = tokenize.tokenize
        self.stem = cache(tokenizers.porter.PorterStemmer().stem)

    def tokenize(self, text: str) -> list[str]:
        return list(self._tokenize(text, self))


def _require_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
