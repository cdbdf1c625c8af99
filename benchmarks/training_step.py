"""What a classifier's training step on a CPU is spared: the noise of dropout drawn by `align.modeling.dropout` instead
of torch, adapters' inputs that are not converted to float32 under autocast, their products that are added to the
layer's at once, a last layer at the position that is classified alone, and frozen weights held in bfloat16.

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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedModel,
)

from align.modeling.adapters import adding_at_once, frozen_weights_in
from align.modeling.dropout import quick_dropout
from align.modeling.load import set_dropout
from reward_models import first_token

RESULTS = Path(__file__).parent / "results" / "training_step.json"
LENGTHS = (12, 16, 16, 20, 24, 28, 33, 40, 56, 100)
ROWS = 64


def scratch(dropout: float) -> PreTrainedModel:
    """4 layers, 256 wide."""
    config = ModernBertConfig(
        vocab_size=8000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=768,
        max_position_embeddings=512, global_attn_every_n_layers=1, classifier_pooling="mean",
        pad_token_id=0, bos_token_id=None, eos_token_id=1, cls_token_id=1, sep_token_id=1,
    )  # fmt: skip
    set_dropout(config, dropout)
    return ModernBertForSequenceClassification._from_config(config, attn_implementation="eager")


def encoder(dropout: float) -> PreTrainedModel:
    """Of MiniLM-L6's shape."""
    config = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    set_dropout(config, dropout)
    return BertForSequenceClassification._from_config(config, attn_implementation="eager")


@dataclass(frozen=True)
class Kind:
    make: Callable[[float], PreTrainedModel]
    dropout: float
    adapters: bool


KINDS = {
    "from scratch, dropout .3": Kind(scratch, 0.3, adapters=False),
    "encoder with adapters, dropout .1": Kind(encoder, 0.1, adapters=True),
}


@dataclass(frozen=True)
class Side:
    """As `align.stages.reward` trains, but for what is said."""

    dropout: bool = True
    quick_dropout: bool = True
    inputs_as_they_are: bool = True
    adding_at_once: bool = True
    first_token_alone: bool = True
    frozen_in_bfloat16: bool = False

    def model(self, kind: Kind) -> torch.nn.Module:
        torch.manual_seed(0)
        model = kind.make(kind.dropout if self.dropout else 0.0)
        if self.first_token_alone:
            first_token.compute_alone(model)
        if not kind.adapters:
            return model.train()
        lora = LoraConfig(
            task_type="SEQ_CLS", r=32, lora_alpha=64, target_modules="all-linear", modules_to_save=["classifier"]
        )
        return get_peft_model(model, lora).train()

    @contextmanager
    def training(self, model: torch.nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            if self.quick_dropout:
                stack.enter_context(quick_dropout())
            if self.inputs_as_they_are:
                stack.enter_context(disable_input_dtype_casting(model))
            if self.adding_at_once:
                stack.enter_context(adding_at_once(model))
            if self.frozen_in_bfloat16:
                stack.enter_context(frozen_weights_in(model, torch.bfloat16))
            yield


SIDES = {
    "align": Side(),
    "frozen weights in bfloat16": Side(frozen_in_bfloat16=True),
    "torch's dropout": Side(quick_dropout=False),
    "no dropout": Side(dropout=False),
    "inputs converted": Side(inputs_as_they_are=False),
    "products added on their own": Side(adding_at_once=False),
    "last layer at all positions": Side(first_token_alone=False),
    "none of it": Side(quick_dropout=False, inputs_as_they_are=False, adding_at_once=False, first_token_alone=False),
}


def seconds(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    side: Side,
) -> float:
    """Of one training step for each of `LENGTHS`."""
    drawn = torch.Generator().manual_seed(0)
    started = time.perf_counter()
    with side.training(model):
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
    for name, kind in KINDS.items():
        made = {}
        for spared, side in SIDES.items():
            model = side.model(kind)
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            made[spared] = model, torch.optim.AdamW(trained, lr=1e-4, fused=True), side
        runs: dict[str, list[float]] = {spared: [] for spared in SIDES}
        for turn, spared in itertools.product(range(arguments.rounds + 1), SIDES):
            taken = seconds(*made[spared])
            if turn:  # the first one warms up
                runs[spared].append(taken)
        table.append(
            {
                "model": name,
                "milliseconds_per_step": {s: statistics.median(t) / len(LENGTHS) * 1000 for s, t in runs.items()},
                "times_align": {
                    spared: statistics.median(a / b for a, b in zip(each, runs["align"], strict=True))
                    for spared, each in runs.items()
                },
                "runs": runs,
            }
        )
        print(json.dumps({key: value for key, value in table[-1].items() if key != "runs"}), flush=True)
    arguments.out.write_text(json.dumps({"threads": arguments.threads, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
