"""`kind: reward`: a text classifier, whose score of one label can steer PPO or judge an evaluation.

It is an ordinary sequence classifier, trained with transformers' `Trainer` on the body of any model: a decoder-only one
(the last token is classified), a T5, or an encoder. Which label is the good one is said by name and published beside
the weights, so that no one has to guess the polarity of an index.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import processors
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Trainer,
    set_seed,
)

from align.configs.reward import RewardConfig
from align.data import examples
from align.data.examples import Labelled
from align.errors import AlignError, UsageError
from align.metrics import classification, intervals
from align.modeling.export import empty_directory, save_model
from align.modeling.load import load_classifier, load_config, load_tokenizer, parameter_count
from align.modeling.training import GroupedByLength, fit, training_arguments
from align.modeling.trunk import pad
from align.tracking import Tracker
from align.workspace import Inputs, Interval, Metrics, Workspace

HELD_OUT = 0.1
"""Of each label's rows, where there is no evaluation data."""


def run(config: RewardConfig, inputs: Inputs, workspace: Workspace, tracker: Tracker) -> Metrics:
    """Train the classifier and measure it on held-out rows.

    Raises:
        UsageError: where the data lacks the positive label, or has no other.
        AlignError: where the held-out AUC is below `require_auc`; nothing is left to publish then.
    """
    set_seed(config.seed)
    output = empty_directory(workspace.output)
    training, held_out = _divided(config)
    labels = sorted({row.label for row in training})
    _check_labels(labels, held_out, config.labels.positive)
    tokenizer = closing_texts(load_tokenizer(inputs[config.model]), load_config(inputs[config.model]))
    model = load_classifier(inputs[config.model], labels, dropout=config.dropout)
    model.config.pad_token_id = tokenizer.pad_token_id
    trainer = _Trainer(
        model=model,
        args=training_arguments(config.train, workspace, config.seed),
        train_dataset=tokenise(training, tokenizer, model, config.max_length),
        data_collator=Collator(tokenizer.pad_token_id),
        compute_loss_func=WeightedLoss(_class_weights(config, training, labels), config.train.label_smoothing_factor),
    )
    train_loss = fit(trainer, workspace, tracker, "reward")
    metrics: dict[str, float | Interval] = {
        **_measure(config, model, tokenizer, held_out),
        "train_loss": train_loss,
        "parameters": float(parameter_count(model)),
        "rows": float(len(training)),
    }
    tracker.summary(metrics)
    _require_auc(config, metrics["auc"])
    save_model(model, tokenizer, output)
    settings = {
        "label": config.labels.positive,
        "transform": config.transform,
        "input": "response",
        "max_length": config.max_length,
    }
    (output / "reward_model.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return metrics


def closing_texts(tokenizer: PreTrainedTokenizerBase, config: Any) -> PreTrainedTokenizerBase:
    """A tokenizer that ends every text as the classifier's architecture needs it, also after truncation.

    A decoder-only body classifies the state of the last token, which should not depend on which word that is; a T5
    classifies that of its end-of-text token. The tokenizer itself puts the token there, so that whoever loads the
    published model gets it right by calling the tokenizer. Encoders (BERT, RoBERTa) have their own marks.
    """
    adds_end = tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    if adds_end or tokenizer.eos_token is None or not _needs_end(config):
        return tokenizer
    backend = tokenizer.backend_tokenizer
    start = tokenizer("a")["input_ids"][0] if tokenizer("")["input_ids"] else None
    marks = [(tokenizer.eos_token, tokenizer.eos_token_id)]
    template = f"$A {tokenizer.eos_token}"
    if start is not None:
        marks.append((tokenizer.convert_ids_to_tokens(start), start))
        template = f"{marks[-1][0]} {template}"
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        unk_token=tokenizer.unk_token,
        pad_token=tokenizer.pad_token,
        clean_up_tokenization_spaces=False,
    )


def tokenise(
    rows: Sequence[Labelled], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, max_length: int
) -> list[dict[str, Any]]:
    """Rows of `input_ids`, cut to `max_length`, and `labels`: the label's index.

    A text that spells out a special token is text: a second end-of-text token would be one that a T5 refuses.
    """
    if not rows:
        return []
    texts = [row.text for row in rows]
    encoded = tokenizer(texts, truncation=True, max_length=max_length, split_special_tokens=True)["input_ids"]
    return [
        {"input_ids": ids, "labels": model.config.label2id[row.label]} for ids, row in zip(encoded, rows, strict=True)
    ]


class Collator:
    """Rows as a batch, padded on the right to the longest of them."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` [rows, longest]; `labels` [rows]."""
        ids, mask = pad([row["input_ids"] for row in rows], self.pad_token_id)
        labels = torch.tensor([row["labels"] for row in rows])
        return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


class WeightedLoss:
    """Cross entropy in which each class has a weight, for the trainer's `compute_loss_func`."""

    def __init__(self, class_weights: Tensor, label_smoothing: float) -> None:
        self.class_weights, self.label_smoothing = class_weights, label_smoothing

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Mean over rows; over those of all accumulated batches where the trainer says how many they are."""
        weights = self.class_weights.to(outputs.logits.device)
        losses = cross_entropy(
            outputs.logits.float(), labels, weights, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return losses / (len(labels) if num_items_in_batch is None else num_items_in_batch)


class _Trainer(GroupedByLength, Trainer):  # type: ignore[misc]
    pass


def _needs_end(config: Any) -> bool:
    decoder_only = not config.is_encoder_decoder and any(
        name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or []
    )
    return bool(decoder_only or config.model_type in ("t5", "mt5", "umt5"))


def _divided(config: RewardConfig) -> tuple[list[Labelled], list[Labelled]]:
    """Rows to train on, and held-out rows: given ones, or a share of each label's drawn by the seed."""
    rows = examples.labelled(config.data)
    if config.evaluation_data:
        return rows, examples.labelled(config.evaluation_data)
    random.Random(config.seed).shuffle(rows)
    training: list[Labelled] = []
    held_out: list[Labelled] = []
    for label, count in sorted(Counter(row.label for row in rows).items()):
        of_label = [row for row in rows if row.label == label]
        aside = max(1, round(HELD_OUT * count)) if count > 1 else 0
        held_out += of_label[:aside]
        training += of_label[aside:]
    return training, held_out


def _check_labels(labels: Sequence[str], held_out: Sequence[Labelled], positive: str) -> None:
    if positive not in labels:
        raise UsageError(f"labels.positive is {positive!r}, but the data has only the labels: {', '.join(labels)}")
    if len(labels) < 2:
        raise UsageError(f"all rows bear the label {positive!r}: a classifier needs rows of another label as well")
    if strange := sorted({row.label for row in held_out} - set(labels)):
        raise UsageError(f"evaluation_data has labels that data lacks: {', '.join(strange)}")
    if len({row.label == positive for row in held_out}) < 2:
        raise UsageError(
            f"the held-out rows are all, or none of them, {positive!r}: they cannot measure the classifier"
        )


def _class_weights(config: RewardConfig, rows: Sequence[Labelled], labels: Sequence[str]) -> Tensor:
    """One weight per label; balanced ones make each label's rows weigh the same in sum, and 1 on average."""
    if config.class_weights == "none":
        return torch.ones(len(labels))
    counts = Counter(row.label for row in rows)
    return torch.tensor([len(rows) / (len(labels) * counts[label]) for label in labels])


def _measure(
    config: RewardConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, held_out: Sequence[Labelled]
) -> dict[str, float | Interval]:
    """Accuracy, macro-F1 and AUC of the positive label's probability on held-out rows."""
    rows = tokenise(held_out, tokenizer, model, config.max_length)
    probabilities = _probabilities(model, rows, tokenizer.pad_token_id, config.train.per_device_eval_batch_size)
    predictions = [model.config.id2label[int(index)] for index in probabilities.argmax(-1)]
    labels = [row.label for row in held_out]
    correct = [float(label == prediction) for label, prediction in zip(labels, predictions, strict=True)]
    return {
        "accuracy": intervals.mean_interval(correct, seed=config.seed),
        "macro_f1": classification.macro_f1(labels, predictions),
        "auc": classification.roc_auc_interval(
            [label == config.labels.positive for label in labels],
            probabilities[:, model.config.label2id[config.labels.positive]].tolist(),
            seed=config.seed,
        ),
    }


@torch.inference_mode()
def _probabilities(model: PreTrainedModel, rows: list[dict[str, Any]], pad_token_id: int, batch_size: int) -> Tensor:
    """[rows, labels], on the CPU."""
    model.eval()
    collate = Collator(pad_token_id)
    probabilities = []
    for start in range(0, len(rows), batch_size):
        batch = collate(rows[start : start + batch_size])
        del batch["labels"]
        logits = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits
        probabilities.append(logits.float().softmax(-1).cpu())
    return torch.cat(probabilities)


def _require_auc(config: RewardConfig, auc: float | Interval) -> None:
    value = auc.value if isinstance(auc, Interval) else auc
    if config.require_auc is not None and value < config.require_auc:
        raise AlignError(
            f"the classifier's AUC on held-out rows is {value:.3f}, below require_auc {config.require_auc}: PPO would "
            "follow a wrong pointer. More or other rows, more epochs or a better model may help"
        )
