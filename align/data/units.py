"""What counts once: rows of one prompt tell less than as many rows of different prompts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

_FEWEST_PROMPTS = 20


def are_units(prompts: Sequence[str]) -> bool:
    """Whether rows of one prompt tell less than as many of different prompts. Fewer than twenty different prompts are
    taken for instructions before texts rather than for a sample of prompts."""
    return len(set(prompts)) >= _FEWEST_PROMPTS


def units_of(prompts: Sequence[str], fewest: int = _FEWEST_PROMPTS) -> list[Hashable]:
    """The unit of each row: its prompt, which it may share with others; or the row itself, where it has no prompt or
    there are fewer than `fewest` different ones."""
    shared = len(set(prompts)) >= fewest
    return [prompt if shared and prompt else row for row, prompt in enumerate(prompts)]
