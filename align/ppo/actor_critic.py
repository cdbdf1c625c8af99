"""One trunk seen as policy, reference policy and value model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from align.modeling.trunk import Batch, response_logits, response_states, tokens_at_once, unwrapped


class ActorCritic(nn.Module):
    """A language model, a value head on its trunk, and the reference policy it must stay close to.

    With LoRA the reference is the trunk with the adapter off. With full fine-tuning it is one frozen copy, or
    `reference` where one is given. Dropout is off in all of them: a policy that drops out disagrees with itself about
    the probability of what it said.
    """

    def __init__(self, model: nn.Module, reference: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.uses_adapter = hasattr(model, "disable_adapter")
        if reference is None and not self.uses_adapter:
            reference = copy.deepcopy(model)
        self.reference = reference
        if reference is not None:
            reference.requires_grad_(False)
        self.value_head = nn.Linear(unwrapped(model).get_output_embeddings().weight.shape[1], 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.to(next(model.parameters()).device)
        for module in self.modules():
            _without_dropout(module)
        self.eval()

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """What PPO trains, by name: the policy's own trainable weights and the value head."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @property
    def tokens_at_once(self) -> int:
        """Response tokens whose logits may exist at one time."""
        return tokens_at_once(self.model)

    @contextmanager
    def as_reference(self) -> Iterator[nn.Module]:
        """The reference policy: the frozen copy, or the trunk without its adapter."""
        if self.reference is not None:
            yield self.reference
            return
        model: Any = self.model
        with model.disable_adapter():
            yield model

    def response_states(self, batch: Batch) -> Tensor:
        """Hidden states that predict each response token, [b, t, h]."""
        return response_states(self.model, batch)

    def logits(self, states: Tensor) -> Tensor:
        """The policy's logits [..., v] of states [..., h]."""
        return response_logits(self.model, states)

    def values(self, states: Tensor) -> Tensor:
        """Expected return [...] at states [..., h], in float32."""
        value: Tensor = self.value_head(states.to(self.value_head.weight.dtype)).squeeze(-1)
        return value.float()


def _without_dropout(module: nn.Module) -> None:
    """Attention implementations read their rate from an attribute of their own, so that all of them are set."""
    if isinstance(module, nn.Dropout):
        module.p = 0.0
    for name in ("dropout", "attention_dropout", "activation_dropout", "dropout_rate", "attn_pdrop", "layerdrop"):
        if isinstance(getattr(module, name, None), float):
            setattr(module, name, 0.0)


def weights(module: ActorCritic) -> dict[str, Tensor]:
    """A copy of all that training changes, to go back to."""
    return {name: parameter.detach().clone() for name, parameter in module.trainable.items()}


def restore(module: ActorCritic, saved: dict[str, Tensor]) -> None:
    """Put back what `weights` copied."""
    with torch.no_grad():
        for name, parameter in module.trainable.items():
            parameter.copy_(saved[name])
