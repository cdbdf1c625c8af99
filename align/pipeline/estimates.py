"""How large a stage's models are, and what it needs of memory and disk: from shapes alone, before anything is loaded.

Memory is that of weights, gradients and Adam's two moments. Activations come on top, and depend on batch and length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from align.configs import StageConfig
from align.configs.base import LoraSettings
from align.configs.base_model import BaseModelConfig
from align.configs.ppo import PPOStageConfig
from align.configs.pretrain import PretrainConfig
from align.configs.reward import RewardConfig
from align.configs.sft import SftConfig
from align.pipeline.planning import Source, Step
from align.recipe import parse_reference
from align.registry import files

Shapes = Mapping[str, tuple[int, ...]]
"""Of every tensor of a model, by its name; empty where nothing is known."""

BYTES, ADAM_BYTES = 4, 8
"""Per parameter: as float32, which all training is in; of Adam's moments."""
FOUR_BITS = 0.5 + 1 / 64
"""Bytes per parameter of a linear layer as 4-bit NormalFloats, with their scales of 8 bits for 64."""
_NO_LINEAR_LAYER = ("embed", "shared", "lm_head", "wte", "wpe", "bias", "score", "norm")
"""In the name of a matrix: it is no linear layer that `all-linear` adapters are put on."""


@dataclass(frozen=True)
class Estimate:
    """Of one stage. None: a model that is not here yet decides it."""

    parameters: int | None = None
    trainable: int | None = None
    memory: int | None = None
    """Bytes, without activations."""
    disk: int | None = None
    """Bytes: checkpoints while it runs, and what it publishes."""


def estimates(steps: Sequence[Step]) -> dict[str, Estimate]:
    """An estimate for each step of a plan, by its name."""
    made: dict[str, Shapes] = {}
    found: dict[str, Estimate] = {}
    for step in steps:
        given = {place: _of_source(source, made) for place, source in step.inputs.items()}
        made[step.name] = _made_by(step, given)
        found[step.name] = _estimate(step.config, made[step.name], given)
    return found


def of_directory(directory: Path) -> Shapes:
    """The shapes in all safetensors files of a directory, read from their headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(directory.glob("*.safetensors")):
        shapes |= {name: tuple(tensor["shape"]) for name, tensor in files.safetensors_header(path).items()}
    return shapes


def count(shapes: Shapes) -> int:
    """Numbers in all tensors."""
    return sum(math.prod(shape) for shape in shapes.values())


def adapter_size(shapes: Shapes, settings: LoraSettings) -> int:
    """Numbers in the adapters of that rank: `r` rows and columns for each linear layer that is a target."""
    targets = settings.target_modules
    if targets == "all-linear":
        adapted = _linear(shapes)
    else:
        adapted = [shape for name, shape in shapes.items() if any(f".{target}." in f".{name}." for target in targets)]
    return sum(settings.r * sum(shape) for shape in adapted if len(shape) == 2)


def _linear(shapes: Shapes) -> list[tuple[int, ...]]:
    """Of the linear layers inside a model, without embeddings and head."""
    return [
        shape
        for name, shape in shapes.items()
        if len(shape) == 2 and not any(part in name for part in _NO_LINEAR_LAYER)
    ]


def _held(shapes: Shapes, method: str) -> float:
    """Bytes of the weights in memory."""
    in_four_bits = sum(math.prod(shape) for shape in _linear(shapes)) if method == "qlora" else 0
    return BYTES * count(shapes) - (BYTES - FOUR_BITS) * in_four_bits


def _of_source(source: Source, made: Mapping[str, Shapes]) -> Shapes:
    if source.stage:
        return made.get(source.stage, {})
    if source.artifact:
        return of_directory(source.artifact.path)
    parsed = parse_reference(source.reference)
    return of_directory(Path(parsed.name).expanduser()) if parsed.kind == "path" else {}


def _made_by(step: Step, given: Mapping[str, Shapes]) -> Shapes:
    match step.config:
        case SftConfig() | RewardConfig():
            return given.get("model", {})
        case PPOStageConfig():
            return given.get("policy", {})
        case PretrainConfig():
            return {"llama": _llama, "t5": _t5, "modernbert": _modernbert}[step.config.architecture](step.config)
        case BaseModelConfig():
            return of_directory(step.artifact.path if step.artifact else Path(step.config.model).expanduser())
    return {}


def _estimate(config: StageConfig, shapes: Shapes, given: Mapping[str, Shapes]) -> Estimate:
    if not all(given.values()) and not isinstance(config, PPOStageConfig):
        return Estimate()
    size = count(shapes)
    match config:
        case BaseModelConfig() if size:
            return Estimate(size, 0, BYTES * size, BYTES * size)
        case PretrainConfig():
            return _training(size, BYTES * size, size, size)
        case RewardConfig():
            lora = adapter_size(shapes, config.lora or LoraSettings()) if config.method == "lora" else 0
            average = BYTES if config.average_weights else 0
            return _training(size, BYTES * (size + lora), lora or size, size + lora, average)
        case SftConfig():
            held = _held(shapes, config.method)
            if config.method == "full":
                return _training(size, held, size, size)
            tuned = adapter_size(shapes, config.lora or LoraSettings())
            return _training(size, held + BYTES * tuned, tuned, tuned if config.publish == "adapter" else size + tuned)
        case PPOStageConfig() if shapes:
            full, held = config.method == "full", _held(shapes, config.method)
            tuned = size if full else adapter_size(shapes, config.lora or LoraSettings())
            rewards = sum(count(found) for place, found in given.items() if place.startswith(("reward", "judge")))
            critic = tuned if config.ppo.critic != "shared" else 0
            frozen = held if full or config.ppo.critic == "separate" else 0  # the reference, or the critic's trunk
            kept = (config.ppo.save_total_limit or 2) + 1
            trained = tuned + critic
            return Estimate(
                size,
                trained,
                round(
                    held
                    + frozen
                    + BYTES * rewards
                    + (3 * BYTES + ADAM_BYTES) * trained
                    - (BYTES * tuned if full else 0)
                ),
                kept * (2 * BYTES + ADAM_BYTES) * trained + BYTES * (tuned if config.publish == "adapter" else size),
            )
    if config.kind == "evaluate":
        models = sorted((count(found) for place, found in given.items() if place.startswith("models.")), reverse=True)
        scorers = [count(found) for place, found in given.items() if not place.startswith(("models.", "baseline"))]
        return Estimate(memory=BYTES * sum([*models[:2], *scorers]))  # the baseline and one other at a time
    return Estimate()


def _training(size: int, held: float, trained: int, published: int, average: int = 0) -> Estimate:
    """By a trainer that keeps two checkpoints, of what is trained, while it writes a third.

    `average`: bytes that each trained parameter has besides weight, gradient and Adam's moments.
    """
    memory = round(held + (BYTES + ADAM_BYTES + average) * trained)
    return Estimate(size, trained, memory, 3 * (BYTES + ADAM_BYTES + average) * trained + BYTES * published)


def _llama(config: PretrainConfig) -> Shapes:
    size, width = config.size, config.size.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (config.tokenizer.vocab_size, width), "norm": (width,)}
    for layer in range(size.num_hidden_layers):
        shapes |= {f"{layer}.self_attn.{part}_proj": (width, width) for part in "qkvo"}
        shapes |= {f"{layer}.mlp.{part}_proj": (size.intermediate_size, width) for part in ("gate", "up", "down")}
        shapes |= {f"{layer}.{part}_norm": (width,) for part in ("input", "post_attention")}
    return shapes


def _modernbert(config: PretrainConfig) -> Shapes:
    size, width = config.size, config.size.hidden_size
    vocabulary = config.tokenizer.vocab_size
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (vocabulary, width), "embed_norm": (width,)}
    for layer in range(size.num_hidden_layers):
        shapes |= {f"{layer}.attn.Wqkv": (3 * width, width), f"{layer}.attn.Wo": (width, width)}
        shapes |= {
            f"{layer}.mlp.Wi": (2 * size.intermediate_size, width),
            f"{layer}.mlp.Wo": (width, size.intermediate_size),
        }
        shapes |= {f"{layer}.{part}_norm": (width,) for part in ("attn", "mlp") if layer or part == "mlp"}
    return shapes | {
        "norm": (width,),
        "head.dense": (width, width),
        "head.norm": (width,),
        "decoder_bias": (vocabulary,),
    }


def _t5(config: PretrainConfig) -> Shapes:
    size, width = config.size, config.size.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"shared": (config.tokenizer.vocab_size, width)}
    for stack, attentions in (("encoder", ["self"]), ("decoder", ["self", "cross"])):
        shapes |= {f"{stack}.relative_attention_bias": (32, size.num_attention_heads), f"{stack}.norm": (width,)}
        for layer in range(size.num_hidden_layers):
            for attention in attentions:
                shapes |= {f"{stack}.{layer}.{attention}.{part}": (width, width) for part in "qkvo"}
                shapes[f"{stack}.{layer}.{attention}.norm"] = (width,)
            shapes |= {f"{stack}.{layer}.{part}": (size.intermediate_size, width) for part in ("wi_0", "wi_1", "wo")}
            shapes[f"{stack}.{layer}.ff.norm"] = (width,)
    return shapes
