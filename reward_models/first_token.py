"""Encoders whose head reads the first token alone: of the last layer, nothing else need be computed.

What follows attention in a layer works on each position by itself. To cut its input down to the first position changes
no score, and spares three quarters of that layer: a quarter of three layers, an eighth of six.
"""

from __future__ import annotations

from typing import Any

import torch

MODEL_TYPES = ("bert", "camembert", "electra", "roberta", "xlm-roberta")
"""Of transformers, those whose sequence classifiers are made so."""


def compute_alone(model: Any) -> None:
    """Make the last layer of a sequence classifier compute its first position only, if that is all its head reads.

    In training as well, gradients are those of the whole layer. `hidden_states` are no longer those of all tokens.
    """
    if model.config.model_type in MODEL_TYPES:
        model.base_model.encoder.layer[-1].attention.output.register_forward_pre_hook(_first_position)


def _first_position(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The output of attention and the residual, both [texts, tokens, width] -> [texts, 1, width].

    Contiguous, as torch would otherwise copy the next layer's weights once for each text.
    """
    return tuple(one[:, :1].contiguous() for one in given)
