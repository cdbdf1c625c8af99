"""What every stage that trains with a Hugging Face trainer shares: arguments, resuming, progress, stopping."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import send_to_device
from peft.helpers import disable_input_dtype_casting
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from align import interrupt
from align.configs.base import TrainConfig
from align.errors import AlignError, UsageError
from align.modeling.adapters import adding_at_once
from align.modeling.checkpoints import intact, mark_complete, newest_complete_checkpoint, step_of
from align.modeling.dropout import quick_dropout
from align.progress import Advance, track
from align.tracking import Tracker
from align.workspace import Workspace

Row = Mapping[str, Sequence[int]]
Collate = Callable[[list[Any]], dict[str, Any]]

Kind = TypeVar("Kind", bound=TrainerCallback)

STATE = "trainer_state.json"
"""Of a checkpoint: steps taken, losses logged."""
IGNORED = -100
"""The label of a token that is not in the loss."""


def training_arguments(
    train: TrainConfig,
    workspace: Workspace,
    seed: int,
    kind: type[TrainingArguments] = TrainingArguments,
    **more: Any,
) -> TrainingArguments:
    """The trainer's arguments: a recipe's `train:`, checkpoints in the workspace, and nothing that talks or asks.

    `kind` is the class that a trainer has for its arguments, and `more` what it wants besides or instead.

    Raises:
        UsageError: a value that transformers refuses, or an optimizer of a package that is not installed.
    """
    if re.search("8bit|32bit|bnb|lion|ademamix", train.optim) and find_spec("bitsandbytes") is None:
        raise UsageError(f"train.optim: {train.optim} needs bitsandbytes: pip install 'align-rlhf[quantization]'")
    settings = {
        **train.model_dump(),
        "output_dir": str(workspace.checkpoints),
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "steps",
        "save_total_limit": 2,
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "use_cpu": not torch.accelerator.is_available(),
        "dataloader_pin_memory": torch.accelerator.is_available(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # `gradient_checkpointing` has a new name in some versions.
        try:
            arguments = kind(**{**settings, **more})
        except ValueError as error:
            raise UsageError(f"train: {error}") from error
    # Where there are several accelerators, transformers would give each a batch: the same recipe, another training.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def fit(trainer: Trainer, workspace: Workspace, tracker: Tracker, description: str) -> float:
    """Train to the end, going on from the newest complete checkpoint. Returns the mean training loss.

    Raises:
        Interrupted: after a checkpoint, where a signal asked to end.
        AlignError: where the gradient is no longer finite, or memory ran out.
    """
    needs = _needs(trainer)
    checkpoint = newest_complete_checkpoint(workspace.checkpoints, needs)
    if checkpoint and _is_done(trainer, state := TrainerState.load_from_json(str(checkpoint / STATE))):
        # Killed between its last step and what follows. Resumed here within an epoch, a trainer takes one step more.
        best = state.best_global_step if trainer.args.load_best_model_at_end else None
        published = checkpoint if best is None else intact(workspace.checkpoints / f"checkpoint-{best}")
        trainer._load_from_checkpoint(str(published))
        trainer.state = state
        for average in _callbacks(trainer, AveragedWeights):
            average.read(checkpoint)
            average.put_into(trainer.model)
        return _mean_loss(state)
    if trainer.args.torch_compile:
        torch._dynamo.config.suppress_errors = True  # What cannot be compiled runs as it is, with a warning.
    trainer.remove_callback(PrinterCallback)  # It prints to stdout, which belongs to results.
    quickly = trainer.args.device.type == "cpu" and not trainer.args.torch_compile  # which draws in a way of its own
    with (
        ExitStack() as shown,
        quick_dropout() if quickly else nullcontext(),
        _inputs_as_they_are(trainer),
        adding_at_once(trainer.model) if _has_autocast(trainer) else nullcontext(),
    ):
        begun_at = step_of(checkpoint) if checkpoint else 0
        trainer.add_callback(_Companion(description, begun_at, tracker, shown, needs))
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except torch.OutOfMemoryError as error:
            raise AlignError(
                f"{description}: out of memory. Lower train.per_device_train_batch_size and raise "
                "train.gradient_accumulation_steps by the same factor, or set train.gradient_checkpointing"
            ) from error
    if trainer.state.global_step < trainer.state.max_steps:
        interrupt.raise_if_requested(f"a checkpoint of step {trainer.state.global_step} was saved")
    # Training leaves the model under autocast; what is measured and published next is what its files say.
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    return _mean_loss(trainer.state)


def _inputs_as_they_are(trainer: Trainer) -> AbstractContextManager[None]:
    """Within it, under autocast, adapters do not convert what they read to their float32, which autocast would convert
    back at once, in every layer (`benchmarks/training_step.py`). Their dropout is then of the lower precision, too."""
    return disable_input_dtype_casting(trainer.model, active=_has_autocast(trainer))  # type: ignore[no-any-return]


def _has_autocast(trainer: Trainer) -> bool:
    return bool(trainer.args.bf16 or trainer.args.fp16)


def completion_loss(
    model: PreTrainedModel, rows: Sequence[Any], collate: Collate, batch_size: int
) -> tuple[float, int]:
    """Mean cross entropy of all labelled tokens, and their number. Each token counts the same, whatever its batch."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    shifted = model.can_generate() and not model.config.is_encoder_decoder  # An encoder predicts tokens in place.
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            members = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
            batch = send_to_device(collate(members), device)
            labels = batch["labels"][:, 1:] if shifted else batch["labels"]
            count = int((labels != IGNORED).sum())
            if count:
                total += float(model(**batch).loss) * count
                tokens += count
    model.train(was_training)
    return total / max(tokens, 1), tokens


class LengthGroupedSampler(Sampler[int]):
    """Batches of rows of like length in random order, so that little is padded.

    The order depends on `(seed, epoch)` alone, which makes it the same in a resumed run; that of transformers draws
    from the global generator.
    """

    MOST_BATCHES_SORTED_TOGETHER = 50

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        shuffled = torch.randperm(len(self.lengths), generator=generator).tolist()
        # At least four windows: sorted as a whole, the rows would make the same batches in every epoch.
        together = min(len(shuffled) // (4 * self.batch_size), self.MOST_BATCHES_SORTED_TOGETHER)
        window = self.batch_size * max(together, 1)
        by_length: list[int] = []
        for start in range(0, len(shuffled), window):
            by_length += sorted(shuffled[start : start + window], key=lambda index: -self.lengths[index])
        batches = [by_length[start : start + self.batch_size] for start in range(0, len(by_length), self.batch_size)]
        # A batch that is not full has to stay last: whoever cuts this order into batches counts off full ones.
        full = len(batches) - (len(batches[-1]) < self.batch_size)
        for place in [*torch.randperm(full, generator=generator).tolist(), *range(full, len(batches))]:
            yield from batches[place]


class GroupedByLength:
    """Mixed into a trainer: training rows (with `input_ids`) come grouped by length."""

    args: TrainingArguments
    train_dataset: Any

    def _get_train_sampler(self, train_dataset: Dataset[Row] | None = None) -> Sampler[int]:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        return LengthGroupedSampler([len(row["input_ids"]) for row in rows], self.args.train_batch_size, self.args.seed)


class TellEpoch(TrainerCallback):  # type: ignore[misc]
    """Gives each epoch its own noise, by `rows.epoch`. Rows to measure with keep epoch 0; training begins with 1."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Tell the rows."""
        self.rows.epoch = 1 + int(state.epoch or 0)


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Ends training when the last `patience` looks at the held-out loss were no better than the best before.

    Decided from the trainer's log alone, so that a resumed run stops where an uninterrupted one does; that of
    transformers counts, and begins anew.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def is_reached(self, state: TrainerState) -> bool:
        """Whether training ends at that state."""
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        return len(losses) - 1 - losses.index(min(losses)) >= self.patience if losses else False

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Look."""
        control.should_training_stop = control.should_training_stop or self.is_reached(state)
        return control


class AveragedWeights(TrainerCallback):  # type: ignore[misc]
    """Keeps a moving average of the trained weights, and puts it in their place when training is done.

    Each step keeps `share` of the average; less in the first steps, so that it soon forgets the beginning. It is part
    of every checkpoint.
    """

    FILE = "average.safetensors"

    def __init__(self, share: float) -> None:
        self.share = share
        self.average: dict[str, Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Begin with the weights themselves, or with the average that the checkpoint holds."""
        self.average = {name: part.detach().clone() for name, part in model.named_parameters() if part.requires_grad}
        if state.global_step:
            self.read(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    @torch.no_grad()
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Move the average towards the new weights."""
        share = min(self.share, state.global_step / (state.global_step + 10))
        for name, part in model.named_parameters():
            if name in self.average:
                self.average[name] = self.average[name].to(part.device).lerp_(part, 1 - share)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Add the average to the checkpoint, before that is marked complete."""
        if state.is_world_process_zero:
            save_file(self.average, Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Put the average in the weights' place."""
        self.put_into(model)

    def read(self, checkpoint: Path) -> None:
        """Go on with the average that a checkpoint holds."""
        self.average = load_file(checkpoint / self.FILE)

    @torch.no_grad()
    def put_into(self, model: Any) -> None:
        """Give the model the average instead of the weights that were trained."""
        for name, part in model.named_parameters():
            if name in self.average:
                part.copy_(self.average[name])


class _Companion(TrainerCallback):  # type: ignore[misc]
    """Shows progress, tells the tracker, completes checkpoints, and stops for a signal or a gradient gone wrong."""

    def __init__(
        self, description: str, initial: int, tracker: Tracker, shown: ExitStack, needs: Sequence[str]
    ) -> None:
        self.description, self.initial, self.tracker, self.shown = description, initial, tracker, shown
        self.needs = needs
        self.advance: Advance | None = None
        self.loss: dict[str, float] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.advance = self.shown.enter_context(track(self.description, state.max_steps, self.initial))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        gradients = [part.grad for part in model.parameters() if part.grad is not None]
        if not bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
            raise AlignError(
                f"{self.description}: the gradient is no longer finite at step {state.global_step + 1}. "
                f"A lower train.learning_rate than {args.learning_rate:g} or more train.warmup_steps usually help"
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.advance is not None:
            self.advance(1, **self.loss)
        if interrupt.requested() is not None:
            control.should_save = control.should_training_stop = True
        # The trainer forgets the loss since the last log when it is resumed, so that is logged with each checkpoint.
        control.should_log = control.should_log or control.should_save
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs:
            self.loss = {"loss": logs["loss"]}
            self.tracker.log({f"train/{name}": value for name, value in logs.items()}, state.global_step)
        elif logs and "eval_loss" in logs:
            self.tracker.log({"eval/loss": logs["eval_loss"]}, state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.needs)


def _needs(trainer: Trainer) -> list[str]:
    """What a checkpoint must hold: the trainer goes on without some of these, silently and to other results."""
    ranks = trainer.args.world_size
    draws = [f"rng_state_{rank}.pth" for rank in range(ranks)] if ranks > 1 else ["rng_state.pth"]
    average = [AveragedWeights.FILE] if _callbacks(trainer, AveragedWeights) else []
    return [STATE, "optimizer.pt", "scheduler.pt", *draws, *average]


def _is_done(trainer: Trainer, state: TrainerState) -> bool:
    stopped = any(stopping.is_reached(state) for stopping in _callbacks(trainer, EarlyStopping))
    return stopped or state.global_step >= state.max_steps


def _callbacks(trainer: Trainer, kind: type[Kind]) -> list[Kind]:
    return [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, kind)]


def _mean_loss(state: TrainerState) -> float:
    """Mean over all steps, also those before a resume. Each logged loss is the mean since the log before."""
    total, last = 0.0, 0
    for entry in state.log_history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last)
            last = entry["step"]
    return total / max(last, 1)
