"""One trunk seen as policy, reference policy and value model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from align.errors import UsageError
from align.modeling.trunk import Batch, response_logits, response_states, tokens_at_once, unwrapped
from align.ppo.critic import head_of, new_head

VALUE_ADAPTER = "align_value"


class ActorCritic(nn.Module):
    """A language model, a value model, and the reference policy it must stay close to.

    With LoRA the reference is the trunk with the adapter off, or with `reference_adapter` on. With full fine-tuning,
    and where anything outside of the adapters trains as well, it is one frozen copy, or `reference` where one is given.
    Dropout is off everywhere: a policy that drops out disagrees with itself about the probability of what it said.

    The value model is `value_model` where one is given. Otherwise it is a new head, and `critic` says on what: the
    policy's trunk (`shared`), that trunk with an adapter of its own in the place of the policy's (`adapter`), or a copy
    of it which trains the same kinds of weights (`separate`).
    """

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module | None = None,
        value_model: nn.Module | None = None,
        *,
        critic: Literal["shared", "adapter", "separate"] = "shared",
        learns_values: bool = True,
        reference_adapter: str | None = None,
        bf16: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.reference_adapter = reference_adapter
        if reference is None and not _only_adapters_train(model):
            reference = copy.deepcopy(model)
            if reference_adapter is not None:
                reference.set_adapter(reference_adapter)  # type: ignore[operator]
        self.reference = reference
        if reference is not None:
            reference.requires_grad_(False)
        self.value_adapter = VALUE_ADAPTER if value_model is None and critic == "adapter" else None
        if self.value_adapter is not None:
            _add_value_adapter(model)
        copied = value_model is None and critic == "separate"
        self.value_model = copy.deepcopy(unwrapped(model).base_model) if copied else value_model
        self.value_head = new_head(unwrapped(model)) if value_model is None else head_of(value_model)
        self.value_head.requires_grad_(learns_values)
        self.bf16 = bf16
        self.checkpoints_activations = gradient_checkpointing
        if gradient_checkpointing:
            for trunk in (model, self.value_model):
                if trunk is not None:
                    unwrapped(trunk).gradient_checkpointing_enable({"use_reentrant": False})
        self.value_head.to(self.device)
        for module in self.modules():
            _without_dropout(module)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the policy is."""
        return next(self.model.parameters()).device

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """What PPO trains, by name: the trainable weights of policy and value model."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @property
    def tokens_at_once(self) -> int:
        """Response tokens whose logits may exist at one time."""
        return tokens_at_once(self.model)

    @contextmanager
    def as_reference(self) -> Iterator[nn.Module]:
        """The reference policy: the frozen copy, or the trunk without the policy's adapter."""
        if self.reference is not None:
            yield self.reference
            return
        model: Any = self.model
        name = self.reference_adapter
        with _same_trainable(model), model.disable_adapter() if name is None else _active(model, name):
            yield model

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Within, forward passes compute in bfloat16 where that was asked for."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Within, activations are checkpointed where that was asked for, which layers only do in training mode."""
        self.train(self.checkpoints_activations)
        try:
            with self.precision():
                yield
        finally:
            self.eval()

    def compile_trunks(self, backend: str | None, mode: str | None) -> None:
        """Compile what passes over whole responses run through; what cannot be compiled runs as it is, with a warning.

        `align.modeling.generation` samples outside of that: its caches grow with every token.
        """
        torch._dynamo.config.suppress_errors = True
        for model in (self.model, self.reference, self.value_model):
            if model is None:
                continue
            inner = unwrapped(model)
            seq2seq = inner.config.is_encoder_decoder
            for part in (inner.get_encoder(), inner.get_decoder()) if seq2seq else (inner.base_model,):
                part.compile(backend=backend or "inductor", mode=mode, dynamic=True)

    @property
    def shares_trunk(self) -> bool:
        """Whether policy and value model read the same hidden states."""
        return self.value_model is None and self.value_adapter is None

    def response_states(self, batch: Batch) -> Tensor:
        """Hidden states that predict each response token, [b, t, h]."""
        return response_states(self.model, batch)

    def value_states(self, batch: Batch) -> Tensor:
        """Hidden states from which a critic that does not share the trunk reads each token's value, [b, t, h]."""
        if self.value_model is not None:
            return response_states(self.value_model, batch)
        assert self.value_adapter is not None
        with _same_trainable(self.model), _active(self.model, self.value_adapter):
            return response_states(self.model, batch)

    def logits(self, states: Tensor) -> Tensor:
        """The policy's logits [..., v] of states [..., h]."""
        return response_logits(self.model, states)

    def values(self, states: Tensor) -> Tensor:
        """Expected return [...] at states [..., h], in float32."""
        with torch.autocast(states.device.type, enabled=False):  # it costs nothing, and values need the digits
            value: Tensor = self.value_head(states.to(next(self.value_head.parameters()).dtype)).squeeze(-1)
        return value.float()


def _only_adapters_train(model: Any) -> bool:
    """Whether the trunk without its adapters stays what it is. (`bias` of LoRA and weights unfrozen by hand do not.)"""
    names = [f".{name}" for name in getattr(model, "peft_config", {})]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return bool(names) and all(any(f"{adapter}." in f"{name}." for adapter in names) for name in trained)


def _add_value_adapter(model: Any) -> None:
    """A second adapter of the same shape as the policy's, which trains as well."""
    if not hasattr(model, "add_adapter") or not hasattr(model, "active_adapter"):
        raise UsageError("critic: adapter needs a policy with an adapter; shared and separate work with any")
    if getattr(model.peft_config[model.active_adapter], "bias", "none") != "none":
        raise UsageError("critic: adapter needs adapters that leave biases alone: set bias='none', or another critic")
    policy = model.active_adapter
    with _same_trainable(model):
        model.add_adapter(VALUE_ADAPTER, copy.deepcopy(model.peft_config[policy]))
        model.set_adapter(policy)
    for name, parameter in model.named_parameters():
        if f".{VALUE_ADAPTER}." in name:
            parameter.requires_grad_(True)


@contextmanager
def _active(model: Any, adapter: str) -> Iterator[None]:
    """Within, `adapter` is the one that computes."""
    before = model.active_adapter
    model.set_adapter(adapter)
    try:
        yield
    finally:
        model.set_adapter(before)


@contextmanager
def _same_trainable(model: nn.Module) -> Iterator[None]:
    """Undoes what peft does to `requires_grad` whenever adapters are switched."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)


def _without_dropout(module: nn.Module) -> None:
    """Attention implementations read their rate from an attribute of their own, by many names, so that all are set."""
    if isinstance(module, nn.Dropout):
        module.p = 0.0
    for name, value in vars(module).items():
        if "drop" in name and isinstance(value, float):
            setattr(module, name, 0.0)


def weights(module: ActorCritic) -> dict[str, Tensor]:
    """A copy of all that training changes, to go back to. It is kept in main memory, where there is more."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in module.trainable.items()}


def restore(module: ActorCritic, saved: dict[str, Tensor]) -> None:
    """Put back what `weights` copied."""
    with torch.no_grad():
        for name, parameter in module.trainable.items():
            parameter.copy_(saved[name])
