"""Do the parts of a run fit together? Each misfit here has cost somebody a day, or a run that learned nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.errors import UsageError
from align.modeling.context import context_of, fits
from align.modeling.trunk import unwrapped
from align.ppo.arguments import PPOConfig
from align.ppo.prompts import Prompt
from reward_models import CheckedModel

logger = logging.getLogger(__name__)


def check_models(model: Any, ref_model: Any, reward_model: Any, value_model: Any, peft_config: Any) -> None:
    """Before anything is moved or copied: are these the models that PPO needs, and each its own?

    Raises:
        UsageError: one is missing, of the wrong kind, or shares weights with one that must not change.
    """
    if reward_model is None:
        raise UsageError("PPOTrainer needs a reward_model: a RewardModel, a function, or a sequence classifier")
    if ref_model is model:
        raise UsageError("ref_model is the model itself, which will change: leave it out, and a copy is kept")
    _check_policy(model, peft_config)
    if ref_model is not None:
        _check_reference(ref_model, model)
    given = {"model": model, "ref_model": ref_model, "reward_model": reward_model, "value_model": value_model}
    weights = {
        name: {id(weight) for weight in part.parameters()}
        for name, part in given.items()
        if isinstance(part, nn.Module)
    }
    for one, other in combinations(weights, 2):
        if weights[one] & weights[other] and {one, other} != {"ref_model", "reward_model"}:
            raise UsageError(
                f"{one} and {other} share weights, and training one would change the other: give each its own copy"
            )


def check_references(scorer: CheckedModel, prompts: Sequence[Prompt]) -> None:
    """Raise a `UsageError` where a scorer compares responses with references, and a prompt of its has none."""
    without = [prompt.text for prompt in prompts if not prompt.reference]
    if without and scorer.needs_references:
        raise UsageError(
            f"reward model {scorer.name} compares responses with references, and {len(without)} of {len(prompts)} "
            f"prompts have none, the first of them {without[0][:40]!r}: set `reference:` beside `prompt:`"
        )


def _check_policy(model: Any, peft_config: Any) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a loaded language model, not {model!r}: load it with from_pretrained first")
    inner = unwrapped(model)
    kind = type(inner).__name__
    head = inner.get_output_embeddings() if isinstance(inner, PreTrainedModel) else None
    if head is None:
        raise UsageError(f"model {kind} has no language model head: load it as a causal or seq2seq language model")
    if getattr(inner, "_is_stateful", False) or inner.config.model_type == "encoder-decoder":
        raise UsageError(f"model {kind} keeps no cache of keys and values, which sampling needs")
    if peft_config is not None:
        if isinstance(model, PeftModel):
            raise UsageError("model has adapters already: leave peft_config out, or merge them first")
        return
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        raise UsageError("model is tuned by prompts of its own (prompt or prefix tuning), which PPO here cannot train")
    trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    if not trained:
        hint = ": load its adapter with is_trainable=True" if isinstance(model, PeftModel) else ""
        raise UsageError(f"model has no trainable weight{hint}")
    if torch.float16 in trained:
        raise UsageError(
            "the policy's weights are float16, in which the optimizer divides by zero: load it with "
            "dtype=torch.float32, and set bf16=True to compute in 16 bits"
        )
    if torch.bfloat16 in trained:
        logger.warning(
            "the policy's weights have 16 bits, in which small updates are lost: load it with dtype=torch.float32, and "
            "set bf16=True to compute in 16 bits"
        )


def _check_reference(ref_model: Any, model: Any) -> None:
    reference, policy = unwrapped(ref_model), unwrapped(model)
    if reference.config.is_encoder_decoder != policy.config.is_encoder_decoder:
        raise UsageError(f"ref_model {type(reference).__name__} is not of the same kind as the policy")
    known, needed = (one.get_input_embeddings().weight.shape[0] for one in (reference, policy))
    if known < needed:
        raise UsageError(f"ref_model knows {known} tokens, but the policy {needed}: it must share its tokenizer")


def check_adapters(model: Any, args: PPOConfig) -> None:
    """Raise a `UsageError` where an adapter that the settings name is none of the policy's, or is both at once."""
    held = list(getattr(model, "peft_config", {}))
    for setting in ("model_adapter_name", "ref_adapter_name"):
        name = getattr(args, setting)
        if name is not None and name not in held:
            raise UsageError(f"{setting}: the policy has no adapter {name!r} (it has: {', '.join(held) or 'none'})")
    trained = getattr(model, "active_adapters", []) if args.model_adapter_name is None else [args.model_adapter_name]
    if args.ref_adapter_name is not None and args.ref_adapter_name in trained:
        raise UsageError(
            f"ref_adapter_name: {args.ref_adapter_name!r} is the adapter that trains, and no distance from itself: "
            "load it a second time under another name, or leave ref_adapter_name out for the model without adapters"
        )


def check_held_out(prompts: Sequence[Prompt], args: PPOConfig, judge: Any) -> None:
    """Raise a `UsageError` where something is asked of held-out prompts, and there are none."""
    asked = {"judge": judge, "max_eval_kl": args.max_eval_kl, "early_stopping_patience": args.early_stopping_patience}
    if not prompts and (given := [name for name, value in asked.items() if value is not None]):
        raise UsageError(
            f"{given[0]} needs held-out prompts, and there are none: give an eval_dataset (in a recipe, "
            "evaluation_prompts, or ten prompts, of which one is set aside)"
        )


def check_critic(value_model: Any, args: PPOConfig, policy_vocabulary: int, tokens: int) -> None:
    """Raise a `UsageError` where a value model is not asked, cannot learn, or knows other tokens than the policy."""
    if args.advantage != "gae":
        raise UsageError(f"advantage {args.advantage} has no critic: leave value_model out, or set advantage='gae'")
    if any(parameter.dtype == torch.float16 for parameter in value_model.parameters()):
        raise UsageError("value_model's weights are float16, which cannot be trained: load it with dtype=torch.float32")
    known = value_model.get_input_embeddings().weight.shape[0]
    if known < min(policy_vocabulary, tokens):
        raise UsageError(
            f"value_model knows {known} tokens, but the policy {policy_vocabulary}: it must share its tokenizer"
        )


def check_tokenizer(tokenizer: Any, args: PPOConfig) -> None:
    """Raise a `UsageError` where there is no tokenizer, or none that can end a response as the settings want."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UsageError(f"processing_class must be the policy's tokenizer, not {tokenizer!r}")
    if args.stop_token == "eos" and args.stop_token_id is None and tokenizer.eos_token_id is None:
        raise UsageError(
            "stop_token is eos, but the tokenizer has no end-of-text token, so that no response would end: set its "
            "eos_token, or stop_token_id, or stop_token=None"
        )


def check_lengths(model: Any, prompts: Sequence[Prompt], response_length: int) -> None:
    """Raise a `UsageError` where a prompt with its response would not fit into the policy's context."""
    longest = max((len(prompt.token_ids) for prompt in prompts), default=0)
    if not fits(model, longest, response_length):
        apart = unwrapped(model).config.is_encoder_decoder
        raise UsageError(
            f"the longest prompt has {longest} tokens and response_length is {response_length}, but the policy's "
            f"context is {context_of(model)} tokens{' for either' if apart else ''}: shorten one of them"
        )
