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
            RewardError: a reference of which ROUGE reads less than half, or fewer words than it compares at a time: any
                response would score 0, or what the rest of it earns.
        """
        for reference in references or []:
            if problem := self.unreadable(reference):
                raise RewardError(f"{self.name}: {problem}")
        return [
            float(self._scorer.score(reference, response)[METRICS[self._metric]].fmeasure)
            for response, reference in zip(responses, references or [], strict=True)
        ]

    def unreadable(self, reference: str) -> str | None:
        """Why responses cannot be compared with a reference; None where they can."""
        known = re.findall("[a-z0-9]+", reference.lower())
        if not known or 2 * sum(map(len, known)) < sum(map(str.isalnum, reference)):
            found = "few" if known else "none"
            return f"ROUGE reads the letters a-z and digits alone, and finds {found} in {reference!r}"
        if self._metric == "rouge_2" and len(known) < 2:
            return (
                f"rouge_2 compares two words at a time, and {reference!r} has one: any response would score 0. Leave "
                "such rows out, or take rouge_l"
            )
        return None

    def describe(self) -> dict[str, Any]:
        """The metric."""
        return {"kind": "overlap", "metric": self._metric, "range": [0.0, 1.0]}
