"""How much of a reference's wording a text shares: ROUGE text by text, BLEU over a whole corpus."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

_NAMES = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l", "rougeLsum": "rouge_lsum"}
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def rouge(predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
    """ROUGE F-measures with Porter stemming, as `rouge_score` computes them.

    ROUGE-Lsum looks sentence by sentence; sentences are told apart by their punctuation, since texts rarely hold the
    line breaks that `rouge_score` expects (without them it would equal ROUGE-L). Only words of ASCII letters and digits
    count: for other scripts ROUGE says nothing.

    Returns:
        Per text: rouge_1, rouge_2, rouge_l and rouge_lsum, each from 0 to 1.
    """
    from rouge_score.rouge_scorer import RougeScorer  # brings nltk: half a second

    _require_pairs(predictions, references)
    scorer = RougeScorer(list(_NAMES), tokenizer=_StemmingTokenizer())
    scored = []
    for prediction, reference in zip(predictions, references, strict=True):
        scores = scorer.score(_sentences_on_lines(reference), _sentences_on_lines(prediction))
        scored.append({name: float(scores[theirs].fmeasure) for theirs, name in _NAMES.items()})
    return scored


def bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU from 0 to 100, with sacrebleu's default tokenizer. No mean of sentences: it has no value per text."""
    import sacrebleu

    _require_pairs(predictions, references)
    return float(sacrebleu.corpus_bleu(list(predictions), [list(references)]).score)


class _StemmingTokenizer:
    """That of `rouge_score` with `use_stemmer`, remembering stems: finding them is more than half of the work."""

    def __init__(self) -> None:
        from rouge_score import tokenize, tokenizers

        self._tokenize = tokenize.tokenize
        self.stem = cache(tokenizers.porter.PorterStemmer().stem)

    def tokenize(self, text: str) -> list[str]:
        return list(self._tokenize(text, self))


def _sentences_on_lines(text: str) -> str:
    return _SENTENCE_END.sub("\n", text.strip())


def _require_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
