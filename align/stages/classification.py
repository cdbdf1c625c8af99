"""What `kind: reward` learns from labelled texts: one label of several, or several that may hold together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from align.configs.reward import RewardConfig
from align.data import division
from align.data.division import Example
from align.data.examples import Labelled
from align.data.units import units_of
from align.errors import UsageError
from align.metrics import classification, intervals
from align.modeling import classifiers
from align.modeling.calibration import by_chance
from align.modeling.training import IGNORED, GroupedByLength, TellEpoch
from align.modeling.trunk import pad
from align.workspace import Interval
from reward_models.classifier import joined


class Classification:
    """Rows divided into those to train on, to choose with and to measure with; and how each of these is done."""

    def __init__(self, config: RewardConfig) -> None:
        """Read and divide the data.

        Raises:
            UsageError: the data lacks the label that is scored, or has no other.
        """
        assert config.labels is not None
        self.config = config
        self.scored = config.labels.scored
        self.multi = bool(config.data[0].labels)
        self.with_prompt = config.data[0].prompt is not None
        self.training, self.tuning, self.held_out = division.of_labels(config)
        self.labels = division.all_labels(config, self.training)
        held = [name for row in self.training for name in division.names(row)]
        self.class_weights = _class_weights(config, Counter(held), len(self.training), self.labels, self.multi)
        self.problem_type = "multi_label_classification" if self.multi else "single_label_classification"

    def trainer(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        arguments: Callable[..., Any],
        callbacks: list[TrainerCallback],
    ) -> Trainer:
        """A trainer of the training rows, which looks at the tuning rows where `arguments` say so."""
        config = self.config
        rows = TokenDropout(
            self._rows(self.training, tokenizer), tokenizer, config.token_dropout, config.seed, twice=config.r_drop > 0
        )
        if config.masked_lm_weight:
            _require_embeddings_for_states(model)
        return _Trainer(
            masked_lm_weight=config.masked_lm_weight,
            model=model,
            args=arguments(label_names=["labels"], label_smoothing_factor=0.0),  # the loss has it
            train_dataset=rows,
            eval_dataset=self._rows(self.tuning, tokenizer),
            data_collator=Collator(tokenizer.pad_token_id),
            compute_loss_func=ClassificationLoss(
                self.class_weights, config.train.label_smoothing_factor, config.r_drop
            ),
            callbacks=[*callbacks, TellEpoch(rows)],
        )

    def tuning_logits(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
        """[tuning rows, labels]"""
        return self._logits(model, tokenizer, self.tuning)

    def likelihood_loss(self, logits: Tensor) -> Tensor:
        """Mean negative log-likelihood of the tuning rows' labels, without weights, as `by_chance` counts them."""
        targets = torch.tensor([row["labels"] for row in self._targets(self.tuning)])
        if self.multi:
            share = by_chance(len(targets), 2)
            return binary_cross_entropy_with_logits(logits, targets.to(logits.dtype) * (1 - share) + share / 2)
        return cross_entropy(logits, targets, label_smoothing=by_chance(len(targets), len(self.labels)))

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float | Interval]:
        """Accuracy, macro-F1, AUC of the scored label and calibration error on held-out rows.

        With labels that may hold together, a row is right where all its labels are, F1 is the mean over labels of that
        of each label's yes, and every label of every row is a decision whose probability is to be true.
        """
        logits = self._logits(model, tokenizer, self.held_out).double()
        scored, seed = self.labels.index(self.scored), self.config.seed
        units = units_of([row.prompt for row in self.held_out], [row.text for row in self.held_out])
        if self.multi:
            probabilities = logits.sigmoid()
            predicted = probabilities > 0.5
            truth = torch.tensor([row["labels"] for row in self._targets(self.held_out)]) > 0.5
            right = predicted == truth
            row_right = right.all(-1)
            sure = torch.where(predicted, probabilities, 1 - probabilities)
            macro_f1 = classification.multi_label_macro_f1(truth.tolist(), predicted.tolist())
        else:
            probabilities = logits.softmax(-1)
            sure, guesses = probabilities.max(-1)
            names = [row.label for row in self.held_out if isinstance(row, Labelled)]
            predictions = [self.labels[int(guess)] for guess in guesses]
            right = torch.tensor([name == guess for name, guess in zip(names, predictions, strict=True)])
            row_right = right
            macro_f1 = classification.macro_f1(names, predictions)
        return {
            "accuracy": intervals.share_interval(row_right.double().tolist(), seed=seed, units=units),
            "macro_f1": macro_f1,
            "auc": classification.roc_auc_interval(
                [self.scored in division.names(row) for row in self.held_out],
                probabilities[:, scored].tolist(),
                seed=seed,
                units=units,
            ),
            "calibration_error": classification.expected_calibration_error(
                right.flatten().tolist(), sure.flatten().tolist()
            ),
        }

    def declaration(self) -> dict[str, Any]:
        """What `reward_models` needs to know to read the published model."""
        sign = {} if self.config.labels is None or self.config.labels.positive else {"sign": -1}
        read = "prompt_and_response" if self.with_prompt else "response"
        return {"label": self.scored, "transform": self.config.transform, **sign, "input": read}

    def _rows(self, rows: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
        ids = self._token_ids(tokenizer, rows)
        return [{"input_ids": each, **target} for each, target in zip(ids, self._targets(rows), strict=True)]

    def _targets(self, rows: Sequence[Example]) -> list[dict[str, Any]]:
        """The index of each row's label; or a number for each label, 1 where it holds."""
        if self.multi:
            return [{"labels": [float(name in division.names(row)) for name in self.labels]} for row in rows]
        return [{"labels": self.labels.index(division.names(row)[0])} for row in rows]

    def _logits(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Example]) -> Tensor:
        ids = self._token_ids(tokenizer, rows)
        return classifiers.logits(model, ids, tokenizer.pad_token_id, self.config.train.per_device_eval_batch_size)

    def _token_ids(self, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Example]) -> list[list[int]]:
        """As `reward_models` reads them: a text that is too long loses its end, one with a prompt its beginning."""
        texts = [joined(row.prompt, row.text) for row in rows]
        return classifiers.token_ids(tokenizer, texts, self.config.max_length, keep_end=self.with_prompt)


class Collator:
    """Rows as a batch, padded on the right to the longest of them. Those that are shown twice come once more, in the
    same order, after all others."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` [rows, longest]; `labels` [rows] or [rows, labels]; twice the rows where they
        are shown twice. Of rows in which tokens may be hidden also `hidden_tokens` [rows, longest]: those, and
        `IGNORED` in all other places."""
        again = [{**row, "input_ids": row["again"]} for row in rows if "again" in row]
        shown = [*rows, *again]
        ids, mask = pad([row["input_ids"] for row in shown], self.pad_token_id)
        batch = {
            "input_ids": ids,
            "attention_mask": mask.long(),
            "labels": torch.tensor([row["labels"] for row in shown]),
        }
        if all("whole" in row for row in shown):
            whole, _ = pad([row["whole"] for row in shown], self.pad_token_id)
            batch["hidden_tokens"] = whole.masked_fill(whole == ids, IGNORED)
        return batch


class TokenDropout(Dataset[dict[str, Any]]):
    """Rows in which a share of the tokens is hidden. Which ones depends on (seed, epoch, index) alone: a resumed run
    sees the same. With `twice`, each has other tokens hidden in its `again`. `whole` is the row with none hidden."""

    def __init__(
        self,
        rows: Sequence[dict[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        share: float,
        seed: int,
        *,
        twice: bool = False,
    ) -> None:
        self.rows, self.share, self.seed, self.epoch = rows, share, seed, 0
        unknown = tokenizer.unk_token_id if tokenizer.unk_token_id is not None else tokenizer.pad_token_id
        self.hidden = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else unknown
        if share and self.hidden == tokenizer.eos_token_id:
            raise UsageError(
                "token_dropout: the tokenizer has no token to put in the place of others but the one that ends a text"
            )
        self.kept = set(tokenizer.all_special_ids)
        self.shown_as = ("input_ids", "again") if twice else ("input_ids",)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        drawn = np.random.default_rng((self.seed, self.epoch, index))
        shown = {name: self._with_hidden(row["input_ids"], drawn) for name in self.shown_as}
        return {**row, **shown, "whole": row["input_ids"]}

    def _with_hidden(self, ids: list[int], drawn: np.random.Generator) -> list[int]:
        if not self.share:
            return ids
        hides = drawn.random(len(ids)) < self.share
        return [
            self.hidden if hide and token not in self.kept else token for token, hide in zip(ids, hides, strict=True)
        ]


class ClassificationLoss:
    """Cross entropy in which each class has a weight, for the trainer's `compute_loss_func`.

    Where labels may hold together it is that of each label's yes or no, averaged over labels; the weight is that of
    a yes. With `r_drop`, in training, the second half of the rows are the first half once more, and the disagreement
    of the two is added: alpha / 4 times the sum of both Kullback-Leibler divergences, with the mean of both halves'
    cross entropies (half of the loss of Liang et al. 2021).
    """

    def __init__(self, class_weights: Tensor, label_smoothing: float, r_drop: float = 0.0) -> None:
        self.class_weights, self.label_smoothing, self.r_drop = class_weights, label_smoothing, r_drop

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Mean over labels [rows] or [rows, labels]; over those of all accumulated batches where the trainer says how
        many they are."""
        weights = self.class_weights.to(outputs.logits.device)
        logits = outputs.logits.float()
        if labels.ndim == 2:
            softened = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
            losses = binary_cross_entropy_with_logits(logits, softened, pos_weight=weights, reduction="sum")
        else:
            losses = cross_entropy(logits, labels, weights, label_smoothing=self.label_smoothing, reduction="sum")
        if self.r_drop and torch.is_grad_enabled():  # rows that are only looked at come once
            losses = losses + self.r_drop / 2 * disagreement(logits, independent=labels.ndim == 2)
        return losses / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


def disagreement(logits: Tensor, *, independent: bool) -> Tensor:
    """Kullback-Leibler divergences, both ways, between the first half of [2 rows, labels] and the second; their sum.

    Of one choice among the labels; or, where they are `independent`, of each label's yes or no.
    """
    first, second = logits.chunk(2)
    if independent:
        return ((first.sigmoid() - second.sigmoid()) * (first - second)).sum()
    return ((first.softmax(-1) - second.softmax(-1)) * (first.log_softmax(-1) - second.log_softmax(-1))).sum()


def hidden_token_loss(states: Tensor, embeddings: Tensor, hidden_tokens: Tensor) -> Tensor:
    """Mean cross entropy of the tokens that were hidden, each predicted from the state in its place by the product with
    every token's embedding; 0 where none is.

    Args:
        states: [rows, length, width], the last layer's
        embeddings: [vocabulary, width]
        hidden_tokens: [rows, length]; `IGNORED` where nothing is predicted
    """
    hidden = hidden_tokens != IGNORED
    logits = (states[hidden] @ embeddings.T).float()
    return cross_entropy(logits, hidden_tokens[hidden], reduction="sum") / hidden.sum().clamp(min=1)


class _Trainer(GroupedByLength, Trainer):  # type: ignore[misc]
    def __init__(self, *, masked_lm_weight: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.masked_lm_weight = masked_lm_weight

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of the labels; in training, with that of the hidden tokens (Radford et al. 2018, section 3.2)."""
        hidden_tokens = inputs.pop("hidden_tokens", None)
        if hidden_tokens is None or not self.masked_lm_weight:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs["output_hidden_states"] = True
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        embeddings = self.accelerator.unwrap_model(model).get_input_embeddings().weight
        with self.accelerator.autocast():
            of_tokens = hidden_token_loss(outputs.hidden_states[-1], embeddings, hidden_tokens)
        # The labels' loss is their share of that of all accumulated batches; this is a mean.
        loss = loss + self.masked_lm_weight * of_tokens / self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss


def _require_embeddings_for_states(model: Any) -> None:
    """
    Raises:
        UsageError: the last states are not of an encoder of masked tokens, or cannot be multiplied with the embeddings.
    """
    config = model.config
    if config.is_encoder_decoder:
        what = "has an encoder and a decoder"
    elif config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or getattr(config, "is_decoder", False):
        what = "is no encoder that transformers can train on masked tokens"
    elif isinstance(embeddings := model.get_input_embeddings(), BaseTunerLayer):
        what = "has adapters on its embeddings (lora.target_modules)"
    elif (width := embeddings.weight.shape[-1]) != config.hidden_size:
        what = f"has embeddings {width} wide"
    else:
        return
    raise UsageError(
        "masked_lm_weight: hidden tokens are predicted from the states of the last layer by the product with the "
        f"embeddings, and {config.model_type} {what}: remove masked_lm_weight, or take an encoder such as ModernBERT, "
        "BERT or RoBERTa"
    )


def _class_weights(config: RewardConfig, counts: Counter[str], rows: int, labels: Sequence[str], multi: bool) -> Tensor:
    """One weight per label. Balanced ones make each label's rows weigh the same in sum, and 1 on average; of labels
    that may hold together, they make the rows with a label weigh as much as those without, if there are both."""
    given = config.class_weights
    if given == "none":
        return torch.ones(len(labels))
    if isinstance(given, dict):
        if set(given) != set(labels):
            raise UsageError(f"class_weights names {', '.join(given)}, but the labels are {', '.join(labels)}")
        return torch.tensor([given[label] for label in labels])
    if multi:
        having = [counts[label] for label in labels]
        return torch.tensor([(rows - count) / count if 0 < count < rows else 1.0 for count in having])
    return torch.tensor([rows / (len(labels) * counts[label]) for label in labels])
