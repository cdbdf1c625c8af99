"""Encoders whose head reads the first token alone: of the last layer, nothing else need be computed.

What follows attention in a layer works on each position by itself. To cut its input down to the first position changes
no score, and spares up to three quarters of that layer: a quarter of three layers, an eighth of six.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class _Cut(NamedTuple):
    layers: str
    """Where a body has its layers."""
    module: str
    """That of a layer whose input is cut, after attention. Not a linear one: adapters would add to what it was."""


_LIKE_BERT = _Cut("encoder.layer", "attention.output")
_CUTS = {
    **dict.fromkeys(("bert", "camembert", "deberta-v2", "electra", "roberta", "xlm-roberta"), _LIKE_BERT),
    "distilbert": _Cut("transformer.layer", "sa_layer_norm"),
    # What is made of the first position is added to all of them, as the others are not read.
    "modernbert": _Cut("layers", "mlp_norm"),
}
MODEL_TYPES = tuple(_CUTS)
"""Of transformers, those whose sequence classifiers are made so."""


def compute_alone(model: Any) -> None:
    """Make the last layer of a sequence classifier compute its first position only, if that is all its head reads.

    In training as well, gradients are those of the whole layer. `hidden_states` are no longer those of all tokens.
    """
    config = model.config
    cut = _CUTS.get(config.model_type)
    if cut and getattr(config, "classifier_pooling", "cls") == "cls":  # ModernBERT's may be the mean of all positions
        last = model.base_model.get_submodule(cut.layers)[-1]
        last.get_submodule(cut.module).register_forward_pre_hook(_first_position)


def _first_position(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The output of attention, and where there is one the residual: [texts, tokens, width] -> [texts, 1, width].

    Contiguous, as torch would otherwise copy the next layer's weights once for each text.
    """
    return tuple(one[:, :1].contiguous() for one in given)
