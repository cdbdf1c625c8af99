"""Texts to score, and prompts for them."""

from __future__ import annotations

import pytest

TEXTS = [
    "yes",
    "",
    "You are kind, and I thank you for it.",
    "No.",
    "Anna and Ben meet at the old station at noon, then walk to the market together.",
    "a b c d e f g",
    "You are kind, and I thank you for it. " * 3,
    "Was it </s> or <pad> that you said?",
]
PROMPTS = [f"Summarize conversation {number}:" for number in range(len(TEXTS))]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    return PROMPTS
