"""From what pydantic found to a sentence that says what to write instead.

`RENAMED` and `ADVICE` know the keys that transformers 5 and TRL dropped, and those that users of TRL, axolotl and peft
have in their fingers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from align.recipe.document import KeyPath, suggest

RENAMED = {
    "warmup_ratio": "warmup_steps",
    "torch_dtype": "dtype",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "sequence_len": "max_length",
    "cutoff_len": "max_length",
    "model_max_length": "max_length",
    "block_size": "max_length",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "micro_batch_size": "per_device_train_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "label_smoothing": "label_smoothing_factor",
    "max_grad_clip": "max_grad_norm",
    "logging_strategy": "logging_steps",
    "save_strategy": "save_steps",
    "random_seed": "seed",
    "model_revision": "revision",
    "model_name_or_path": "model",
    "model_name": "model",
    "base_model": "model",
    "policy_model": "policy",
    "model": "policy",
    "reward_model": "reward",
    "reward_model_path": "reward",
    "lora_r": "r",
    "lora_rank": "r",
    "rank": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target_modules": "target_modules",
    "peft_config": "lora",
    "train_dataset": "data",
    "dataset_name": "data",
    "dataset": "data",
    "eval_dataset": "evaluation_data",
    "prompts_dataset": "prompts",
    "data_path": "path",
    "data_files": "path",
    "dataset_text_field": "text",
    "text_column": "text",
    "label_column": "column",
    "num_samples": "limit",
    "max_samples": "limit",
    "positive_label": "positive",
    "init_kl_coef": "kl_coef",
    "kl_penalty_coef": "kl_coef",
    "beta": "kl_coef",
    "target": "kl_target",
    "target_kl": "kl_target",
    "horizon": "kl_horizon",
    "ppo_epochs": "num_ppo_epochs",
    "clip_range": "cliprange",
    "clip_eps": "cliprange",
    "clip_range_vf": "cliprange_value",
    "gae_lambda": "lam",
    "lambda": "lam",
    "response_len": "response_length",
    "max_new_tokens": "response_length",
    "max_prompt_len": "max_prompt_length",
    "whiten_advantage": "whiten_advantages",
    "ent_coef": "entropy_coef",
}
"""From a key as others call it to ours. The hint is given where ours is allowed."""

ADVICE = {
    "processing_class": "remove it: the tokenizer always comes with the model",
    "tokenizer": "remove it: the tokenizer always comes with the model",
    "evaluation_strategy": "remove it: held-out rows are given as `evaluation_data:` (ppo: `ppo.eval_steps`)",
    "eval_strategy": "remove it: held-out rows are given as `evaluation_data:` (ppo: `ppo.eval_steps`)",
    "eval_steps": "remove it: held-out rows are given as `evaluation_data:` and measured at the end",
    "no_cuda": "remove it, and set CUDA_VISIBLE_DEVICES= in the environment to stay on the CPU",
    "use_cpu": "remove it, and set CUDA_VISIBLE_DEVICES= in the environment to stay on the CPU",
    "logging_dir": "remove it: metrics are kept in the registry, and mirrored where `tracking:` says",
    "report_to": "remove it, and write `tracking: {wandb: {mode: offline}}` at the top of the recipe",
    "run_name": "remove it: a run is named after its stage",
    "output_dir": "remove it: a stage publishes a new version into the registry",
    "overwrite_output_dir": "remove it: a stage publishes a new version, and nothing is ever overwritten",
    "resume_from_checkpoint": "remove it: `align run` resumes from the last checkpoint by itself",
    "save_safetensors": "remove it: weights are always saved as safetensors",
    "save_total_limit": "remove it: checkpoints are cleared once the stage is published",
    "group_by_length": "remove it: transformers 5 dropped it",
    "push_to_hub": "remove it: nothing is uploaded",
    "hub_model_id": "remove it: nothing is uploaded",
    "fp16": "remove it, and set bf16: true on hardware that has it",
    "trust_remote_code": "remove it: code that comes with a model is never run",
    "mini_batch_size": "set num_mini_batches instead: batch_size divided by the mini-batch size",
    "steps": "set total_episodes instead: updates times batch_size",
    "ref_model": "remove it: the reference policy is the policy as it was before PPO",
    "reference": "remove it: the reference policy is the policy as it was before PPO",
    "value_model": "set ppo.critic instead, and critic_from to start from a classifier",
    "per_device_train_batch_size": "set batch_size instead: responses per update",
    "gradient_accumulation_steps": "remove it: gradients accumulate by tokens_per_micro_batch",
    "local_rollout_forward_batch_size": "set tokens_per_micro_batch instead: it bounds memory",
    "num_sample_generations": "set eval_steps instead: a table of samples comes with each evaluation",
    "sft_model_path": "set policy instead: a stage's name or a reference",
    "use_peft": "set method: lora instead",
    "use_lora": "set method: lora instead",
    "adapter": "set method: lora instead",
    "load_in_4bit": "set method: qlora instead",
    "quantization": "set method: qlora instead",
    "quantization_config": "set method: qlora instead",
    "load_in_8bit": "bases are held in 4 bits or not at all: set method: qlora instead",
    "completion_only_loss": "remove it: the loss is always on the completion alone",
    "train_on_inputs": "remove it: the loss is always on the completion alone",
    "packing": "remove it: pretrain always packs, the other stages never do",
    "num_labels": "remove it: labels are known by their names in the data",
    "label2id": "remove it: labels are known by their names in the data",
    "id2label": "remove it: labels are known by their names in the data",
}
"""What to do about keys that have no counterpart of another name."""

EXTRA_NOTES = {"warmup_ratio": " (a number below 1 is a share of all steps)"}


def schema_at(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel] | None:
    """The class that describes the mapping at `path` inside `model`, if one does."""
    for key in path:
        if isinstance(key, str):
            field = model.model_fields.get(key)
            inner = next(_models_in(field.annotation), None) if field else None
            if inner is None:
                return None
            model = inner
    return model


def unknown_key(key: str, root: type[BaseModel], around: Sequence[str | int]) -> str:
    """What to do about a key that `root` does not have at `around`."""
    here = schema_at(root, around) or root
    fields = here.model_fields
    if RENAMED.get(key) in fields:
        return f"renamed to `{RENAMED[key]}`{EXTRA_NOTES.get(key, '')}"
    if guess := suggest(key, fields, cutoff=0.85):
        return f"unknown key{guess}"
    for name, renamed in ((key, False), (RENAMED.get(key, ""), True)):
        place = next(_places_of(name, root), None) if name else None
        if place:
            rest = f", and is called `{name}`{EXTRA_NOTES.get(key, '')}" if renamed else ""
            return f"does not belong here, but under `{place}:`{rest}"
    if key in ADVICE:
        return ADVICE[key]
    if guess := suggest(key, fields):
        return f"unknown key{guess}"
    return f"unknown key; known here: {', '.join(fields)}"


def explain(error: Mapping[str, Any], root: type[BaseModel], values: Any) -> tuple[KeyPath, str]:
    """Where one of pydantic's findings is, and what it is, in plain words.

    Args:
        error: an entry of `ValidationError.errors()`.
        root: the class that was validated.
        values: what it was validated against.
    """
    kind, given = error["type"], error["input"]
    path = _without_union_tags(error["loc"], values)
    if kind == "extra_forbidden":
        return path, unknown_key(str(path[-1]), root, path[:-1])
    if kind == "missing":
        return path, "is missing, and has no default"
    message = str(error["msg"])
    for prefix in ("Value error, ", "Input should be a valid ", "Input should be ", "Input should "):
        message = message.removeprefix(prefix)
    if kind == "value_error":
        return path, message
    wanted = {
        "string_type": "text (put it in quotes)",
        "list_type": "a list (one entry per line, each after `- `)",
        "model_type": "a mapping of keys",
        "model_attributes_type": "a mapping of keys",
        "dict_type": "a mapping of keys",
        "bool_parsing": "true or false",
        "bool_type": "true or false",
        "int_parsing": "a whole number",
        "int_from_float": "a whole number",
        "float_parsing": "a number",
        "int_type": "a whole number",
        "float_type": "a number",
    }.get(kind)
    if kind in ("too_short", "string_too_short"):
        return path, "is empty; give at least one"
    if kind == "literal_error":
        guess = suggest(str(given), _quoted(message))
        return path, f"should be {message}, but is {_shown(given)}{guess}"
    if wanted is None and not str(error["msg"]).startswith("Input"):
        return path, message
    return path, f"should be {wanted or message}, but is {_shown(given)}"


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _models_in(part)


def _places_of(
    key: str, model: type[BaseModel], prefix: str = "", seen: tuple[type[BaseModel], ...] = ()
) -> Iterator[str]:
    """The blocks below `model` that have a field of this name, nearest first."""
    blocks = [
        (f"{prefix}{name}", inner)
        for name, field in model.model_fields.items()
        for inner in _models_in(field.annotation)
        if inner not in seen
    ]
    yield from (place for place, inner in blocks if key in inner.model_fields)
    for place, inner in blocks:
        yield from _places_of(key, inner, f"{place}.", (*seen, inner))


def _without_union_tags(location: Sequence[str | int], values: Any) -> KeyPath:
    """Pydantic names the branch of a union in its locations; people only know keys."""
    path: list[str | int] = []
    for index, key in enumerate(location):
        inside_list = isinstance(values, list) and isinstance(key, int)
        if inside_list and not -len(values) <= int(key) < len(values):
            break  # one that is missing at the end of a list
        if inside_list or (isinstance(values, dict) and key in values):
            path.append(key)
            values = values[key]
        elif isinstance(values, dict) and index == len(location) - 1 and "[" not in str(key):
            path.append(key)  # a key that is missing
    return tuple(path)


def _quoted(message: str) -> list[str]:
    return message.split("'")[1::2]


def _shown(value: Any) -> str:
    text = "empty" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
