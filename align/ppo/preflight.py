"""Checks that take seconds and stop a run before its first update, by name.

Each of these is the symptom of a fault that has cost others days: a reference that is not where the policy started, a
head that scales or caps, dropout left on, an end-of-text token that nobody can say or nothing learns, an optimizer
with a pace of its own, a reward upside down. A check that does not apply is logged as skipped.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from align.errors import AlignError
from align.modeling.trunk import Batch, response_log_probs, token_log_probs, unwrapped
from align.ppo import ranks
from align.ppo.actor_critic import ActorCritic, restore
from align.ppo.rollout import Rollout, scored
from reward_models import CheckedModel, RewardError

logger = logging.getLogger(__name__)

TOLERANCE, HALF_TOLERANCE = 1e-5, 0.1
"""Nats, per token, in float32 and in fewer bits."""
LEAST_STOP_LOG_PROB = -20.0
"""Nats: a stop token less likely than this everywhere does not come up in a training."""
ORDER_TOLERANCE = 0.1
"""Share of the scores' spread by which one may differ when asked for again: rounding in few bits, no more."""
ROWS = 4
"""Responses that checks of single responses look at."""
ORDER_ROWS = 8
"""Responses that a reward is asked for again."""


def check(
    actor_critic: ActorCritic,
    rollout: Rollout,
    *,
    temperature: float,
    stop_token_id: int | None,
    starts_at_reference: bool,
) -> None:
    """Raise an `AlignError` that names every check which fails on the first rollout."""
    policy = unwrapped(actor_critic.model)
    in_float32 = not actor_critic.bf16 and policy.dtype == torch.float32 and not getattr(policy, "is_quantized", False)
    tolerance = TOLERANCE if in_float32 else HALF_TOLERANCE
    some = torch.arange(min(ROWS, len(rollout.prompts)))
    failures = []
    if not starts_at_reference:
        skipped("kl-zero", "the reference policy was given")
    elif (kl := float(rollout.log_ratios.abs().max())) > tolerance:
        hint = (
            "; was the policy's adapter trained already? Merge it (merge_and_unload) and pass peft_config, or "
            "load it a second time and name that ref_adapter_name"
            if hasattr(actor_critic.model, "peft_config")
            else ""
        )
        failures.append(
            f"kl-zero: policy and reference differ by {kl:.2g} nats before the first update, but must be equal{hint}"
        )
    if (drift := _drift(actor_critic, rollout, some, temperature)) > tolerance:
        failures.append(
            f"ratio-one: the same weights give log-probabilities that differ by {drift:.2g}; "
            "is dropout on, or does the model depend on its padding?"
        )
    if (error := _own_logits_error(actor_critic, rollout, some, temperature)) > tolerance:
        failures.append(
            f"own-logits: our log-probabilities differ from the model's own logits by {error:.2g}; "
            "its head does something that align.modeling.trunk.response_logits does not know"
        )
    if stop_token_id is None:
        skipped("eos-reachable and eos-in-loss", "there is no stop token")
    else:
        failures += _stop_token_failures(actor_critic, rollout, some, temperature, stop_token_id)
    _raise(failures)


def check_learning_rate_zero(
    actor_critic: ActorCritic,
    optimizer: torch.optim.Optimizer,
    initial: Mapping[str, Tensor],
    step: Callable[[], object],
) -> None:
    """Raise an `AlignError` where one optimizer `step` at learning rate 0 changes the `initial` weights (on the CPU).

    Leaves weights and optimizer as they were.
    """
    before = copy.deepcopy(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step()
    optimizer.zero_grad(set_to_none=True)
    optimizer.load_state_dict(before)
    changed = [name for name, weight in actor_critic.trainable.items() if not torch.equal(weight.cpu(), initial[name])]
    restore(actor_critic, dict(initial))
    if changed:
        _raise(
            [
                f"lr-zero: a step at learning rate 0 changed {len(changed)} weights, {changed[0]} among them; "
                "does the model change itself, or does the optimizer ignore its learning rate?"
            ]
        )


def check_polarity(reward: CheckedModel) -> None:
    """Raise an `AlignError` where a reward scores the better response higher in no more than half of its own probes.

    Only for rewards that declare probes, or are made of such: what is good is theirs to say.
    """
    for member in reward.members():
        check_polarity(member)
    probes = reward.probes()
    if not probes or reward.needs_references:
        if not reward.members():
            said = "compares with references" if probes else "declares no probes"
            skipped("reward-polarity", f"{reward.name} {said}")
        return
    right = ranks.first(lambda: reward.told_apart(probes), RewardError)
    if 2 * right <= len(probes):
        _raise(
            [
                f"reward-polarity: {reward.name} scores the better response higher in {right} of {len(probes)} of its "
                "own probes; is the right label the positive one?"
            ]
        )


def check_order(reward: CheckedModel, rollout: Rollout) -> None:
    """Raise an `AlignError` where a reward, asked again for a few responses in another order, says otherwise.

    They stand all over the batch, its ends included: a reward may mix up only some part of it.
    """
    spread = float(rollout.scores.max() - rollout.scores.min())
    count = len(rollout.prompts)
    some = torch.linspace(count - 1, 0, min(ORDER_ROWS, count)).round().long().tolist()
    prompts, responses = ([column[row] for row in some] for column in (rollout.prompts, rollout.responses))
    again = ranks.first(lambda: scored(reward, prompts, responses), RewardError)
    before = rollout.scores[some].tolist()
    largest = max(map(abs, [*before, 1.0]))  # the rollout keeps float32, and a spread may be of its rounding alone
    tolerance = max(ORDER_TOLERANCE * spread, TOLERANCE * largest)
    if any(abs(one - other) > tolerance for one, other in zip(again, before, strict=True)):
        _raise(
            [
                f"reward-order: {reward.name} scores the same responses differently when asked again in another order: "
                f"{_listed(before)}, then {_listed(again)}; does it mix up their order, or draw random numbers?"
            ]
        )


def _listed(scores: list[float]) -> str:
    return ", ".join(f"{score:.4g}" for score in scores)


def skipped(name: str, reason: str) -> None:
    """Log that a check does not apply."""
    logger.info("ppo preflight: %s skipped, %s", name, reason)


def _raise(failures: list[str]) -> None:
    if failures:
        raise AlignError("PPO preflight failed:\n" + "\n".join(f"  - {failure}" for failure in failures))


def _drift(actor_critic: ActorCritic, rollout: Rollout, rows: Tensor, temperature: float) -> float:
    """Largest difference between the log-probabilities [r, t] of `rows` [r] in sampling and in the update to come."""
    with actor_critic.learning():
        again = response_log_probs(actor_critic.model, rollout.batch.select(rows), temperature)
    return float((again - rollout.log_probs[rows, : again.shape[1]]).abs().max())


@torch.no_grad()
def _own_logits_error(actor_critic: ActorCritic, rollout: Rollout, rows: Tensor, temperature: float) -> float:
    """Largest difference from what `model(...)` itself says, one response at a time and without padding."""
    model = unwrapped(actor_critic.model)
    error = 0.0
    for row in rows:
        part: Batch = rollout.batch.select(row.unsqueeze(0))
        prompt, response = part.prompt_ids, part.response_ids
        with actor_critic.precision():
            if model.config.is_encoder_decoder:
                start = torch.full_like(response[:, :1], model.config.decoder_start_token_id)
                logits = model(input_ids=prompt, decoder_input_ids=torch.cat([start, response[:, :-1]], 1)).logits
            else:
                logits = model(input_ids=torch.cat([prompt, response], 1)).logits[:, prompt.shape[1] - 1 : -1]
        own = token_log_probs(logits, response, temperature)
        error = max(error, float((own - rollout.log_probs[row, : response.shape[1]]).abs().max()))
    return error


@torch.no_grad()
def _stop_token_failures(
    actor_critic: ActorCritic, rollout: Rollout, rows: Tensor, temperature: float, stop_token_id: int
) -> list[str]:
    """Can the policy stop, and does it learn from having stopped?"""
    failures = []
    batch = rollout.batch.select(rows)
    states = actor_critic.response_states(batch)[batch.response_mask]
    log_probs = [
        (actor_critic.logits(some).float() / temperature).log_softmax(-1)
        for some in states.split(actor_critic.tokens_at_once)
    ]
    if stop_token_id >= log_probs[0].shape[-1]:
        failures.append(f"eos-reachable: the model has no token {stop_token_id}, which should end its responses")
    elif (highest := max(float(some[:, stop_token_id].max()) for some in log_probs)) < LEAST_STOP_LOG_PROB:
        failures.append(
            f"eos-reachable: the stop token {stop_token_id} has log-probability {highest:.0f} at most at temperature "
            f"{temperature:g}, so no response ends with it; was the model trained to end with it, or with another "
            "token? stop_token: null does without one"
        )
    ended = rollout.batch.response_ids[rollout.finished]
    last = rollout.mask[rollout.finished].sum(1, keepdim=True) - 1
    if len(ended) and not (ended.gather(1, last.clamp(min=0)) == stop_token_id).all():
        failures.append(
            f"eos-in-loss: the mask of responses that ended leaves out their stop token {stop_token_id}, "
            "so that ending is never learned; is it also the pad token?"
        )
    return failures
