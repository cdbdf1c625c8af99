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

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, TrainerCallback

from align import interrupt
from align.configs.base import GenerationSettings
from align.errors import AlignError, UsageError
from align.modeling.checkpoints import all_in, new_checkpoint
from align.modeling.context import context_of
from align.modeling.trunk import unwrapped
from align.ppo import checkpoint, health, mixing, objective, preflight, publishing, ranks
from align.ppo.actor_critic import ActorCritic, restore, weights
from align.ppo.arguments import PPOConfig
from align.ppo.callbacks import Callbacks
from align.ppo.compatibility import (
    check_adapters,
    check_critic,
    check_held_out,
    check_lengths,
    check_models,
    check_references,
    check_tokenizer,
)
from align.ppo.figures import of_held_out, of_update, print_table
from align.ppo.learning import accumulate_gradients, advantages_and_returns
from align.ppo.module_reward import as_reward
from align.ppo.parts import move, optimizer_of, tracker_of
from align.ppo.prompts import Collator, Prompt, Rows, as_prompts, batch_of
from align.ppo.rollout import Rollout, joined, roll_out
from align.ppo.schedule import in_updates, learning_rate_share
from align.ppo.state import Best, State
from align.progress import track
from align.tracking import NullTracker, Tracker
from reward_models import RewardError

logger = logging.getLogger(__name__)
T = TypeVar("T")


class PPOTrainer:
    """Trains `model` against `reward_model`, close to where it started. Arguments and their order are TRL 1.12's.

    Args:
        args: all settings.
        processing_class: the policy's tokenizer.
        model: a causal or encoder-decoder language model, plain or wrapped by peft.
        ref_model: the reference policy (default: `model` as it is now).
        reward_model: a `RewardModel`, a callable (prompts, responses) -> floats, or a sequence classifier with one
            label, which reads text that `processing_class` encodes anew.
        train_dataset: rows with `prompt` (text) or `input_ids`, and optionally `reference`.
        value_model: a critic with a trunk of its own, a sequence classifier with one label (default: what
            `args.critic` says, a head on the policy's trunk).
        data_collator: called with each row alone; the `input_ids` that it makes are the prompt.
        eval_dataset: held-out rows of the same form; the best policy is chosen on them.
        optimizers: an optimizer and a schedule per update, each or both None for AdamW and `lr_scheduler_type`.
        callbacks: callbacks of transformers.
        peft_config: adapters for `model`, which then alone train.
        ptx_dataset: rows with `prompt` and `completion`, whose supervised loss is mixed in by `args.ptx_coef`.
        tracker: where figures and sample tables go (default: what `args.report_to` says).
        judge: chooses the best policy by its scores of `eval_dataset`, where `reward_model` otherwise does.
        checkpoint_dir: where to save, and to resume from without being asked (default: `args.output_dir`, from which
            only `train(resume_from_checkpoint=...)` resumes).
    """

    def __init__(
        self,
        args: PPOConfig,
        processing_class: PreTrainedTokenizerBase,
        model: Any,
        ref_model: Any = None,
        reward_model: Any = None,
        train_dataset: Rows | None = None,
        value_model: Any = None,
        data_collator: Collator | None = None,
        eval_dataset: Rows | Mapping[str, Rows] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, Any] = (None, None),
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None = None,
        peft_config: Any = None,
        *,
        ptx_dataset: Rows | None = None,
        tracker: Tracker | None = None,
        judge: Any = None,
        checkpoint_dir: Path | None = None,
    ) -> None:
        check_models(model, ref_model, reward_model, value_model, peft_config)
        check_adapters(model, args)
        check_tokenizer(processing_class, args)
        ranks.join(use_cpu=args.use_cpu)
        torch.manual_seed(args.seed)
        self.args = args
        self.processing_class = processing_class
        if torch.cuda.is_available() and not args.use_cpu:
            move((model, ref_model, value_model, reward_model), "cuda")
        self.reward = as_reward(reward_model, processing_class)
        self.judge = None if judge is None else as_reward(judge, processing_class)
        self.model = model if peft_config is None else get_peft_model(model, peft_config)
        if args.model_adapter_name is not None:
            self.model.set_adapter(args.model_adapter_name)
        self.starts_at_reference = ref_model is None and args.ref_adapter_name is None
        self.actor_critic = ActorCritic(
            self.model,
            ref_model,
            value_model,
            critic=args.critic,
            learns_values=args.advantage == "gae",
            reference_adapter=args.ref_adapter_name,
            bf16=args.bf16,
            gradient_checkpointing=args.gradient_checkpointing,
        )

        vocabulary = unwrapped(self.model).get_input_embeddings().weight.shape[0]
        self.prompts = as_prompts(train_dataset or [], processing_class, vocabulary, data_collator)
        held_out = eval_dataset.values() if isinstance(eval_dataset, Mapping) else [eval_dataset or []]
        self.eval_prompts = [
            prompt for rows in held_out for prompt in as_prompts(rows, processing_class, vocabulary, data_collator)
        ]
        if value_model is not None:
            check_critic(value_model, args, vocabulary, len(processing_class))
        if not self.prompts:
            raise UsageError("PPO has no prompts to train on: train_dataset is empty")
        check_references(self.reward, [*self.prompts, *self.eval_prompts])
        check_held_out(self.eval_prompts, args, self.judge)
        if self.judge is not None:
            check_references(self.judge, self.eval_prompts)
        self.examples = mixing.as_examples(
            ptx_dataset or [],
            processing_class,
            context_of(self.model),
            apart=unwrapped(self.model).config.is_encoder_decoder,
        )
        if bool(self.examples) != bool(args.ptx_coef):
            raise UsageError("ptx_dataset is mixed in with the weight ptx_coef: give both or neither")
        check_lengths(self.model, [*self.prompts, *self.eval_prompts], args.response_length)
        episodes = args.total_episodes or math.ceil(args.num_train_epochs * len(self.prompts) * args.num_generations)
        self.updates = math.ceil(episodes / args.batch_size)
        if args.max_steps > 0:
            self.updates = min(self.updates, args.max_steps)

        eos = processing_class.eos_token_id if args.stop_token == "eos" else None
        self.stop_token_id = eos if args.stop_token_id is None else args.stop_token_id
        # Only fills up rows and is masked everywhere; a script may have added one that has no embedding.
        pad = processing_class.pad_token_id
        self.pad_token_id = pad if pad is not None and pad < vocabulary else 0
        if args.torch_compile:
            self.actor_critic.compile_trunks(args.torch_compile_backend, args.torch_compile_mode)
        self.settings = GenerationSettings(max_new_tokens=args.response_length, temperature=args.temperature)
        self.optimizer = optimizer_of(self.actor_critic, args, optimizers[0])
        self._share_of_learning_rate = partial(learning_rate_share, updates=self.updates, args=args)
        self._given_scheduler = optimizers[1]
        self.lr_scheduler = optimizers[1] or torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, self._share_of_learning_rate
        )
        self.callbacks = Callbacks(
            callbacks or [],
            args,
            self.updates,
            self.updates * args.batch_size / (args.num_generations * len(self.prompts)),
            model=self.model,
            processing_class=processing_class,
            optimizer=self.optimizer,
            lr_scheduler=self.lr_scheduler,
        )
        self._asks_to_resume = checkpoint_dir is None
        output_dir, saves = args.output_dir, args.save_strategy != "no"
        self.checkpoint_dir = Path(output_dir) if checkpoint_dir is None and output_dir and saves else checkpoint_dir
        self.tracker = (tracker or tracker_of(args)) if ranks.rank() == 0 else NullTracker()
        ranks.broadcast(list(self.actor_critic.trainable.values()))
        self.state = State(kl_coef=args.kl_coef)
        self._origin = checkpoint.origin(args, self.prompts, self.eval_prompts, self.examples)
        self.best_weights = weights(self.actor_critic)

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """One more callback of transformers."""
        self.callbacks.add(callback)

    def train(self, resume_from_checkpoint: bool | str | Path | None = None) -> State:
        """Train to the end; leaves the best policy on held-out prompts, or without any the last, in `model`.

        Args:
            resume_from_checkpoint: True for the newest in `output_dir`, or a checkpoint's directory. With
                `checkpoint_dir` the newest is taken unless this is False.

        Raises:
            AlignError: a preflight check failed; a reward did, and a checkpoint was written first; or a figure became
                NaN, and the checkpoints of earlier updates are kept.
            Interrupted: a signal came; a checkpoint was written first. Only within `align.interrupt.guarded()`, as in a
                recipe: a script is ended by the signal.
        """
        if self.checkpoint_dir is not None:
            try:
                self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"checkpoints cannot be written to {self.checkpoint_dir}: {error.strerror}") from error
        self._resume(resume_from_checkpoint)
        eval_steps, save_steps = (
            in_updates(every, self.updates) for every in (self.args.eval_steps, self.args.save_steps)
        )
        self.callbacks.tell("on_train_begin", self.state.update)
        with track("ppo", self.updates, self.state.update, silent=ranks.rank() != 0) as advance:
            if self.state.update == 0:
                for scorer in (self.reward, *([] if self.judge is None else [self.judge])):
                    self._scored(partial(preflight.check_polarity, scorer))
            ended = self.state.update == self.updates or self.state.stopped is not None
            if ended or self.state.update % eval_steps == 0:
                if not self.state.is_evaluated:
                    self._scored(self._choose)
            while self.state.update < self.updates and self.state.stopped is None:
                self.callbacks.tell("on_step_begin", self.state.update)
                figures = self._scored(self._update)
                advance(score=figures["objective/scores"], kl=figures["objective/kl"])
                asked = self.callbacks.tell("on_step_end", self.state.update)
                wishes = (asked.should_training_stop, asked.should_evaluate, asked.should_save)
                to_stop, to_evaluate, to_save = (any(of_ranks) for of_ranks in zip(*ranks.gather(wishes), strict=True))
                if to_stop and self.state.stopped is None:
                    self.state.stopped = "a callback asked for it"
                done = self.state.update == self.updates or self.state.stopped is not None
                if done or to_evaluate or self.state.update % eval_steps == 0:
                    self._scored(self._choose)
                done = done or self.state.stopped is not None
                signal = max(ranks.gather(interrupt.requested() or 0))  # what comes after this waits for the next step
                if done or to_save or self.state.update % save_steps == 0 or signal:
                    self._save()
                if signal:
                    interrupt.take_over(signal)
                    interrupt.raise_if_requested(f"a checkpoint of update {self.state.update} is kept")
        if self.args.health.min_score_std is not None:
            self.state.variety.say_if_constant(self.reward.name)
        if self.eval_prompts:
            restore(self.actor_critic, self.best_weights)
            self.state.say_which_is_kept(self.args.max_eval_kl)
        self.callbacks.tell("on_train_end", self.state.update)  # which may save or upload the model
        return self.state

    def _scored(self, work: Callable[[], T]) -> T:
        """Do something that asks for scores. Where a reward fails no weight has changed yet, and all is kept."""
        try:
            return work()
        except RewardError as error:
            self._save()
            raise AlignError(f"PPO stopped after update {self.state.update}: {error}") from error

    # One update, from prompts to new weights

    def _update(self) -> dict[str, float]:
        """Roll out one batch of prompts and learn from it."""
        args, state = self.args, self.state
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + state.update)
        rollout = self._roll_out(self._prompts_of(state.update), generator)
        if state.update == 0:
            self._preflight(rollout)
            state.first_length = float(rollout.mask.sum(1).float().mean())
        if args.health.min_score_std is not None:
            state.variety.watch(self.reward.name, rollout.scores.tolist(), rollout.responses)
        scores = self._shaped(rollout)
        rewards = objective.token_rewards(scores, rollout.log_ratios, rollout.mask, state.kl_coef)
        if args.whiten_rewards:
            rewards = objective.whiten(rewards, rollout.mask, shift_mean=False)
        advantages, returns = advantages_and_returns(rewards, scores, rollout.values, rollout.mask, args)

        mini_batches = [
            rows
            for _ in range(args.num_ppo_epochs)
            for rows in torch.randperm(len(rollout.prompts), generator=generator).chunk(args.num_mini_batches)
        ]
        steps = [
            self._optimizer_step(rollout, rows, advantages, returns, state.update * len(mini_batches) + number)
            for number, rows in enumerate(mini_batches)
        ]
        figures = {
            **of_update(rollout, rewards, steps, state.kl_coef),
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "episode": (state.update + 1) * args.batch_size,
        }
        state.update += 1
        self.lr_scheduler.step()
        if args.kl_target is not None:
            state.kl_coef = objective.adapted_kl_coef(
                state.kl_coef, figures["objective/kl"], args.kl_target, len(rollout.prompts), args.kl_horizon
            )
        self.tracker.log(figures, step=state.update)
        self.callbacks.log(figures, state.update)
        self._look_after(figures)
        return figures

    def _prompts_of(self, update: int) -> list[Prompt]:
        """The prompts of an update, each as often as it is to be answered."""
        repeats = self.args.num_generations
        distinct = batch_of(self.prompts, update, self.args.batch_size // repeats, self.args.seed)
        return [prompt for prompt in distinct for _ in range(repeats)]

    def _roll_out(
        self, prompts: Sequence[Prompt], generator: torch.Generator, settings: GenerationSettings | None = None
    ) -> Rollout:
        """Responses to all of the prompts: each rank samples and scores its share, and all get the whole."""
        settings, mine = settings or self.settings, ranks.share(len(prompts))

        def share() -> Rollout | None:
            if mine.start == mine.stop:
                return None
            rollout = roll_out(
                self.actor_critic,
                self.processing_class,
                self.reward,
                prompts[mine],
                settings,
                stop_token_id=self.stop_token_id,
                pad_token_id=self.pad_token_id,
                tokens_per_micro_batch=self.args.tokens_per_micro_batch,
                generator=generator,
            )
            return rollout.to("cpu")

        # Random numbers belong to places in the whole batch: those of the rows before and after are passed over.
        torch.rand(mine.start * settings.max_new_tokens, generator=generator)
        parts = ranks.each(share, RewardError)
        torch.rand((len(prompts) - mine.stop) * settings.max_new_tokens, generator=generator)
        return joined([part for part in parts if part is not None], self.pad_token_id).to(self.actor_critic.device)

    def _optimizer_step(
        self, rollout: Rollout, rows: Tensor, advantages: Tensor, returns: Tensor, number: int = 0
    ) -> dict[str, Tensor]:
        """Step `number` of the training, on some rows [m] of a rollout; returns means over their tokens."""
        self.optimizer.zero_grad(set_to_none=True)
        means = accumulate_gradients(self.actor_critic, rollout, rows, advantages, returns, self.args)
        if self.examples:
            means["loss/ptx_avg"] = mixing.add_supervised_gradients(
                self.actor_critic,
                batch_of(self.examples, number, len(rows), self.args.seed),
                self.args.ptx_coef,
                self.pad_token_id,
                self.args.tokens_per_micro_batch,
            )
        means = ranks.sum_figures(means)
        ranks.sum_gradients(list(self.actor_critic.trainable.values()))
        norm = nn.utils.clip_grad_norm_(self.actor_critic.trainable.values(), self.args.max_grad_norm or math.inf)
        if not torch.isfinite(norm):
            raise AlignError(
                f"PPO stopped in update {self.state.update + 1}: the gradient is not finite. {self._last_kept()}; "
                "a lower learning_rate or a reward_clip may help"
            )
        self.optimizer.step()
        return {**means, "policy/grad_norm": norm.detach()}

    def _shaped(self, rollout: Rollout) -> Tensor:
        """Scores [b] as PPO sees them: penalised where a response did not end, scaled, clipped."""
        args, scores = self.args, rollout.scores
        if args.missing_eos_penalty is not None:
            scores = scores - args.missing_eos_penalty * ~rollout.finished
        if args.reward_scaling:
            self.state.moments.update(scores)
            scores = scores / self.state.moments.std
        return scores if args.reward_clip is None else scores.clamp(-args.reward_clip, args.reward_clip)

    def _look_after(self, figures: Mapping[str, float]) -> None:
        """Stop on a NaN; warn or stop, as the recipe says, where a figure left its bounds."""
        if broken := health.not_finite(figures):
            raise AlignError(
                f"PPO stopped in update {self.state.update}: {', '.join(broken)} is not finite. {self._last_kept()}"
            )
        for problem in health.problems(figures, self.state.first_length, self.args.health):
            logger.warning("ppo health, update %d: %s", self.state.update, problem)
            if self.args.health.action == "stop":
                self.state.stopped = problem

    def _preflight(self, rollout: Rollout) -> None:
        """What can be known to be wrong before the first update."""
        preflight.check(
            self.actor_critic,
            rollout,
            temperature=self.args.temperature,
            stop_token_id=self.stop_token_id,
            starts_at_reference=self.starts_at_reference,
        )
        preflight.check_order(self.reward, rollout)
        some, ones = torch.arange(min(preflight.ROWS, len(rollout.prompts))), rollout.mask.float()
        preflight.check_learning_rate_zero(
            self.actor_critic,
            self.optimizer,
            weights(self.actor_critic),
            lambda: self._optimizer_step(rollout, some, ones, ones),
        )

    # Held-out prompts and the best policy

    def evaluate(self) -> dict[str, float]:
        """Score held-out prompts, always with the same random numbers; the figures are logged. Without any, none."""
        if not self.eval_prompts:
            return {}
        rollouts = list(self._held_out())
        judged: list[float] = []
        if self.judge is not None:
            scored_by = [partial(rollout.scored_by, self.judge) for rollout in rollouts]
            judged = [score for score_rows in scored_by for score in ranks.first(score_rows, RewardError)]
        figures = of_held_out(rollouts, judged)
        self.tracker.log(figures, step=self.state.update)
        self._show_samples(rollouts[0])
        self.callbacks.evaluated(figures, self.state.update)
        return figures

    def _choose(self) -> None:
        """Evaluate, and keep the policy if it is the best so far.

        A policy of a KL above `max_eval_kl` never is. Ends training where `early_stopping_patience` has run out.
        """
        args, state, figures = self.args, self.state, self.evaluate()
        if not figures:
            return
        state.evaluations.append({"update": state.update, **figures})
        kl = figures["eval/objective/kl"]
        candidate = Best(state.update, figures["eval/objective/scores"], kl, figures.get("eval/judge/scores"))
        if state.takes(candidate, within_budget=args.max_eval_kl is None or kl <= args.max_eval_kl):
            self.best_weights = weights(self.actor_critic)
        patience = args.early_stopping_patience
        if patience is not None and state.evaluations_since_best >= patience and state.stopped is None:
            state.stopped = f"{state.evaluations_since_best} evaluations without a better policy"

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

    def generate_completions(self, sampling: bool = False) -> list[dict[str, Any]]:
        """The most likely response to each held-out prompt, or with `sampling` to a first few, with its score.

        A first few are printed, and all are the tracker's table `completions`.
        """
        prompts = self.eval_prompts[: self.args.num_eval_samples] if sampling else self.eval_prompts
        greedy = self.settings.model_copy(update={"do_sample": False})
        rollouts = [
            self._roll_out(prompts[start : start + self.args.batch_size], torch.Generator(), greedy)
            for start in range(0, len(prompts), self.args.batch_size)
        ]
        rows = [
            {"prompt": prompt.text, "response": response, "score": float(score)}
            for rollout in rollouts
            for prompt, response, score in zip(rollout.prompts, rollout.responses, rollout.scores, strict=True)
        ]
        self.tracker.table("completions", ["prompt", "response", "score"], [list(row.values()) for row in rows])
        if ranks.rank() == 0:
            print_table(rows[: self.args.num_eval_samples])
        return rows

    # Saving and going on

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """Write the policy with its tokenizer, as `from_pretrained` loads them; of a peft policy the adapter.

        Args:
            output_dir: where to (default: `args.output_dir`, and without it `trainer_output`, as in transformers).
        """
        directory = output_dir or self.args.output_dir or "trainer_output"
        if ranks.rank() == 0:
            publishing.save(self.model, self.processing_class, Path(directory))

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        *,
        private: bool | None = None,
        **of_a_model_card: Any,
    ) -> None:
        """Upload policy and tokenizer to `hub_model_id`, by default called after `output_dir`, in one commit.

        Args:
            commit_message: of the upload.
            blocking: as in TRL's signature; the upload is always waited for.
            token: instead of `hub_token`; without either, that of `hf auth login`.
            revision: instead of `hub_revision`.
            private: instead of `hub_private_repo`; whether a new repository is private.
            of_a_model_card: likewise; none is written.
        """
        if ranks.rank() != 0:
            return
        args = self.args
        publishing.upload(
            self.model,
            self.processing_class,
            args.hub_model_id or Path(args.output_dir or "ppo").name,
            commit_message=commit_message,
            token=token or args.hub_token,
            revision=revision or args.hub_revision,
            private=args.hub_private_repo if private is None else private,
        )

    def _last_kept(self) -> str:
        held = all_in(self.checkpoint_dir)
        return f"Earlier checkpoints are in {self.checkpoint_dir}" if held else "No checkpoint was written yet"

    def _save(self) -> None:
        """Write a checkpoint: complete or absent."""
        if self.checkpoint_dir is None:
            return
        keep = self.args.save_total_limit or self.updates + 1
        if ranks.rank() == 0:
            with new_checkpoint(self.checkpoint_dir, self.state.update, keep, checkpoint.FILES) as directory:
                checkpoint.write(
                    directory,
                    self._origin,
                    self.actor_critic,
                    self.best_weights,
                    self.optimizer,
                    self.lr_scheduler,
                    self.state,
                )
        ranks.wait()  # nobody goes on, or looks for it, before it is there
        self.callbacks.saved(self.state.update)

    def _resume(self, wanted: bool | str | Path | None) -> None:
        """Go on from a checkpoint where one is wanted, or there is one in the `checkpoint_dir` that was given."""
        if wanted is False or (wanted is None and self._asks_to_resume):
            if all_in(self.checkpoint_dir):
                raise UsageError(
                    f"{self.checkpoint_dir} holds checkpoints of an earlier run: resume it by "
                    "train(resume_from_checkpoint=True), or remove them, or choose another directory"
                )
            return
        find = partial(checkpoint.to_resume, self.checkpoint_dir, wanted, saves=self.args.save_strategy != "no")
        directory = ranks.first(find, AlignError)
        if directory is None:
            return
        self.state, self.best_weights = checkpoint.read(
            directory, self._origin, self.actor_critic, self.optimizer, self.lr_scheduler
        )
        if self._given_scheduler is None:  # The run may have become longer, and its last learning rate was 0.
            for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.base_lrs, strict=True):
                group["lr"] = rate * self._share_of_learning_rate(self.state.update)
        logger.info("ppo resumes after update %d of %d", self.state.update, self.updates)
        if self.state.stopped is not None and self.state.update < self.updates:
            logger.warning(
                "ppo ended early, after update %d: %s. It will not be continued: start over, or resume from an earlier "
                "checkpoint, to go further",
                self.state.update,
                self.state.stopped,
            )
