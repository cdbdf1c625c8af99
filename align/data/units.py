"""What counts once: rows of one prompt, or of one text, tell less than as many different ones."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

_FEWEST_PROMPTS = 20


def are_units(prompts: Sequence[str]) -> bool:
    """Whether rows of one prompt tell less than as many of different prompts. Fewer than twenty different prompts are
    taken for instructions before texts rather than for a sample of prompts."""
    return len(set(prompts)) >= _FEWEST_PROMPTS


def units_of(
    prompts: Sequence[str], contents: Sequence[Hashable] | None = None, fewest: int = _FEWEST_PROMPTS
) -> list[Hashable]:
    """The unit of each row: its prompt, which it may share with others; or, where it has none or there are fewer than
    `fewest` different ones, what it holds besides (default: every row is its own unit, as of responses drawn alike)."""
    shared = len(set(prompts)) >= fewest
    own = range(len(prompts)) if contents is None else zip(prompts, contents, strict=True)
    return [prompt if shared and prompt else one for prompt, one in zip(prompts, own, strict=True)]
