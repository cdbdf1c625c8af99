"""Callbacks of transformers: told of every update, and able to ask for an evaluation, a checkpoint or the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from align.configs.ppo import PPOConfig
from align.ppo import ranks


class Callbacks:
    """The callbacks of a run. An empty list is the null object."""

    def __init__(
        self,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]],
        args: PPOConfig,
        updates: int,
        epochs: float,
        **parts: Any,
    ) -> None:
        """`updates` in all are so many `epochs`, passes over the prompts; `parts` are what callbacks get by keyword."""
        self._callbacks = [callback() if isinstance(callback, type) else callback for callback in callbacks]
        self._args = args
        self._parts = parts
        self._epochs_per_update = epochs / max(updates, 1)
        first = ranks.rank() == 0
        self.state = TrainerState(max_steps=updates, is_local_process_zero=first, is_world_process_zero=first)
        self.control = TrainerControl()

    def add(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """One more."""
        self._callbacks.append(callback() if isinstance(callback, type) else callback)

    def tell(self, event: str, update: int, **more: Any) -> TrainerControl:
        """Call `event` (`on_step_end`, ...) of each after `update` updates; what they ask for, all together."""
        self.state.global_step = update
        self.state.epoch = update * self._epochs_per_update
        for callback in self._callbacks:
            answer = getattr(callback, event)(self._args, self.state, self.control, **self._parts, **more)
            self.control = self.control if answer is None else answer
        return self.control

    def log(self, figures: Mapping[str, float], update: int) -> None:
        """Tell of an update's figures, and keep them in `state.log_history`."""
        self.state.log_history.append({**figures, "step": update})
        self.tell("on_log", update, logs=dict(figures))

    def evaluated(self, figures: Mapping[str, float], update: int) -> None:
        """Tell of an evaluation. Callbacks of transformers look for figures whose names begin with `eval_`."""
        self.control.should_evaluate = False
        self.tell("on_evaluate", update, metrics={**figures, **{f"eval_{name}": figures[name] for name in figures}})

    def saved(self, update: int) -> None:
        """Tell of a checkpoint."""
        self.control.should_save = False
        self.tell("on_save", update)
