"""The supervised loss that can be mixed into PPO's, against forgetting (Ouyang et al. 2022, section 3.5: PPO-ptx)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from align.errors import UsageError
from align.modeling.trunk import Batch, token_log_probs
from align.ppo import ranks
from align.ppo.actor_critic import ActorCritic
from align.ppo.rollout import micro_batches

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """A prompt and the completion to learn, as tokens; the completion ends with the end-of-text token."""

    prompt_ids: list[int]
    completion_ids: list[int]


def as_examples(
    rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, context: int | None, *, apart: bool = False
) -> list[Example]:
    """Rows with `prompt` and `completion` (text) as examples; of an empty prompt the completion's first token is it.

    Those that do not fit into `context` tokens (`apart`: each of the two, as in an encoder-decoder) or say nothing are
    left out, and counted.

    Raises:
        UsageError: a row lacks one of the two, or none is left, or the tokenizer cannot end a text.
    """
    if rows and tokenizer.eos_token_id is None:
        raise UsageError("ptx_dataset: the tokenizer has no end-of-text token to learn: set its eos_token")
    examples: list[Example] = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("prompt"), str) or not isinstance(row.get("completion"), str):
            raise UsageError(f"row {number} of ptx_dataset needs `prompt` and `completion`, but has: {sorted(row)}")
        prompt = tokenizer(row["prompt"])["input_ids"] if row["prompt"] else []
        completion = [*tokenizer(row["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if not prompt:
            prompt, completion = completion[:1], completion[1:]
        length = max(len(prompt), len(completion)) if apart else len(prompt) + len(completion)
        if completion and (context is None or length <= context):
            examples.append(Example(prompt, completion))
    if len(examples) < len(rows):
        logger.warning(
            "%d of %d rows of ptx_dataset are empty or too long: left out", len(rows) - len(examples), len(rows)
        )
    if rows and not examples:
        raise UsageError(f"no row of ptx_dataset fits into the policy's context of {context} tokens")
    return examples


def add_supervised_gradients(
    actor_critic: ActorCritic, examples: Sequence[Example], coefficient: float, pad_token_id: int, budget: int
) -> Tensor:
    """Add `coefficient` times the gradient of the examples' mean loss per completion token; returns that loss.

    Of several ranks, each adds its share of both. Logits exist for a piece of the tokens at a time, as in
    `align.ppo.learning`.
    """
    tokens_in_step = sum(len(example.completion_ids) for example in examples)
    examples = examples[ranks.rank() :: ranks.count()]
    total = torch.zeros((), device=actor_critic.device)
    if not examples:
        return total
    batch = Batch.build(
        [example.prompt_ids for example in examples],
        [example.completion_ids for example in examples],
        pad_token_id,
        actor_critic.device,
    )
    for rows in micro_batches(batch.lengths, budget):
        part = batch.select(rows)
        tokens = part.response_ids[part.response_mask]
        with actor_critic.learning():
            states = actor_critic.response_states(part)[part.response_mask]
            collected = states.detach().requires_grad_()
            for piece in torch.arange(len(tokens)).split(actor_critic.tokens_at_once):
                log_probs = token_log_probs(actor_critic.logits(collected[piece]), tokens[piece])
                loss = -log_probs.sum() / tokens_in_step
                (coefficient * loss).backward()
                total += loss.detach()
            states.backward(collected.grad)
    return total
