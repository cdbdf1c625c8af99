from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from align.metrics import diversity


def test_repetition_is_within_a_text():
    assert diversity.repetition("the cat sat on the mat") == 0.0
    assert diversity.repetition("no no no no no") == pytest.approx(2 / 3)
    assert diversity.repetition("too short") == 0.0


@settings(deadline=None)
@example([0] + [1] * 9, 4)
@given(st.lists(st.integers(0, 3)), st.integers(1, 4))
def test_repeated_share_is_a_share_and_of_a_doubled_text_at_least_near_half(tokens, n):
    assert 0 <= diversity.repeated_share(tokens, n) < 1
    if len(tokens) >= n:  # Of its 2L - n + 1 runs at most L differ: one from each place of the first half.
        every = 2 * len(tokens) - n + 1
        assert diversity.repeated_share(tokens * 2, n) >= 1 - len(tokens) / every - 1e-12


def test_words_keep_their_apostrophes_and_no_other_punctuation():
    assert diversity.words("Don't stop, Tom's cat!") == ["don't", "stop", "tom's", "cat"]
