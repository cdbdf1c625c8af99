"""Settings of TRL 1.12 and of transformers' `TrainingArguments` that change nothing here, and why.

A script may set them; it is told once. Names that a script only reads again (`sft_model_path`) are fields of
`PPOConfig` and no business of this table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import TrainingArguments

_REASONS = {
    "batches are made by `tokens_per_micro_batch`, and how they are split changes no result": (
        "local_rollout_forward_batch_size per_device_eval_batch_size auto_find_batch_size eval_accumulation_steps "
        "batch_eval_metrics eval_do_concat_batches eval_use_gather_object train_sampling_strategy length_column_name"
    ),
    "it follows from batch_size and num_mini_batches": (
        "num_total_batches micro_batch_size local_batch_size local_mini_batch_size mini_batch_size"
    ),
    "several processes are those that torchrun starts, and each holds all weights": (
        "world_size ds3_gather_for_generation average_tokens_across_devices ddp_find_unused_parameters "
        "ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed "
        "accelerator_config parallelism_config local_rank log_on_each_node log_level_replica save_on_each_node"
    ),
    "prompts are held in memory, without a data loader": (
        "dataloader_drop_last dataloader_num_workers dataloader_pin_memory "
        "dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context "
        "dataloader_in_order remove_unused_columns ignore_data_skip data_seed"
    ),
    "PPO has no labels": "label_names label_smoothing_factor prediction_loss_only include_for_metrics",
    "the optimizer is AdamW unless `optimizers` gives another": "optim optim_args optim_target_modules",
    "schedules take no arguments here; give a scheduler as `optimizers`": "lr_scheduler_kwargs",
    "weights and log-probabilities are float32; bf16 autocast is `bf16`": "fp16 bf16_full_eval fp16_full_eval tf32",
    "rollouts and updates use one implementation, so that their probabilities agree": (
        "use_liger_kernel liger_kernel_config use_cache neftune_noise_alpha enable_jit_checkpoint"
    ),
    "checkpointing of activations is `gradient_checkpointing`, without arguments": (
        "activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing_kwargs"
    ),
    "nothing is emptied: no memory is held that the next update does not need": "torch_empty_cache_steps",
    "every update is logged, with every figure": (
        "logging_strategy logging_steps logging_first_step logging_nan_inf_filter include_num_input_tokens_seen "
        "log_level disable_tqdm debug skip_memory_metrics project trackio_space_id trackio_bucket_id "
        "trackio_static_space_id"
    ),
    "held-out prompts are evaluated before the first update and every `eval_steps`": (
        "eval_strategy eval_delay eval_on_start num_sample_generations do_train do_eval do_predict"
    ),
    "with held-out prompts the best policy by reward (or by `judge`), within `max_eval_kl`, is always the one kept": (
        "load_best_model_at_end metric_for_best_model greater_is_better"
    ),
    "a checkpoint holds all but callbacks, which start over; resume with train(resume_from_checkpoint=True)": (
        "save_only_model restore_callback_states_from_checkpoint resume_from_checkpoint"
    ),
    "runs are always deterministic on a CPU": "full_determinism",
    "nothing is uploaded while training; call trainer.push_to_hub()": ("hub_strategy hub_always_push"),
}

NO_EFFECT = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""From a name to why it changes nothing."""

_OF_TRL: dict[str, Any] = {
    "local_rollout_forward_batch_size": 64,
    "num_sample_generations": 10,
    "world_size": None,
    "num_total_batches": None,
    "micro_batch_size": None,
    "local_batch_size": None,
    "local_mini_batch_size": None,
    "mini_batch_size": None,
    "ds3_gather_for_generation": True,
}
"""Names that TRL adds to `TrainingArguments`, with its defaults."""

_AS_GOOD_AS_DEFAULT: dict[str, tuple[Any, ...]] = {
    "logging_steps": (10,),
    "optim": ("adamw_torch", "adamw_torch_fused"),
    "eval_strategy": ("steps",),
    "logging_strategy": ("steps",),
    "average_tokens_across_devices": (False,),
    "do_train": (True,),
    "include_num_input_tokens_seen": (False,),
}
"""Values besides the default that ask for nothing but what is done anyway."""


def defaults() -> dict[str, Any]:
    """The names without effect, with the defaults that a script expects to read."""
    inherited = {
        field.name: [] if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(TrainingArguments)
        if field.name in NO_EFFECT
    }
    return {**inherited, **_OF_TRL}


def complaints(given: Mapping[str, Any]) -> list[str]:
    """A sentence for each setting of `given` that asks for something and changes nothing."""
    usual = defaults()
    return [
        f"{name}={value!r}: {NO_EFFECT[name]}"
        for name, value in given.items()
        if name in NO_EFFECT
        and value is not None
        and value not in (usual.get(name), *_AS_GOOD_AS_DEFAULT.get(name, ()))
    ]
