"""Which number a classifier's score is: one label of its own, by name, through a transform of the logits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from reward_models.base import RewardError
from reward_models.options import Transform, renamed, score_range


@dataclass(frozen=True)
class Reading:
    """Which number is read from a classifier's logits. Under another name it is the same number."""

    label: str = field(compare=False)
    index: int
    """Of the label among the logits."""
    transform: Transform
    sign: int
    independent: bool
    """The logits are separate yes/no questions (one logit, or multi-label) rather than one choice among them."""

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """[texts, labels] -> [texts], float64.

        `log_odds` is the label's logit minus the log-sum-exp of all others: the log of p / (1 - p).
        """
        logits = logits.double()
        logit = logits[:, self.index]
        if self.transform == "logit":
            return self.sign * logit
        if self.independent:
            log_odds = logit
        else:
            others = [index for index in range(logits.shape[1]) if index != self.index]
            log_odds = logit - logits[:, others].logsumexp(dim=1)
        if self.transform == "probability":
            return self.sign * log_odds.sigmoid()
        if self.transform == "log_probability":
            return self.sign * F.logsigmoid(log_odds)
        return self.sign * log_odds

    def range(self) -> list[float | None]:
        """The lowest and the highest score there can be; None where there is no bound."""
        return score_range(self.transform, self.sign)


def reading(name: str, config: Any, options: Mapping[str, Any]) -> Reading:
    """The reading that options (`label`, `names`, `transform`, `sign`) ask of a model with this configuration.

    Raises:
        RewardError: there is no such label, labels have no names, or the outputs are no choice.
    """
    regression = config.problem_type == "regression"
    transform = options.get("transform", "logit" if regression else "log_odds")
    if regression and transform != "logit":
        raise RewardError(
            f"reward model {name}: it is a regression, whose numbers are no logits of a choice: say transform: logit, "
            f"not {transform}"
        )
    label, index = _chosen_label(name, config.id2label, options.get("label"), options.get("names") or {})
    return Reading(
        label=label,
        index=index,
        transform=transform,
        sign=options.get("sign", 1),
        independent=config.num_labels == 1 or config.problem_type == "multi_label_classification",
    )


def _chosen_label(
    name: str, id2label: Mapping[int, str], label: str | None, names: Mapping[str | int, str]
) -> tuple[str, int]:
    """The label that is scored, and its place among the logits."""
    labels = {int(index): str(found) for index, found in id2label.items()}
    if sorted(labels) != [*range(len(labels))]:
        raise RewardError(
            f"reward model {name}: the id2label of its config.json must number its labels from 0, but has "
            f"{', '.join(map(str, sorted(labels)))}"
        )
    unknown = [key for key in names if str(key) not in {*map(str, labels), *labels.values()}]
    if unknown:
        raise RewardError(f"reward model {name}: `names` renames {unknown[0]!r}, but its labels are {_listed(labels)}")
    labels = renamed(labels, names)
    if len(labels) > 1 and any(re.fullmatch(r"LABEL_\d+", found) for found in labels.values()):
        raise RewardError(
            f"reward model {name}: its labels have no names ({_listed(labels)}). Say what they mean, from the model's "
            "card, as in names: {LABEL_0: nontoxic, LABEL_1: toxic}"
        )
    if label is None:
        if len(labels) == 1:
            return labels[0], 0
        raise RewardError(f"reward model {name}: which label is scored? Set `label:` to one of {_listed(labels)}")
    matches = [index for index, found in labels.items() if found.casefold() == label.casefold()]
    if len(matches) != 1:
        problem = "more than one label" if matches else "no label"
        raise RewardError(f"reward model {name} has {problem} {label!r}; its labels are {_listed(labels)}")
    return labels[matches[0]], matches[0]


def _listed(labels: Mapping[int, str]) -> str:
    return ", ".join(labels[index] for index in sorted(labels))
