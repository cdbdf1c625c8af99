"""`kind: sft`: instruction tuning, with the loss on the completion alone.

Prompt and completion are tokenised apart and joined, so that the boundary between them is where it will be when the
model is asked. Decoder-only and encoder-decoder models train alike, with transformers' `Trainer` on tokenised rows.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, set_seed

from align.configs.base import LoraSettings
from align.configs.sft import SftConfig
from align.data import examples
from align.data.examples import Instruction
from align.errors import UsageError
from align.modeling.adapters import attach, save_tuned
from align.modeling.load import load_causal_or_seq2seq, load_tokenizer, parameter_count
from align.modeling.training import IGNORED, GroupedByLength, completion_loss, fit, training_arguments
from align.modeling.trunk import pad
from align.tracking import Tracker
from align.workspace import Inputs, Metrics, Workspace

logger = logging.getLogger(__name__)

Row = dict[str, list[int]]


def run(config: SftConfig, inputs: Inputs, workspace: Workspace, tracker: Tracker) -> Metrics:
    """Tune the model, and measure the loss on held-out completions where there are any.

    Raises:
        UsageError: where no row fits into `max_length`.
    """
    set_seed(config.seed)
    tokenizer = load_tokenizer(inputs[config.model])
    base = load_causal_or_seq2seq(inputs[config.model], four_bits=config.method == "qlora")
    rows, left_out = tokenise(examples.instructions(config.data), tokenizer, base, config.max_length)
    if left_out:
        logger.warning(
            "%d of %d rows are longer than max_length %d: left out", left_out, left_out + len(rows), config.max_length
        )
    if not rows:
        raise UsageError(f"every row is longer than max_length {config.max_length} tokens: raise it")
    metrics = {"parameters": float(parameter_count(base))}
    model = base if config.method == "full" else attach(base, config.lora or LoraSettings())
    metrics["trainable_parameters"] = float(parameter_count(model, trainable=True))
    collate = Collator(base, tokenizer.pad_token_id)
    arguments = training_arguments(config.train, workspace, config.seed)
    trainer = _Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)
    metrics |= {
        "train_loss": fit(trainer, workspace, tracker, "sft"),
        "tokens": float(sum(len(row["input_ids"]) for row in rows)),
        "rows": float(len(rows)),
        "rows_left_out": float(left_out),
    }
    if config.evaluation_data:
        held_out, left_out = tokenise(examples.instructions(config.evaluation_data), tokenizer, base, config.max_length)
        if left_out:
            logger.warning(
                "%d of %d rows of evaluation_data are longer than max_length %d: left out",
                left_out,
                left_out + len(held_out),
                config.max_length,
            )
        loss, count = completion_loss(base, held_out, collate, config.train.per_device_eval_batch_size)
        if count:
            metrics |= {"loss": loss, "perplexity": math.exp(min(loss, 700))}
    save_tuned(model, tokenizer, workspace.output, config.publish)
    tracker.summary(metrics)
    return metrics


def tokenise(
    instructions: Sequence[Instruction], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, max_length: int
) -> tuple[list[Row], int]:
    """Rows of `input_ids` and `labels`, and the number of those left out because they are too long.

    Decoder-only: prompt + completion + end-of-text, where only the last two are labels. Encoder-decoder: the prompt,
    and completion + end-of-text as labels; each of them fits into `max_length`.
    """
    prompts = _token_ids(tokenizer, [instruction.prompt for instruction in instructions])
    completions = _token_ids(
        tokenizer, [instruction.completion for instruction in instructions], add_special_tokens=False
    )
    rows: list[Row] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        answer = [*completion, tokenizer.eos_token_id]
        if model.config.is_encoder_decoder:
            row = {"input_ids": prompt, "labels": answer}
        else:
            row = {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}
        if max(map(len, row.values())) <= max_length:
            rows.append(row)
    return rows, len(instructions) - len(rows)


class Collator:
    """Rows as a batch, padded on the right to the longest of them; padding is not a label and is not attended to.

    A decoder-only model is spared the logits of prompts, the larger part of the work where the vocabulary is large; and
    the mask, since its real tokens never look at what comes later.
    """

    def __init__(self, model: Any, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id
        self.shifted = model.prepare_decoder_input_ids_from_labels if model.config.is_encoder_decoder else None
        self.only_last_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        """`input_ids` [rows, input], `labels` [rows, target], and what else the model needs."""
        ids, mask = pad([row["input_ids"] for row in rows], self.pad_token_id)
        labels, _ = pad([row["labels"] for row in rows], IGNORED)
        if self.shifted is not None:
            # Label smoothing takes the labels away from the model, which then could not shift them itself.
            decoder_ids = self.shifted(labels=labels)
            return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels, "decoder_input_ids": decoder_ids}
        if not self.only_last_logits:
            return {"input_ids": ids, "labels": labels}
        first = int((labels != IGNORED).any(0).long().argmax())
        kept = labels.shape[1] - max(first - 1, 0)  # A token is predicted by the logits at the one before it.
        return {"input_ids": ids, "labels": labels[:, -kept:], "logits_to_keep": kept}


class _Trainer(GroupedByLength, Trainer):  # type: ignore[misc]
    pass


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], **how: bool) -> list[list[int]]:
    return tokenizer(texts, **how)["input_ids"] if texts else []
