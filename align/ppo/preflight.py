"""Checks that take seconds and stop a run before its first update, by name.

Each of these is the symptom of a fault that has cost others days: a reference that is not where the policy started, a
head that scales or caps, dropout left on, a tokenizer that cannot say that it is done, a reward upside down.
"""

from __future__ import annotations

import logging

import torch

from align.errors import AlignError
from align.modeling.trunk import Batch, response_log_probs, token_log_probs, unwrapped
from align.ppo.actor_critic import ActorCritic
from align.ppo.rollout import Rollout
from reward_models import CheckedModel

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""Nats, per token, in float32."""


def check(actor_critic: ActorCritic, rollout: Rollout, temperature: float, *, starts_at_reference: bool) -> None:
    """Raise an `AlignError` that names every check which fails on the first rollout."""
    tolerance = TOLERANCE if rollout.log_probs.dtype == next(actor_critic.parameters()).dtype else 0.05
    failures = []
    if starts_at_reference and (kl := float(rollout.log_ratios.abs().max())) > tolerance:
        failures.append(f"kl-zero: policy and reference differ by {kl:.2g} nats before the first update, and must not")
    repeated = response_log_probs(actor_critic.model, rollout.batch, temperature)
    if (drift := float((repeated - rollout.log_probs).abs().max())) > tolerance:
        failures.append(
            f"ratio-one: the same weights give log-probabilities that differ by {drift:.2g}; "
            "is dropout on, or does the model depend on its padding?"
        )
    if (error := _own_logits_error(actor_critic, rollout, temperature)) > tolerance:
        failures.append(
            f"own-logits: our log-probabilities differ from the model's own logits by {error:.2g}; "
            "its head does something that align.modeling.trunk.response_logits does not know"
        )
    if failures:
        raise AlignError("PPO preflight failed:\n" + "\n".join(f"  - {failure}" for failure in failures))


def _own_logits_error(actor_critic: ActorCritic, rollout: Rollout, temperature: float) -> float:
    """Largest difference from what `model(...)` itself says, on a few responses."""
    model = unwrapped(actor_critic.model)
    error = 0.0
    for row in range(min(4, len(rollout.responses))):
        part: Batch = rollout.batch.select(torch.tensor([row]))
        prompt, response = part.prompt_ids, part.response_ids
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                start = torch.full_like(response[:, :1], model.config.decoder_start_token_id)
                logits = model(input_ids=prompt, decoder_input_ids=torch.cat([start, response[:, :-1]], 1)).logits
            else:
                logits = model(input_ids=torch.cat([prompt, response], 1)).logits[:, prompt.shape[1] - 1 : -1]
        own = token_log_probs(logits, response, temperature)
        error = max(error, float((own - rollout.log_probs[row, : response.shape[1]]).abs().max()))
    return error


def check_polarity(reward: CheckedModel) -> None:
    """Raise an `AlignError` where a reward scores the worse responses of its own probes no lower than the better ones.

    Only for rewards that declare probes: what is good is theirs to say.
    """
    if not (probes := reward.probes()):
        logger.info("ppo preflight: reward-polarity skipped, %s declares no probes", reward.name)
        return
    better, worse = (reward.score([""] * len(probes), side) for side in zip(*probes, strict=True))
    if sum(better) <= sum(worse):
        raise AlignError(
            f"PPO preflight failed:\n  - reward-polarity: {reward.name} scores the worse responses of its own probes "
            "no lower than the better ones; is the right label the positive one?"
        )
