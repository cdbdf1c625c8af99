"""A bare sequence classifier, as scripts for TRL hand it over, as a reward model that reads text."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from align.errors import UsageError
from align.modeling.trunk import unwrapped
from reward_models import CheckedModel, RewardError, checked
from reward_models.classifier import Classifier, most_tokens
from reward_models.reading import Reading


def as_reward(model: Any, tokenizer: PreTrainedTokenizerBase) -> CheckedModel:
    """A `RewardModel` or callable as it is; a module of transformers with `tokenizer` put before it.

    Such a module scores prompt and response, closed with EOS: text that is encoded anew, never the policy's tokens.

    Raises:
        UsageError: a module whose score is not one number, or whose vocabulary is smaller than the tokenizer's.
    """
    if not isinstance(model, nn.Module) or inspect.ismethod(getattr(model, "score", None)):
        try:
            return checked(model)
        except RewardError as error:
            raise UsageError(f"reward_model: {error}") from error
    inner = unwrapped(model)
    name = f"reward_model ({type(inner).__name__})"
    if getattr(inner, "get_output_embeddings", lambda: None)() is not None:
        raise UsageError(f"{name} is a language model: a reward is a sequence classifier, a RewardModel or a function")
    if getattr(getattr(inner, "config", None), "num_labels", 1) != 1:
        raise UsageError(
            f"{name} has {inner.config.num_labels} labels, and which one is good cannot be guessed: "
            'pass reward_models.load(directory, label="...") instead, which also uses its own tokenizer'
        )
    vocabulary = inner.get_input_embeddings().weight.shape[0]
    if vocabulary < tokenizer.vocab_size:
        raise UsageError(
            f"{name} knows {vocabulary} tokens, but processing_class has {tokenizer.vocab_size}: it was trained with "
            "another tokenizer. Pass reward_models.load(directory) instead, which uses its own"
        )
    # Every text ends with EOS, so that any other token can fill up short rows: the script's may have no embedding.
    inner.config.pad_token_id = 0 if tokenizer.eos_token_id != 0 else 1
    classifier = Classifier(
        name,
        model,
        copy.deepcopy(tokenizer),
        Reading(label="reward", index=0, transform="logit", sign=1, independent=True),
        input="prompt_and_response",
        max_length=most_tokens(inner, tokenizer),
        append_eos=True,
    )
    return checked(classifier)
