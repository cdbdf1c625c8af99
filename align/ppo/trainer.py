"""The PPO loop: roll out, score, advantages, epochs of mini-batches, controller, health, evaluate, save.

    from align.ppo import PPOConfig, PPOTrainer

    trainer = PPOTrainer(
        args=PPOConfig(learning_rate=1e-5, total_episodes=4096),
        processing_class=tokenizer, model=model, reward_model=reward, train_dataset=[{"prompt": "..."}, ...],
    )
    trainer.train()

Everything random in update n comes from a generator seeded with (seed, n), and the n-th batch of prompts is a function
of (seed, n): a run that resumes needs no random state, and is bitwise the run that was never killed.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from align import interrupt
from align.configs.base import GenerationSettings
from align.configs.ppo import PPOConfig
from align.errors import AlignError, UsageError
from align.metrics.diversity import repetition
from align.modeling.checkpoints import new_checkpoint, newest_complete_checkpoint
from align.modeling.trunk import token_log_probs
from align.ppo import health, objective, preflight
from align.ppo.actor_critic import ActorCritic, restore, weights
from align.ppo.rollout import Prompt, Rollout, micro_batches, roll_out
from align.progress import track
from align.tracking import NullTracker, Tracker
from reward_models import RewardError, checked

logger = logging.getLogger(__name__)


@dataclass
class Best:
    """The best policy so far, by the reward of held-out prompts within the KL budget."""

    update: int = 0
    reward: float = -math.inf
    kl: float = 0.0


@dataclass
class State:
    """What changes while training, besides weights and optimizer."""

    kl_coef: float
    update: int = 0
    first_length: float = 0.0
    moments: objective.RunningMoments = field(default_factory=objective.RunningMoments)
    best: Best = field(default_factory=Best)
    stopped: str | None = None
    """Why training ended early."""

    def to_json(self) -> str:
        """As text that `from_json` reads back exactly."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> State:
        """The state that `to_json` wrote."""
        saved = json.loads(text)
        saved["moments"] = objective.RunningMoments(**saved["moments"])
        saved["best"] = Best(**saved["best"])
        return cls(**saved)


class PPOTrainer:
    """Trains `model` against `reward_model`, close to where it started. The keywords are those of TRL 1.12.

    Args:
        args: all settings.
        processing_class: the policy's tokenizer.
        model: a causal or encoder-decoder language model, plain or wrapped by peft.
        reward_model: a `RewardModel`, or a callable (prompts, responses) -> floats.
        train_dataset: rows with `prompt` (text) or `input_ids`, and optionally `reference`.
        ref_model: the reference policy (default: `model` as it is now).
        eval_dataset: held-out rows of the same form; the best policy is chosen on them.
        tracker: where figures and sample tables go.
        checkpoint_dir: where to save, and to resume from; None saves nothing.
    """

    def __init__(
        self,
        args: PPOConfig,
        processing_class: PreTrainedTokenizerBase,
        model: nn.Module,
        reward_model: Any,
        train_dataset: Sequence[Mapping[str, Any]],
        ref_model: nn.Module | None = None,
        eval_dataset: Sequence[Mapping[str, Any]] | None = None,
        *,
        tracker: Tracker | None = None,
        checkpoint_dir: Path | None = None,
    ) -> None:
        self.args = args
        self.tokenizer = processing_class
        self.reward = checked(reward_model)
        self.prompts = as_prompts(train_dataset, processing_class)
        self.eval_prompts = as_prompts(eval_dataset or [], processing_class)
        if not self.prompts:
            raise UsageError("PPO has no prompts to train on: train_dataset is empty")
        self.tracker = tracker or NullTracker()
        self.checkpoint_dir = checkpoint_dir

        torch.manual_seed(args.seed)
        self.starts_at_reference = ref_model is None
        self.actor_critic = ActorCritic(model, ref_model)
        self.updates = math.ceil(self._total_episodes() / args.batch_size)
        self.eos_token_id = processing_class.eos_token_id if args.stop_token == "eos" else None
        self.settings = GenerationSettings(max_new_tokens=args.response_length, temperature=args.temperature)
        self.optimizer = torch.optim.AdamW(
            self.actor_critic.trainable.values(),
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._learning_rate_share)
        self.state = State(kl_coef=args.kl_coef)
        self.best_weights = weights(self.actor_critic)

    def train(self) -> State:
        """Train to the end, from the newest checkpoint where there is one; leaves the best policy in `model`.

        Raises:
            AlignError: a preflight check failed, or a figure became NaN. Nothing is lost: a checkpoint is kept.
            Interrupted: a signal came; a checkpoint was written first.
        """
        self._resume()
        with track("ppo", self.updates, self.state.update) as advance:
            if self.state.update == 0:
                preflight.check_polarity(self.reward)
                self._evaluate()
            while self.state.update < self.updates and self.state.stopped is None:
                try:
                    figures = self._update()
                except RewardError as error:  # raised before any weight has changed
                    self._save()
                    raise AlignError(f"PPO stopped in update {self.state.update + 1}: {error}") from error
                advance(score=figures["objective/scores"], kl=figures["objective/kl"])
                done = self.state.update == self.updates or self.state.stopped is not None
                if done or self.state.update % self.args.eval_steps == 0:
                    self._evaluate()
                if done or self.state.update % self.args.save_steps == 0 or interrupt.requested():
                    self._save()
                interrupt.raise_if_requested(f"a checkpoint of update {self.state.update} is kept")
        if self.eval_prompts:
            restore(self.actor_critic, self.best_weights)
        return self.state

    # One update, from prompts to new weights

    def _update(self) -> dict[str, float]:
        """Roll out one batch of prompts and learn from it."""
        args, state = self.args, self.state
        generator = self._generator(state.update)
        rollout = self._roll_out(self._prompts_of(state.update), generator)
        if state.update == 0:
            preflight.check(self.actor_critic, rollout, args.temperature, starts_at_reference=self.starts_at_reference)
            state.first_length = float(rollout.mask.sum(1).float().mean())
        scores = self._shaped(rollout)
        rewards = objective.token_rewards(scores, rollout.log_ratios, rollout.mask, state.kl_coef)
        if args.whiten_rewards:
            rewards = objective.whiten(rewards, rollout.mask, shift_mean=False)
        advantages, returns = objective.gae(rewards, rollout.values, rollout.mask, args.gamma, args.lam)
        if args.whiten_advantages:
            advantages = objective.whiten(advantages, rollout.mask)

        steps = [
            self._optimizer_step(rollout, rows, advantages, returns)
            for _ in range(args.num_ppo_epochs)
            for rows in torch.randperm(len(rollout.prompts), generator=generator).chunk(args.num_mini_batches)
        ]
        figures = self._figures(rollout, rewards, steps)
        state.update += 1
        self.scheduler.step()
        if args.kl_target is not None:
            state.kl_coef = objective.adapted_kl_coef(
                state.kl_coef, figures["objective/kl"], args.kl_target, len(rollout.prompts), args.kl_horizon
            )
        self.tracker.log(figures, step=state.update)
        self._look_after(figures)
        return figures

    def _optimizer_step(self, rollout: Rollout, rows: Tensor, advantages: Tensor, returns: Tensor) -> dict[str, Tensor]:
        """One step on some rows [m] of a rollout; returns sums over their tokens.

        The loss is a mean over all tokens of the mini-batch, so that how it is split into micro-batches changes
        nothing. Logits exist for a piece of the tokens at a time: each piece's gradient stops at the hidden states,
        and goes through the trunk once, when all have been collected.
        """
        args, actor_critic = self.args, self.actor_critic
        tokens_in_step = rollout.mask[rows].sum()
        sums: dict[str, Tensor] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for index in micro_batches(rollout.batch.lengths[rows], args.tokens_per_micro_batch):
            batch = rollout.batch.select(rows[index])
            mask, width = batch.response_mask, batch.response_ids.shape[1]
            old_log_probs, old_values, advantage, expected = (
                tensor[rows[index], :width][mask] for tensor in (rollout.log_probs, rollout.values, advantages, returns)
            )
            tokens = batch.response_ids[mask]
            states = actor_critic.response_states(batch)[mask]
            collected = states.detach().requires_grad_()
            for piece in torch.arange(len(tokens)).split(actor_critic.tokens_at_once):
                logits = actor_critic.logits(collected[piece])
                log_probs = token_log_probs(logits, tokens[piece], args.temperature)
                values = actor_critic.values(collected[piece])
                surrogate, policy_clipped = objective.policy_loss(
                    log_probs, old_log_probs[piece], advantage[piece], args.cliprange, args.dual_clip
                )
                squared, value_clipped = objective.value_loss(
                    values, old_values[piece], expected[piece], args.cliprange_value
                )
                loss = surrogate.sum() + args.vf_coef * squared.sum()
                if args.entropy_coef:
                    loss = loss - args.entropy_coef * objective.entropy(logits.float() / args.temperature).sum()
                (loss / tokens_in_step).backward()
                log_ratio = (log_probs - old_log_probs[piece]).detach()
                measured = {
                    "loss/policy_avg": surrogate.detach(),
                    "loss/value_avg": squared.detach(),
                    "policy/approxkl_avg": 0.5 * log_ratio**2,
                    "policy/clipfrac_avg": policy_clipped.float(),
                    "val/clipfrac_avg": value_clipped.float(),
                    "val/ratio": log_ratio.exp(),
                }
                for name, values_of_tokens in measured.items():
                    sums[name] = sums.get(name, 0) + values_of_tokens.sum() / tokens_in_step
            assert collected.grad is not None
            states.backward(collected.grad)
        norm = nn.utils.clip_grad_norm_(actor_critic.trainable.values(), args.max_grad_norm or math.inf)
        if not torch.isfinite(norm):
            raise AlignError(
                f"PPO stopped in update {self.state.update + 1}: the gradient is not finite. The weights before this "
                "step are kept in the last checkpoint; a lower learning_rate or reward_clip may help."
            )
        self.optimizer.step()
        return {**sums, "policy/grad_norm": norm.detach()}

    def _shaped(self, rollout: Rollout) -> Tensor:
        """Scores [b] as PPO sees them: penalised where a response did not end, scaled, clipped."""
        args, scores = self.args, rollout.scores
        if args.missing_eos_penalty is not None:
            scores = scores - args.missing_eos_penalty * ~rollout.finished
        if args.reward_scaling:
            self.state.moments.update(scores)
            scores = scores / self.state.moments.std
        return scores if args.reward_clip is None else scores.clamp(-args.reward_clip, args.reward_clip)

    def _figures(self, rollout: Rollout, rewards: Tensor, steps: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """What is logged of an update, under TRL's names."""
        figures: dict[str, Tensor] = {
            "objective/kl": rollout.kl.mean(),
            "objective/scores": rollout.scores.mean(),
            "objective/scores_std": rollout.scores.std(correction=0),
            "objective/entropy": rollout.entropies.sum(1).mean(),
            "objective/non_score_reward": rollout.kl.mean() * -self.state.kl_coef,
            "objective/rlhf_reward": rewards.sum(1).mean(),
            "objective/response_length": rollout.mask.sum(1).float().mean(),
            "policy/entropy_avg": objective.masked_mean(rollout.entropies, rollout.mask),
            "val/num_eos_tokens": rollout.finished.sum(),
            **{name: torch.stack([step[name] for step in steps]).mean() for name in steps[0]},
        }
        return {
            **{name: value.item() for name, value in figures.items()},
            "objective/kl_coef": self.state.kl_coef,
            "objective/repetition": sum(map(repetition, rollout.responses)) / len(rollout.responses),
            "lr": float(self.scheduler.get_last_lr()[0]),
            "episode": (self.state.update + 1) * self.args.batch_size,
        }

    def _look_after(self, figures: Mapping[str, float]) -> None:
        """Stop on a NaN; warn or stop, as the recipe says, where a figure left its bounds."""
        if broken := health.not_finite(figures):
            raise AlignError(f"PPO stopped in update {self.state.update}: {', '.join(broken)} is not finite")
        for problem in health.problems(figures, self.state.first_length, self.args.health):
            logger.warning("ppo health, update %d: %s", self.state.update, problem)
            if self.args.health.action == "stop":
                self.state.stopped = problem

    # Prompts and chance

    def _roll_out(self, prompts: Sequence[Prompt], generator: torch.Generator) -> Rollout:
        return roll_out(
            self.actor_critic,
            self.tokenizer,
            self.reward,
            prompts,
            self.settings,
            eos_token_id=self.eos_token_id,
            tokens_per_micro_batch=self.args.tokens_per_micro_batch,
            generator=generator,
        )

    def _prompts_of(self, update: int) -> list[Prompt]:
        """The batch of an update: each pass over the prompts is shuffled anew, and passes follow without a gap."""
        size, count = self.args.batch_size, len(self.prompts)
        places = range(update * size, (update + 1) * size)
        orders = {
            number: torch.randperm(count, generator=torch.Generator().manual_seed(self.args.seed + number)).tolist()
            for number in {place // count for place in places}
        }
        return [self.prompts[orders[place // count][place % count]] for place in places]

    def _generator(self, update: int) -> torch.Generator:
        """The source of all that is random in an update."""
        return torch.Generator().manual_seed(self.args.seed * 1_000_003 + update)

    def _total_episodes(self) -> int:
        return self.args.total_episodes or math.ceil(self.args.num_train_epochs * len(self.prompts))

    def _learning_rate_share(self, update: int) -> float:
        """Share of `learning_rate` at an update: warm-up, then the schedule, which reaches 0 after the last."""
        args = self.args
        warmup = args.warmup_steps if args.warmup_steps >= 1 else args.warmup_steps * self.updates
        if update < warmup:
            return (update + 1) / (warmup + 1)
        done = min((update - warmup) / max(self.updates - warmup, 1), 1.0)
        return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[
            args.lr_scheduler_type
        ]

    # Held-out prompts and the best policy

    def _evaluate(self) -> None:
        """Score held-out prompts, always with the same random numbers; keep the policy if it is the best so far."""
        if not self.eval_prompts:
            return
        rollouts = list(self._held_out())
        reward = float(torch.cat([rollout.scores for rollout in rollouts]).mean())
        kl = float(torch.cat([rollout.kl for rollout in rollouts]).mean())
        figures = {"eval/objective/scores": reward, "eval/objective/kl": kl}
        self.tracker.log(figures, step=self.state.update)
        self._show_samples(rollouts[0])
        within_budget = self.args.max_eval_kl is None or kl <= self.args.max_eval_kl
        if self.state.update == 0 or (within_budget and reward > self.state.best.reward):
            self.state.best = Best(self.state.update, reward, kl)
            self.best_weights = weights(self.actor_critic)

    def _held_out(self) -> Iterator[Rollout]:
        generator = torch.Generator().manual_seed(self.args.seed)
        for start in range(0, len(self.eval_prompts), self.args.batch_size):
            yield self._roll_out(self.eval_prompts[start : start + self.args.batch_size], generator)

    def _show_samples(self, rollout: Rollout) -> None:
        rows = [
            [prompt.text, response, float(score), float(kl)]
            for prompt, response, score, kl in zip(
                rollout.prompts, rollout.responses, rollout.scores, rollout.kl, strict=True
            )
        ]
        columns = ["prompt", "response", "score", "kl"]
        self.tracker.table("samples", columns, rows[: self.args.num_eval_samples], step=self.state.update)

    # Checkpoints

    def _save(self) -> None:
        """Write everything that the next update depends on; complete or absent."""
        if self.checkpoint_dir is None:
            return
        with new_checkpoint(self.checkpoint_dir, self.state.update, self.args.save_total_limit) as directory:
            save_file(weights(self.actor_critic), directory / "weights.safetensors")
            save_file(self.best_weights, directory / "best.safetensors")
            torch.save(
                {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()},
                directory / "optimizer.pt",
            )
            (directory / "state.json").write_text(self.state.to_json(), encoding="utf-8")

    def _resume(self) -> None:
        directory = newest_complete_checkpoint(self.checkpoint_dir) if self.checkpoint_dir is not None else None
        if directory is None:
            return
        restore(self.actor_critic, load_file(directory / "weights.safetensors"))
        self.best_weights = load_file(directory / "best.safetensors")
        saved = torch.load(directory / "optimizer.pt", weights_only=True)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.state = State.from_json((directory / "state.json").read_text(encoding="utf-8"))
        logger.info("ppo goes on after update %d of %d", self.state.update, self.updates)


def as_prompts(rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """Rows with `prompt` or `input_ids` as prompts. Raises a `UsageError` that names the row."""
    prompts = []
    for number, row in enumerate(rows):
        if "input_ids" in row:
            token_ids = list(row["input_ids"])
            text = row.get("prompt") or tokenizer.decode(token_ids, skip_special_tokens=True)
        elif isinstance(row.get("prompt"), str):
            text = row["prompt"]
            token_ids = tokenizer(text)["input_ids"]
        else:
            raise UsageError(f"row {number} of the prompts has neither `prompt` nor `input_ids`: {sorted(row)}")
        if not token_ids:
            raise UsageError(f"row {number} of the prompts is empty")
        prompts.append(Prompt(text, token_ids, row.get("reference")))
    return prompts
