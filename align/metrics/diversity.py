"""Whether texts say different things, or one thing again and again: the first signs of a collapsing policy."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def repetition(text: str, n: int = 3) -> float:
    """Share of the text's n-grams of words that stood in it before: 0 says nothing twice, towards 1 is a loop."""
    return repeated_share(words(text), n)


def repeated_share(tokens: Sequence[Hashable], n: int = 3) -> float:
    """`repetition` of any sequence, such as token ids. 0 where it is shorter than n."""
    grams = ngrams(tokens, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def ngrams(tokens: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """All runs of n neighbours, in order."""
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))
