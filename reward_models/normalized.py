"""A reward model whose scores are shifted and scaled by frozen moments, so that several are of one scale.

    {model: toxicity, normalize: {mean: 1.3, std: 0.4}}
    {model: toxicity, normalize: samples.jsonl}

The second measures them once, when the model is loaded, on rows with `prompt` and `response` (and `reference`).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_models.base import CheckedModel, RewardError, is_number


class Normalized:
    """(score - mean) / std. The moments never move: the same text has the same score in every update and run."""

    def __init__(self, model: CheckedModel, normalize: Mapping[str, float] | str | Path | Sequence[Any]) -> None:
        """Freeze the moments.

        Args:
            model: what is normalised.
            normalize: `{mean, std}`; or a JSONL file or the rows themselves, to measure them on.
        """
        self.name = model.name
        self.needs_references = model.needs_references
        self.members = model.members()
        self._model = model
        if isinstance(normalize, Mapping):
            if normalize.keys() != {"mean", "std"} or not all(map(is_number, normalize.values())):
                raise RewardError(
                    f"{self.name}: normalize: {{mean: 0.3, std: 1.2}}, or a JSONL file, not {normalize!r}"
                )
            self._mean, self._std = float(normalize["mean"]), float(normalize["std"])
        else:
            self._mean, self._std = self._measured(_rows(self.name, normalize))
        if self._std <= 0:
            raise RewardError(f"{self.name}: normalize: the standard deviation is {self._std:g}, and must be above 0")

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
    ) -> list[float]:
        """One number per response."""
        return [(score - self._mean) / self._std for score in self._model.score(prompts, responses, references)]

    def components(self) -> dict[str, list[float]]:
        """Those of the model, as they are."""
        return self._model.components()

    def probes(self) -> list[tuple[str, str]]:
        """Those of the model."""
        return self._model.probes()

    def describe(self) -> dict[str, Any]:
        """The model's description, its range on the new scale, and the moments: of its own score, however often it is
        normalised."""
        described = self._model.describe()
        del described["digest"]
        low, high = described["range"] or (None, None)
        inner = described["normalize"] if isinstance(self._model._model, Normalized) else {"mean": 0.0, "std": 1.0}
        return {
            **described,
            "range": [None if end is None else (end - self._mean) / self._std for end in (low, high)],
            "normalize": {"mean": inner["mean"] + inner["std"] * self._mean, "std": inner["std"] * self._std},
            "of": self._model.describe()["digest"],
        }

    def _measured(self, rows: Sequence[Mapping[str, str]]) -> tuple[float, float]:
        prompts, responses = ([row[key] for row in rows] for key in ("prompt", "response"))
        references = [row["reference"] for row in rows] if all("reference" in row for row in rows) else None
        scores = self._model.score(prompts, responses, references)
        return statistics.fmean(scores), statistics.pstdev(scores)


def _rows(name: str, normalize: Any) -> list[dict[str, str]]:
    if isinstance(normalize, str | Path):
        try:
            lines = Path(normalize).expanduser().read_text(encoding="utf-8-sig").split("\n")  # texts may hold U+2028
            rows = [json.loads(line) for line in lines if line.strip()]
        except (OSError, ValueError) as error:
            raise RewardError(f"{name}: normalize: {normalize} cannot be read as JSONL: {error}") from error
    else:
        rows = list(normalize) if isinstance(normalize, Sequence) else []
    if len(rows) < 2 or not all(_is_row(row) for row in rows):
        raise RewardError(f"{name}: normalize needs two rows or more, each with `prompt` and `response`")
    return rows


def _is_row(row: Any) -> bool:
    return isinstance(row, Mapping) and all(isinstance(row.get(key), str) for key in ("prompt", "response"))
