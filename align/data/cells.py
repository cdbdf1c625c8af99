"""What stands in a cell of a row, whichever format it was read from."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from align.errors import UsageError


def number(value: Any) -> float | None:
    """A cell as a number; None for null, an empty cell and NaN. Raises ValueError for anything else."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        parsed = float(value)
    except TypeError as error:
        raise ValueError(f"{value!r} is not a number") from error
    return None if math.isnan(parsed) else parsed


def is_empty(value: Any) -> bool:
    """Whether nothing stands in a cell: null, no character but spaces, NaN."""
    blank = isinstance(value, str) and not value.strip()
    return value is None or blank or (isinstance(value, float) and math.isnan(value))


def spelled(value: Any) -> str:
    """A cell as a recipe writes it, whichever format it came from: `1.0` is "1", `True` is "true"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if text in ("True", "False"):
        return text.lower()
    return text[: text.index(".")] if re.fullmatch(r"-?\d+\.0+", text) else text


def require_encodable(texts: Sequence[str], place: str) -> None:
    """Refuse half a surrogate pair, which JSON may spell: no tokenizer takes it, and no file of UTF-8.

    Raises:
        UsageError: a text holds one.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{place}: a text holds half a character (a lone surrogate) at {error.start}: {text[:40]!a}…; repair it"
            ) from error


def normalised(text: str) -> str:
    """Case-folded letters alone: what is compared to find duplicates."""
    return text.casefold().translate(_LETTERS) or text.strip()  # a text without any letter is its own key


class _LettersOnly(dict[int, int | None]):
    """Filled as characters are met. Marks count as letters: Indic vowels are marks."""

    def __missing__(self, character: int) -> int | None:
        self[character] = character if unicodedata.category(chr(character))[0] in "LM" else None
        return self[character]


_LETTERS = _LettersOnly()
