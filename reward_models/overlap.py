"""How much of a reference's wording a response shares: `{model: overlap, metric: rouge_l}`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from reward_models.base import RewardError

METRICS = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


class Overlap:
    """The ROUGE F-measure with Porter stemming, from 0 to 1. Every prompt must come with a reference, in English or
    another language of Latin letters: ROUGE reads a-z and digits, and nothing else."""

    needs_references = True

    def __init__(self, metric: str = "rouge_l", name: str = "overlap") -> None:
        if metric not in METRICS:
            raise RewardError(f"overlap: {metric!r} is not one of {', '.join(METRICS)}")
        from rouge_score.rouge_scorer import RougeScorer  # brings nltk: half a second

        self.name = name
        self._metric = metric
        self._scorer = RougeScorer([METRICS[metric]], use_stemmer=True)

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
    ) -> list[float]:
        """One F-measure per response.

        Raises:
            RewardError: a reference without a word that ROUGE knows: any response would score 0.
        """
        if unknown := next((one for one in references or [] if not re.search("[a-z0-9]", one.lower())), None):
            raise RewardError(
                f"{self.name}: ROUGE reads the letters a-z and digits alone, and finds none in {unknown!r}"
            )
        return [
            float(self._scorer.score(reference, response)[METRICS[self._metric]].fmeasure)
            for response, reference in zip(responses, references or [], strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """The metric."""
        return {"kind": "overlap", "metric": self._metric, "range": [0.0, 1.0]}
