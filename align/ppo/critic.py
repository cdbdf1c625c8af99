"""Value models: what reads the expected return from a hidden state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from align.errors import UsageError
from align.modeling.load import load_classifier, load_config
from align.modeling.trunk import unwrapped
from reward_models import RewardError
from reward_models.classifier import declaration
from reward_models.options import renamed
from reward_models.reading import reading


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
        labels = "" if head is None else f" (it has {inner.config.num_labels})"
        raise UsageError(
            f"value_model {type(inner).__name__} cannot be a critic: it needs to be a decoder-only or encoder-decoder "
            f"sequence classifier with num_labels=1{labels}. Leave value_model out for a value head on the policy's "
            "own trunk"
        )
    return head


def load_critic(directory: Path) -> PreTrainedModel:
    """A published classifier as a value model: what it says of each prefix is what its score of the text would be.

    Of two labels the head becomes one output: the log-odds of the label that the classifier declares as its reward, or
    its logit. Its sign and its moments are worked into the weights.

    Raises:
        UsageError: an encoder, which cannot judge a prefix; more than two labels, or two that may hold together; a
            transform that is not linear.
    """
    config = load_config(directory)
    labels = [label for _, label in sorted(config.id2label.items())]
    model = load_classifier(directory, labels, dropout=0.0)
    head = getattr(model, "score", None) or getattr(getattr(model, "classification_head", None), "out_proj", None)
    if head is None:
        raise UsageError(
            f"{directory}: {type(model).__name__} is an encoder, which cannot judge an unfinished response"
        )
    try:
        declared = declaration(str(directory), directory.name, None)
        names = renamed(dict(enumerate(labels)), declared.get("names") or {})
        read = reading(directory.name, config, {"label": names[len(labels) - 1], **declared})
    except RewardError as error:
        raise UsageError(str(error)) from error
    if len(labels) > 2 or read.transform not in ("log_odds", "logit"):
        raise UsageError(
            f"{directory}: a critic can start from a classifier with one or two labels whose transform is log_odds, "
            f"but this has {', '.join(labels)} and {read.transform}"
        )
    if model.config.problem_type == "multi_label_classification" and len(labels) > 1:
        raise UsageError(f"{directory}: a critic cannot start from labels that may apply together: {', '.join(labels)}")
    if len(labels) == 2:
        _keep_one_output(head, read.index, 1 - read.index if read.transform == "log_odds" else None)
        model.config.id2label = {0: read.label}  # which makes num_labels 1
    moments = declared.get("moments") or {"mean": 0.0, "std": 1.0}
    _rescale(head, read.sign / moments["std"], moments["mean"] / moments["std"])
    return model


@torch.no_grad()
def _keep_one_output(head: nn.Linear, chosen: int, less: int | None) -> None:
    """Of two outputs keep the one, less the other if that is asked for."""

    def kept(weight: Tensor) -> nn.Parameter:
        return nn.Parameter((weight[chosen] - (weight[less] if less is not None else 0)).unsqueeze(0))

    head.weight = kept(head.weight)
    if head.bias is not None:
        head.bias = kept(head.bias)
    head.out_features = 1


@torch.no_grad()
def _rescale(head: nn.Linear, factor: float, shift: float) -> None:
    """Make the one output `factor` times what it was, less `shift`."""
    if head.bias is None:
        head.bias = nn.Parameter(head.weight.new_zeros(1))
    head.weight.mul_(factor)
    head.bias.mul_(factor).sub_(shift)
