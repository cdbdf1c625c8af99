"""Words and phrases found in texts of any script."""

from __future__ import annotations

import re
import unicodedata

_UNSPACED = ("\u0e00-\u0eff", "\u1000-\u109f", "\u1780-\u17ff")
"""Thai and Lao, Burmese, Khmer; wide characters (Chinese, Japanese, Korean) are known by their width."""


def pattern(phrase: str) -> str:
    """A regular expression that finds a phrase, but not within longer words.

    Scripts without spaces have none of these, and no word begins or ends at a mark; all white space is alike.
    """
    words = phrase.split()
    before = r"(?<!\w)" if _in_a_word(words[0][0]) else ""
    after = r"(?!\w)" if _in_a_word(words[-1][-1]) else ""
    return before + r"\s+".join(map(re.escape, words)) + after


def _in_a_word(character: str) -> bool:
    unspaced = unicodedata.east_asian_width(character) in "WF" or re.match(f"[{''.join(_UNSPACED)}]", character)
    return not unspaced and re.match(r"\w", character) is not None
