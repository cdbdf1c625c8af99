"""What a classifier's training step on a CPU is spared: the noise of dropout drawn by `align.modeling.dropout` instead
of torch, adapters' inputs that are not converted to float32 under autocast, their products that are added to the
layer's at once, and frozen weights held in bfloat16.

    python benchmarks/training_step.py          # writes results/training_step.json

The two classifiers of dynahate.md with random weights, on random tokens as long as DynaHate's posts. The sides take
turns, round after round, on the same batches.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
)

from align.modeling.adapters import adding_at_once, frozen_weights_in
from align.modeling.dropout import quick_dropout
from align.modeling.load import set_dropout

RESULTS = Path(__file__).parent / "results" / "training_step.json"
LENGTHS = (12, 16, 16, 20, 24, 28, 33, 40, 56, 100)
ROWS = 64


def scratch(dropout: float) -> torch.nn.Module:
    """4 layers, 256 wide."""
    config = ModernBertConfig(
        vocab_size=8000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=768,
        max_position_embeddings=512, global_attn_every_n_layers=1, classifier_pooling="mean",
        pad_token_id=0, bos_token_id=None, eos_token_id=1, cls_token_id=1, sep_token_id=1,
    )  # fmt: skip
    set_dropout(config, dropout)
    return ModernBertForSequenceClassification._from_config(config, attn_implementation="eager")


def encoder(dropout: float) -> torch.nn.Module:
    """Of MiniLM-L6's shape, with adapters."""
    config = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    set_dropout(config, dropout)
    model = BertForSequenceClassification._from_config(config, attn_implementation="eager")
    lora = LoraConfig(
        task_type="SEQ_CLS", r=32, lora_alpha=64, target_modules="all-linear", modules_to_save=["classifier"]
    )
    return get_peft_model(model, lora)


MODELS: dict[str, tuple[Callable[[float], torch.nn.Module], float]] = {
    "from scratch, dropout .3": (scratch, 0.3),
    "encoder with adapters, dropout .1": (encoder, 0.1),
}


@contextmanager
def as_align_trains(model: torch.nn.Module) -> Iterator[None]:
    """All three at once, as `align.modeling.training.fit` has it."""
    with quick_dropout(), disable_input_dtype_casting(model), adding_at_once(model):
        yield


@contextmanager
def with_frozen_weights_in_bfloat16(model: torch.nn.Module) -> Iterator[None]:
    """And with `dtype: bfloat16`."""
    with as_align_trains(model), frozen_weights_in(model, torch.bfloat16):
        yield


@contextmanager
def with_torchs_dropout(model: torch.nn.Module) -> Iterator[None]:
    with disable_input_dtype_casting(model), adding_at_once(model):
        yield


@contextmanager
def with_inputs_converted(model: torch.nn.Module) -> Iterator[None]:
    with quick_dropout(), adding_at_once(model):
        yield


@contextmanager
def with_products_added_on_their_own(model: torch.nn.Module) -> Iterator[None]:
    with quick_dropout(), disable_input_dtype_casting(model):
        yield


SIDES: dict[str, tuple[bool, Callable[[torch.nn.Module], AbstractContextManager[Any]]]] = {
    "align": (True, as_align_trains),
    "frozen weights in bfloat16": (True, with_frozen_weights_in_bfloat16),
    "torch's dropout": (True, with_torchs_dropout),
    "no dropout": (False, as_align_trains),
    "inputs converted": (True, with_inputs_converted),
    "products added on their own": (True, with_products_added_on_their_own),
    "none of it": (True, lambda model: nullcontext()),
}


def seconds(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    within: Callable[[torch.nn.Module], AbstractContextManager[Any]],
) -> float:
    """Of one training step for each of `LENGTHS`."""
    drawn = torch.Generator().manual_seed(0)
    started = time.perf_counter()
    with within(model):
        for length in LENGTHS:
            ids = torch.randint(5, 8000, (ROWS, length), generator=drawn)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
                loss = cross_entropy(logits.float(), ids[:, 0] % 2)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = []
    for name, (make, rate) in MODELS.items():
        made = {}
        for side, (drops, _) in SIDES.items():
            torch.manual_seed(0)
            model = make(rate if drops else 0.0).train()
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            made[side] = model, torch.optim.AdamW(trained, lr=1e-4, fused=True)
        runs: dict[str, list[float]] = {side: [] for side in SIDES}
        for turn, (side, (_, within)) in itertools.product(range(arguments.rounds + 1), SIDES.items()):
            taken = seconds(*made[side], within)
            if turn:  # the first one warms up
                runs[side].append(taken)
        table.append(
            {
                "model": name,
                "milliseconds_per_step": {s: statistics.median(t) / len(LENGTHS) * 1000 for s, t in runs.items()},
                "times_align": {
                    side: statistics.median(a / b for a, b in zip(each, runs["align"], strict=True))
                    for side, each in runs.items()
                },
                "runs": runs,
            }
        )
        print(json.dumps({key: value for key, value in table[-1].items() if key != "runs"}), flush=True)
    arguments.out.write_text(json.dumps({"threads": arguments.threads, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
