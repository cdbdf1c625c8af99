"""Models of preference: one number, whose differences are log-odds of being preferred (Bradley and Terry, 1952).

Any sequence classifier of one logit that was trained on chosen and rejected responses, as TRL's `RewardTrainer` leaves
it. It is read as a classifier is, but prompt and response together: as turns of its tokenizer's chat template, or where
there is none, as one text that the end-of-text token closes.
"""

from __future__ import annotations

from typing import Any

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


def is_preference(config: Any) -> bool:
    """Whether a model's configuration is that of one logit that is not named for anything else."""
    return config.num_labels == 1 and [*config.id2label.values()] in ([LABEL], ["LABEL_0"])
