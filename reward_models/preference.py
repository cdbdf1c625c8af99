"""Models of preference: one number, whose differences are log-odds of being preferred (Bradley and Terry, 1952).

Any sequence classifier of one logit that was trained on chosen and rejected responses, as TRL's `RewardTrainer` leaves
it. It is read as a classifier is, but prompt and response together: as turns of its tokenizer's chat template, or where
there is none, as one text that the end-of-text token closes.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from reward_models.classifier import Classifier
from reward_models.options import Input

LABEL = "preferred"
"""What the one label is called by the stage that trains such models."""


class Preference(Classifier):
    """A scalar head over prompt and response."""

    kind = "preference"

    @classmethod
    def usual_input(cls, tokenizer: Any) -> Input:
        """A chat, where the tokenizer knows what one looks like."""
        return "chat" if tokenizer.chat_template else "prompt_and_response"

    @classmethod
    def usually_closed(cls, config: Any) -> bool:
        """Always: the state of the last token is what the head reads."""
        return True


def is_preference(source: str, revision: str | None = None) -> bool:
    """Whether a directory or Hub repository holds a model of one logit that is not named for anything else."""
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        return config.num_labels == 1 and config.id2label[0] in (LABEL, "LABEL_0")
    except Exception:
        return False  # whoever loads it will say why
