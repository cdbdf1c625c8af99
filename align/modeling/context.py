"""How many tokens a language model can look at, and what lies beyond."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from align.errors import UsageError
from align.modeling.trunk import unwrapped

logger = logging.getLogger(__name__)


def context_of(model: Any) -> int | None:
    """Tokens that a model can look at: of prompt and response together, or of an encoder-decoder each. None: any."""
    config = unwrapped(model).config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None


def fits(model: Any, prompt_length: int, response_length: int) -> bool:
    """Whether a prompt and a response of so many tokens lie within the model's context."""
    context = context_of(model)
    if context is None:
        return True
    if unwrapped(model).config.is_encoder_decoder:
        return max(prompt_length, response_length) <= context
    return prompt_length + response_length <= context


def check_context(model: Any, lengths: Sequence[tuple[int, int]], remedy: str) -> None:
    """Look at prompts and responses before they are put to a model.

    Positions that are computed, as rotary ones are, go on beyond the context: then a warning says how many texts do.

    Args:
        model: any language model.
        lengths: tokens of each prompt and of its response.
        remedy: what a user can do about it.

    Raises:
        UsageError: some do not fit, and positions come from a table, which ends there.
    """
    beyond = [pair for pair in lengths if not fits(model, *pair)]
    if not beyond:
        return
    prompt, response = max(beyond, key=sum)
    said = (
        f"{len(beyond)} of {len(lengths)} prompts with their responses are longer than the model's context of "
        f"{context_of(model)} tokens, the longest with {prompt} and {response}"
    )
    if _has_table_of_positions(model):
        raise UsageError(f"{said}: {remedy}")
    logger.warning("%s. It has not learned what is that long; to leave it aside, %s", said, remedy)


def _has_table_of_positions(model: Any) -> bool:
    """Whether some embedding besides that of the tokens has a row for each position (GPT-2), or a few more (BART)."""
    inner = unwrapped(model)
    context, tokens = context_of(model) or 0, inner.get_input_embeddings()
    tables = [module for module in inner.modules() if isinstance(module, nn.Embedding) and module is not tokens]
    return any(0 <= table.num_embeddings - context <= 8 and table.weight is not tokens.weight for table in tables)
