"""`kind: reward`: a model whose number can steer PPO or judge an evaluation.

It is an ordinary sequence classifier on the body of any model: a decoder-only one (the last token is classified), a T5,
or an encoder. It learns labels (`classification.py`, with transformers' `Trainer`) or preferences (`preference.py`,
with TRL's `RewardTrainer`). What its number means is published beside the weights in `reward_model.json`: the label by
name, so that no one has to guess the polarity of an index, the transform, and the moments of the reward.
"""

from __future__ import annotations

import json
import logging
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import Trainer, TrainerCallback, set_seed

import reward_models
from align.configs.base import LoraSettings
from align.configs.reward import Normalize, RewardConfig
from align.data import examples
from align.errors import AlignError, UsageError
from align.modeling import calibration
from align.modeling.adapters import frozen_weights_in, merged, save_adapter
from align.modeling.checkpoints import intact
from align.modeling.classifiers import attach, closing_texts
from align.modeling.export import empty_directory, save_model
from align.modeling.load import load_classifier, load_config, load_tokenizer, parameter_count
from align.modeling.training import AveragedWeights, EarlyStopping, fit, training_arguments
from align.progress import track
from align.stages.classification import Classification
from align.stages.preference import PreferenceModelling
from align.stages.responses import Responses, load_subject
from align.tracking import Tracker
from align.workspace import Inputs, Interval, Metrics, Workspace
from reward_models import first_token
from reward_models.classifier import without_room

logger = logging.getLogger(__name__)


def run(config: RewardConfig, inputs: Inputs, workspace: Workspace, tracker: Tracker) -> Metrics:
    """Train the classifier and measure it on held-out rows.

    Raises:
        UsageError: where the data lacks the label that is scored, or has no other, or no text fits in `max_length`.
        AlignError: where the held-out AUC is below `require_auc`; nothing is left to publish then.
    """
    output = empty_directory(workspace.output)
    task = PreferenceModelling(config) if config.pairs else Classification(config)
    tokenizer = closing_texts(load_tokenizer(inputs[config.model]), load_config(inputs[config.model]))
    if problem := without_room(tokenizer, config.max_length):
        raise UsageError(problem)
    # What may be wrong with the policy or its prompts is found out before a classifier is trained for them.
    responses = _responses(config.normalize, inputs, workspace, config.seed) if config.normalize else ([], [])
    set_seed(config.seed)
    # Some encoders' tokenizers name fewer tokens than the model has positions, and would not read what was trained.
    tokenizer.model_max_length = max(tokenizer.model_max_length, config.max_length)
    classifier = load_classifier(
        inputs[config.model],
        task.labels,
        task.problem_type,
        dropout=config.dropout,
        attn_implementation=config.attn_implementation,
    )
    classifier.config.pad_token_id = tokenizer.pad_token_id
    metrics: dict[str, float | Interval] = {
        "parameters": float(parameter_count(classifier)),
        "rows": float(len(task.training)),
    }
    if not config.masked_lm_weight:  # which reads all positions
        first_token.compute_alone(classifier)
    model = attach(classifier, config.lora or LoraSettings()) if config.method == "lora" else classifier
    metrics["trainable_parameters"] = float(parameter_count(model, trainable=True))

    arguments = partial(training_arguments, config.train, workspace, config.seed, **_looks_at_tuning_rows(config))
    stopping = config.early_stopping
    callbacks: list[TrainerCallback] = [EarlyStopping(stopping.patience)] if stopping else []
    if config.average_weights:
        callbacks.append(AveragedWeights(config.average_weights))
    trainer = task.trainer(model, tokenizer, arguments, callbacks)
    with frozen_weights_in(model, getattr(torch, config.dtype)):
        metrics["train_loss"] = fit(trainer, workspace, tracker, "reward")
    if stopping:
        metrics["best_step"] = float(_best_step(trainer, workspace))

    if config.calibration == "temperature":
        logits = task.tuning_logits(model, tokenizer)
        temperature = calibration.temperature(logits, task.likelihood_loss)
        calibration.divide_logits(model, temperature)
        metrics["temperature"] = temperature
    if isinstance(model, PeftModel):
        save_adapter(model, output / "adapter")
        classifier = merged(model, output / "adapter")
    metrics |= task.measure(classifier, tokenizer)
    tracker.summary(metrics)
    _require_skill(config, metrics, output)
    save_model(classifier, tokenizer, output)
    # The published tokenizer closes texts by itself where that is wanted: nothing more is to be put there.
    declaration = {**task.declaration(), "max_length": config.max_length, "append_eos": False}
    if config.probes:
        declaration["probes"] = config.probes
    _declare(output, declaration)
    if config.normalize is not None:
        moments = _moments(config.normalize.policy, *responses, output)
        _declare(output, {**declaration, "moments": moments})
        metrics |= {f"reward_{name}": value for name, value in moments.items()}
    return metrics


def _looks_at_tuning_rows(config: RewardConfig) -> dict[str, Any]:
    """The trainer's arguments for early stopping: a look and a checkpoint at the same step, the best one kept."""
    if config.early_stopping is None:
        return {}
    return {
        "eval_strategy": "steps",
        "eval_steps": config.early_stopping.eval_steps,
        "save_steps": config.early_stopping.eval_steps,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
    }


def _best_step(trainer: Trainer, workspace: Workspace) -> int:
    """The step whose weights the trainer has loaded.

    Raises:
        UsageError: its checkpoint is damaged: the trainer then keeps the last weights, silently.
    """
    step: int = trainer.state.best_global_step
    intact(workspace.checkpoints / f"checkpoint-{step}")
    return step


def _require_skill(config: RewardConfig, metrics: Metrics, output: Path) -> None:
    key, what = ("pair_accuracy", "pair accuracy") if config.pairs else ("auc", "AUC")
    measured = metrics[key]
    value, low = (measured.value, measured.low) if isinstance(measured, Interval) else (measured, measured)
    if config.require_auc is not None and value < config.require_auc:
        empty_directory(output)
        raise AlignError(
            f"the classifier's {what} on held-out rows is {value:.3f}, below require_auc {config.require_auc}: PPO "
            "would follow a wrong pointer. More or other rows, more epochs or a better model may help"
        )
    if low <= 0.5:
        logger.warning(
            "the classifier's %s on held-out rows is %.3f, from %.3f on: it may have learned nothing (chance is 0.5). "
            "A lower learning_rate, more epochs or more rows may help; require_auc makes this an error",
            what,
            value,
            low,
        )


def _responses(normalize: Normalize, inputs: Inputs, workspace: Workspace, seed: int) -> tuple[list[str], list[str]]:
    """The prompts, and the policy's response to each.

    Raises:
        Interrupted: after a checkpoint of the responses so far, where a signal asked to end.
        UsageError: a prompt does not fit into the policy's context.
    """
    prompts = examples.prompts(normalize.prompts)
    policy = load_subject("policy", inputs[normalize.policy])
    kept = Responses(workspace.checkpoints / "moments")
    with track("moments", total=len(prompts), initial=len(kept)) as advance:
        responses = kept.to_all(prompts, policy, normalize.generation, advance, seed=seed)
    return prompts, [response.text for response in responses]


def _moments(policy: str, prompts: list[str], responses: list[str], output: Path) -> dict[str, float]:
    """Mean and standard deviation of the published reward on responses of a policy.

    Raises:
        AlignError: the reward is the same for all of them.
    """
    scores = reward_models.load(str(output)).score(prompts, responses)
    std = statistics.pstdev(scores)
    if std < 1e-6:
        raise AlignError(f"normalize: the reward is {scores[0]:.3g} for all {len(scores)} responses of {policy}")
    return {"mean": statistics.fmean(scores), "std": std}


def _declare(output: Path, declaration: dict[str, Any]) -> None:
    (output / reward_models.DECLARATION).write_text(json.dumps(declaration, indent=2) + "\n", encoding="utf-8")
