"""Which texts share a forward pass: padding costs what text costs, and every pass costs something by itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

_PASS = 1 / 16
"""What a pass costs by itself, of what a full one costs: measured on a CPU, where half or twice as much is as good."""


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of texts, shortest first; rows times the longest row is within the budget, or one row alone is not.

    Neighbours in length make groups, of which each is padded to its longest: so divided that all passes together cost
    least, by dynamic programming over the d different lengths, in O(d²).

    Args:
        lengths: tokens of each text, at least 1.
        batch_tokens: the most tokens of a pass, padding included.
    """
    counts = sorted(Counter(lengths).items())
    shorter = [0, *accumulate(count for _, count in counts)]  # how many texts come before each length

    def rows_of_a_pass(longest: int) -> int:
        return max(1, batch_tokens // longest)

    def cost(start: int, end: int) -> float:
        longest, rows = counts[end - 1][0], shorter[end] - shorter[start]
        return rows * longest + math.ceil(rows / rows_of_a_pass(longest)) * batch_tokens * _PASS

    least, begins = [0.0], [0]  # for the first `end` lengths: the least cost, and where the last group then begins
    for end in range(1, len(counts) + 1):
        total, start = min((least[start] + cost(start, end), start) for start in range(end))
        least.append(total)
        begins.append(start)

    groups: list[tuple[int, int]] = []
    end = len(counts)
    while end:
        groups.append((begins[end], end))
        end = begins[end]
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start, end in reversed(groups):
        rows = rows_of_a_pass(counts[end - 1][0])
        for first in range(shorter[start], shorter[end], rows):
            yield by_length[first : min(first + rows, shorter[end])]


def of_one_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """As `batches`, but with no padding at all: only texts of one length share a pass."""
    rows: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        rows.setdefault(length, []).append(index)
    for length, found in sorted(rows.items()):
        at_once = max(1, batch_tokens // length)
        for first in range(0, len(found), at_once):
            yield found[first : first + at_once]


def filled(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """As `batches`, for passes without padding: as many tokens as fit."""
    batch: list[int] = []
    held = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and held + lengths[index] > batch_tokens:
            yield batch
            batch, held = [], 0
        batch.append(index)
        held += lengths[index]
    if batch:
        yield batch
