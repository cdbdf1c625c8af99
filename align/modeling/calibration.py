"""Temperature scaling (Guo et al. 2017, section 4.2): one number that makes a classifier as sure as it is right."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

COLDEST, HOTTEST = 0.1, 20.0
"""Between which the temperature is sought."""


def by_chance(rows: int, classes: int) -> float:
    """The share of rows to count as labelled by chance, so that a few that are all right do not ask for endless
    confidence: as if every class had one more row (Platt 1999, section 2.2)."""
    return classes / (rows + classes)


def temperature(logits: Tensor, loss: Callable[[Tensor], Tensor]) -> float:
    """The number by which to divide `logits` so that `loss` of them is lowest.

    Golden-section search over its logarithm: cross entropy is convex in 1 / temperature, so there is one minimum.

    Args:
        logits: Of rows that were not trained on, any shape.
        loss: Their mean negative log-likelihood; takes logits in float64.
    """
    logits = logits.double()
    low, high = math.log(COLDEST), math.log(HOTTEST)
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if float(loss(logits / math.exp(left))) <= float(loss(logits / math.exp(right))):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


@torch.no_grad()
def divide_logits(model: PreTrainedModel, by: float) -> None:
    """Write a temperature into the weights of a sequence classifier: its last linear layer gives the logits."""
    final = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    if final.out_features != model.config.num_labels:
        raise ValueError(f"the last linear layer of {type(model).__name__} does not give its logits")
    for parameter in final.parameters():
        parameter.div_(by)
