"""From prompts to scored trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from align.configs.base import GenerationSettings
from align.modeling.generation import decode, generate
from align.modeling.trunk import Batch, response_log_probs, token_log_probs
from align.ppo import objective
from align.ppo.actor_critic import ActorCritic
from align.ppo.prompts import Prompt
from reward_models import RewardModel


@dataclass(frozen=True)
class Rollout:
    """Sampled responses and everything that PPO wants to know of them. b responses, t tokens; 0 on padding."""

    prompts: list[Prompt]
    responses: list[str]
    batch: Batch
    log_probs: Tensor
    """[b, t] under the policy that sampled them."""
    reference_log_probs: Tensor
    """[b, t]"""
    values: Tensor
    """[b, t]"""
    entropies: Tensor
    """[b, t] nats"""
    scores: Tensor
    """[b] from the reward model, as it gave them."""
    finished: Tensor
    """[b] whether the response ended by itself."""

    @property
    def mask(self) -> Tensor:
        """[b, t] True on response tokens."""
        return self.batch.response_mask

    @property
    def log_ratios(self) -> Tensor:
        """[b, t] log(policy / reference)."""
        return self.log_probs - self.reference_log_probs

    @property
    def kl(self) -> Tensor:
        """[b] nats per response from the reference, by the k1 estimator."""
        return self.log_ratios.sum(1)

    def to(self, device: torch.device | str) -> Rollout:
        """The same on another device."""
        moved: dict[str, Any] = {
            name: tensor.to(device) for name, tensor in vars(self).items() if isinstance(tensor, Tensor)
        }
        batch = Batch(*(tensor.to(device) for tensor in vars(self.batch).values()))
        return replace(self, batch=batch, **moved)

    def scored_by(self, judge: RewardModel) -> list[float]:
        """What another scorer gives these responses, [b]."""
        return scored(judge, self.prompts, self.responses)


def roll_out(
    actor_critic: ActorCritic,
    tokenizer: PreTrainedTokenizerBase,
    reward: RewardModel,
    prompts: Sequence[Prompt],
    settings: GenerationSettings,
    *,
    stop_token_id: int | None,
    pad_token_id: int,
    tokens_per_micro_batch: int,
    generator: torch.Generator,
) -> Rollout:
    """Sample a response to each prompt, score its text, and look it up under policy, reference and value model.

    A response ends with `stop_token_id`, or at `settings.max_new_tokens`.
    """
    with actor_critic.precision():
        token_ids = generate(
            actor_critic.model,
            [prompt.token_ids for prompt in prompts],
            settings,
            eos_token_id=stop_token_id,
            pad_token_id=pad_token_id,
            generator=generator,
        )
    responses = decode(tokenizer, token_ids)
    texts = [response.text for response in responses]
    scores = scored(reward, prompts, texts)
    device = actor_critic.device
    batch = Batch.build([prompt.token_ids for prompt in prompts], token_ids, pad_token_id, device)
    shape = batch.response_ids.shape
    log_probs, reference_log_probs, values, entropies = (torch.zeros(shape, device=device) for _ in range(4))
    with torch.no_grad(), actor_critic.precision():
        for rows in micro_batches(batch.lengths, tokens_per_micro_batch):
            part = batch.select(rows)
            width = part.response_ids.shape[1]
            log_probs[rows, :width], entropies[rows, :width], values[rows, :width] = _look_up(
                actor_critic, part, settings.temperature
            )
            with actor_critic.as_reference() as reference:
                reference_log_probs[rows, :width] = response_log_probs(reference, part, settings.temperature)
    return Rollout(
        list(prompts),
        texts,
        batch,
        log_probs,
        reference_log_probs,
        values,
        entropies,
        torch.tensor(scores, device=device),
        torch.tensor([ids[-1] == stop_token_id for ids in token_ids], device=device),
    )


def joined(parts: Sequence[Rollout], pad_token_id: int) -> Rollout:
    """The rows of several rollouts, one after the other, as one."""
    if len(parts) == 1:
        return parts[0]
    prompts = [prompt for part in parts for prompt in part.prompts]
    token_ids = [
        ids[real].tolist() for part in parts for ids, real in zip(part.batch.response_ids, part.mask, strict=True)
    ]
    batch = Batch.build([prompt.token_ids for prompt in prompts], token_ids, pad_token_id)
    width = batch.response_ids.shape[1]

    def column(name: str) -> Tensor:
        tensors = [getattr(part, name) for part in parts]
        return torch.cat([functional.pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors])

    return Rollout(
        prompts,
        [response for part in parts for response in part.responses],
        batch,
        column("log_probs"),
        column("reference_log_probs"),
        column("values"),
        column("entropies"),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.finished for part in parts]),
    )


def scored(reward: RewardModel, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    """One score a response; references go along where a prompt has one."""
    references = [prompt.reference or "" for prompt in prompts] if any(prompt.reference for prompt in prompts) else None
    return reward.score([prompt.text for prompt in prompts], responses, references)


def micro_batches(lengths: Tensor, budget: int) -> Iterator[Tensor]:
    """Rows [some] of like length, so that rows times the longest of them stays within `budget` tokens.

    A micro-batch of a quarter of that is closed where one more row would make it padding by more than an eighth.
    """
    order = lengths.argsort(descending=True, stable=True)
    rows: list[int] = []
    longest = real = 0
    for row, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if rows:
            size = longest * (len(rows) + 1)
            if size > budget or (longest * len(rows) >= budget // 4 and real + length < size * 7 / 8):
                yield order.new_tensor(rows)
                rows, real = [], 0
        if not rows:
            longest = length
        rows.append(row)
        real += length
    yield order.new_tensor(rows)


def _look_up(actor_critic: ActorCritic, batch: Batch, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and values of a batch, each [b, t], from one pass through each trunk."""
    mask = batch.response_mask
    states, tokens = actor_critic.response_states(batch)[mask], batch.response_ids[mask]
    value_states = states if actor_critic.shares_trunk else actor_critic.value_states(batch)[mask]
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for piece in torch.arange(len(tokens)).split(actor_critic.tokens_at_once):
        logits = actor_critic.logits(states[piece])
        found.append(
            (
                token_log_probs(logits, tokens[piece], temperature),
                objective.entropy(logits.float() / temperature),
                actor_critic.values(value_states[piece]),
            )
        )
    columns = []
    for pieces in zip(*found, strict=True):
        column = torch.zeros(mask.shape, device=mask.device)
        column[mask] = torch.cat(pieces)
        columns.append(column)
    return columns[0], columns[1], columns[2]
