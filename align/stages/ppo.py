"""PPO: train a policy against a reward model, close to where it started.

    align run recipes/quickstart.yaml ppo

The policy (decoder-only or encoder-decoder) samples responses to prompts, the reward model scores their text, and PPO
(`align.ppo`) raises the score less `kl_coef` x KL from the initial policy. The policy published is the one with the
highest reward on held-out prompts, or where the recipe names a `judge`, the one which that scores highest.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase, set_seed

import reward_models
from align.configs.base import LoraSettings, RewardSpec
from align.configs.ppo import PPOStageConfig
from align.data import examples
from align.errors import UsageError
from align.modeling.adapters import attach, save_tuned
from align.modeling.context import context_of
from align.modeling.load import load_causal_or_seq2seq, load_tokenizer, parameter_count
from align.ppo import PPOConfig, PPOTrainer
from align.ppo.critic import load_critic
from align.stages import gains
from align.tracking import Tracker
from align.workspace import Inputs, Metrics, Workspace

logger = logging.getLogger(__name__)

HELD_OUT_SHARE, HELD_OUT_MOST = 0.1, 128
EVALUATIONS = "evaluations.jsonl"
"""Beside the model: reward, KL and judge on held-out prompts, a line for every evaluation."""
GAINS = "gains.png"
"""Of a policy with a judge: what reward and judge gained over √KL."""


def run(config: PPOStageConfig, inputs: Inputs, workspace: Workspace, tracker: Tracker) -> Metrics:
    """Train, and write the best policy to `workspace.output`."""
    set_seed(config.seed)
    tokenizer = load_tokenizer(inputs[config.policy])
    model: Any = load_causal_or_seq2seq(inputs[config.policy], four_bits=config.method == "qlora")
    if config.method != "full":
        model = attach(model, config.lora or LoraSettings())
    trainable = parameter_count(model, trainable=True)
    reward = _loaded("reward", config.reward, inputs)
    judge = None if config.judge is None else _loaded("judge", config.judge, inputs)

    longest = _longest_prompt(model, config)
    prompts = _fitting(examples.referenced_prompts(config.prompts), tokenizer, config, longest)
    if config.evaluation_prompts:
        held_out = _fitting(examples.referenced_prompts(config.evaluation_prompts), tokenizer, config, longest)
    else:
        prompts, held_out = _set_aside(prompts, config.seed)

    trainer = PPOTrainer(
        args=PPOConfig(**{**config.ppo.model_dump(), "seed": config.seed}),
        processing_class=tokenizer,
        model=model,
        reward_model=reward,
        value_model=load_critic(inputs[config.critic_from]) if config.critic_from is not None else None,
        train_dataset=prompts,
        eval_dataset=held_out,
        ptx_dataset=[
            {"prompt": one.prompt, "completion": one.completion} for one in examples.instructions(config.ptx_data)
        ],
        tracker=tracker,
        judge=judge,
        checkpoint_dir=workspace.checkpoints,
    )
    state = trainer.train()
    save_tuned(model, tokenizer, workspace.output, config.publish)
    lines = [json.dumps(figures) + "\n" for figures in state.evaluations]
    (workspace.output / EVALUATIONS).write_text("".join(lines), encoding="utf-8")
    metrics = {
        "updates": float(state.update),
        "kl_coef": state.kl_coef,
        "trainable_parameters": float(trainable),
    }
    if held_out:
        best = state.best
        metrics |= {"best_update": float(best.update), "eval_reward": best.reward, "eval_kl": best.kl}
    if judge is not None:
        metrics["eval_judge"] = state.best.score
        gains.draw(state.evaluations, workspace.output / GAINS)
    best_by = reward if judge is None else judge
    tracker.summary(metrics | {"reward": reward.describe(), "best_by": best_by.describe(), "stopped": state.stopped})
    return metrics


def _loaded(key: str, spec: RewardSpec, inputs: Inputs) -> reward_models.CheckedModel:
    """The scorer that the recipe describes; a fault in its description is found before any training."""
    try:
        return reward_models.load(reward_models.located(spec, inputs))
    except reward_models.RewardError as error:
        raise UsageError(f"{key}: {error}") from error


def _longest_prompt(model: Any, config: PPOStageConfig) -> int:
    """Tokens of a prompt at most: `max_prompt_length`, and no more than leave room for a response in the context."""
    context = context_of(model)
    if context is None:
        return config.max_prompt_length
    room = context if model.config.is_encoder_decoder else context - config.ppo.response_length
    if room < 1 or config.ppo.response_length > context:
        raise UsageError(
            f"ppo.response_length {config.ppo.response_length} leaves no room for a prompt in the policy's context of "
            f"{context} tokens: lower it"
        )
    return min(config.max_prompt_length, room)


def _fitting(
    prompts: Sequence[tuple[str, str | None]], tokenizer: PreTrainedTokenizerBase, config: PPOStageConfig, longest: int
) -> list[dict[str, Any]]:
    """Prompts of at most `longest` tokens, with their references; the others skipped, cut or refused, and counted."""
    rows: list[dict[str, Any]] = [{"prompt": prompt, "reference": reference} for prompt, reference in prompts]
    token_ids = [tokenizer(prompt)["input_ids"] for prompt, _ in prompts]
    too_long = [index for index, ids in enumerate(token_ids) if len(ids) > longest]
    if not too_long:
        return rows
    asked = longest == config.max_prompt_length
    limit = f"max_prompt_length {longest} tokens" if asked else f"the {longest} tokens that the policy's context leaves"
    count = f"{len(too_long)} of {len(prompts)} prompts are longer than {limit}"
    if config.long_prompts == "error" or (config.long_prompts == "skip" and len(too_long) == len(prompts)):
        change = "raise it" if asked else "lower ppo.response_length"
        choices = "skip or truncate_left" if config.long_prompts == "error" else "truncate_left"
        raise UsageError(f"{count}: {change}, or set long_prompts to {choices}")
    logger.warning("%s: %s", count, {"skip": "skipped", "truncate_left": "cut on the left"}[config.long_prompts])
    if config.long_prompts == "skip":
        return [row for row, ids in zip(rows, token_ids, strict=True) if len(ids) <= longest]
    for index in too_long:
        ids = token_ids[index]
        begun = 1 if longest > 1 and ids[0] == tokenizer.bos_token_id else 0  # A beginning stays one.
        rows[index]["input_ids"] = kept = ids[:begun] + ids[len(ids) - longest + begun :]
        rows[index]["attention_mask"] = [1] * len(kept)  # whatever it is, none of it is padding
        rows[index]["prompt"] = tokenizer.decode(kept, skip_special_tokens=True)
    return rows


def _set_aside(rows: list[dict[str, Any]], seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows to train on, and a tenth of the prompts to choose the best policy with; no prompt is in both."""
    distinct = list(dict.fromkeys(row["prompt"] for row in rows))
    count = min(int(len(distinct) * HELD_OUT_SHARE), HELD_OUT_MOST)
    chosen = set(random.Random(seed).sample(distinct, count))
    held_out = {row["prompt"]: row for row in rows if row["prompt"] in chosen}
    if not held_out:
        logger.warning(
            "too few prompts (%d) to set any aside: the last policy is published, not the best", len(distinct)
        )
    return [row for row in rows if row["prompt"] not in chosen], list(held_out.values())
