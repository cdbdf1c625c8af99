"""Value models: what reads the expected return from a hidden state."""

from __future__ import annotations

from typing import Any

from torch import nn

from align.errors import UsageError
from align.modeling.trunk import unwrapped


def new_head(trunk: Any) -> nn.Linear:
    """A value head for a trunk's hidden states that starts at 0 everywhere: it knows nothing, and disturbs nothing."""
    head = nn.Linear(trunk.get_input_embeddings().weight.shape[1], 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def head_of(value_model: nn.Module) -> nn.Module:
    """The head of a sequence classifier with one label: `score` of decoder-only models, `classification_head` of T5
    and BART.

    Raises:
        UsageError: it has another number of labels, or no head that reads one hidden state.
    """
    inner = unwrapped(value_model)
    head: nn.Module | None = getattr(inner, "score", None) or getattr(inner, "classification_head", None)
    if head is None or inner.config.num_labels != 1:
        raise UsageError(
            f"value_model {type(inner).__name__} cannot be a critic: it needs to be a decoder-only or encoder-decoder "
            f"sequence classifier with num_labels=1 (it has {inner.config.num_labels}). Leave value_model out for a "
            "value head on the policy's own trunk"
        )
    return head
