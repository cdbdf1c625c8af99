"""What `kind: reward` learns from preferences: a number whose differences are the log-odds of being preferred.

The model of Bradley and Terry (1952), trained by TRL's `RewardTrainer` on pairs of responses to the same prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

from align.configs.reward import RewardConfig
from align.data import division
from align.data.examples import Preference
from align.data.units import units_of
from align.metrics import classification, intervals
from align.modeling import classifiers
from align.modeling.calibration import by_chance
from align.modeling.training import LengthGroupedSampler
from align.workspace import Interval
from reward_models.classifier import joined
from reward_models.preference import LABEL


class PreferenceModelling:
    """Pairs divided into those to train on, to choose with and to measure with; and how each of these is done."""

    labels = [LABEL]
    problem_type = None

    def __init__(self, config: RewardConfig) -> None:
        """Read and divide the pairs."""
        self.config = config
        self.training, self.tuning, self.held_out = division.of_pairs(config)

    def trainer(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        arguments: Callable[..., Any],
        callbacks: list[TrainerCallback],
    ) -> Trainer:
        """A trainer of the training pairs, which looks at the tuning pairs where `arguments` say so."""
        import datasets
        import trl  # seconds of import that no other stage needs

        class PairTrainer(trl.RewardTrainer):  # type: ignore[misc]
            def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
                rows = self.train_dataset
                lengths = [max(map(len, pair)) for pair in zip(rows["chosen_ids"], rows["rejected_ids"], strict=True)]
                return LengthGroupedSampler(lengths, self.args.train_batch_size, self.args.seed)

        return PairTrainer(
            model=model,
            # Dropout is the recipe's to decide, and pairs are cut rather than left out.
            args=arguments(trl.RewardConfig, disable_dropout=False, max_length=None),
            train_dataset=datasets.Dataset.from_list(self._rows(self.training, tokenizer)),
            eval_dataset=datasets.Dataset.from_list(self._rows(self.tuning, tokenizer)) if self.tuning else None,
            processing_class=tokenizer,
            callbacks=callbacks,
        )

    def tuning_logits(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
        """[tuning pairs] how much more the chosen response gets."""
        return self._margins(model, tokenizer, self.tuning)

    def likelihood_loss(self, logits: Tensor) -> Tensor:
        """Mean negative log-likelihood of the preferences, as `by_chance` counts them."""
        share = by_chance(len(logits), 2) / 2
        return -((1 - share) * logsigmoid(logits) + share * logsigmoid(-logits)).mean()

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float | Interval]:
        """Pair accuracy (a tie counts half) and calibration error on held-out pairs; and for scale the accuracy of
        preferring the shorter response."""
        margins = self._margins(model, tokenizer, self.held_out).double()
        contents = [(pair.chosen, pair.rejected) for pair in self.held_out]
        units = units_of([pair.prompt for pair in self.held_out], contents)
        shorter = [float(len(pair.rejected) - len(pair.chosen)) for pair in self.held_out]
        sure = margins.abs().sigmoid()
        return {
            "pair_accuracy": intervals.share_interval(_won(margins.tolist()), seed=self.config.seed, units=units),
            "shorter_accuracy": intervals.share_interval(_won(shorter), seed=self.config.seed, units=units),
            "calibration_error": classification.expected_calibration_error(_won(margins.tolist()), sure.tolist()),
        }

    def declaration(self) -> dict[str, Any]:
        """What `reward_models` needs to know to read the published model."""
        return {"label": LABEL, "transform": self.config.transform, "input": "prompt_and_response"}

    def _rows(self, pairs: Sequence[Preference], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, list[int]]]:
        chosen = self._token_ids([joined(pair.prompt, pair.chosen) for pair in pairs], tokenizer)
        rejected = self._token_ids([joined(pair.prompt, pair.rejected) for pair in pairs], tokenizer)
        return [{"chosen_ids": up, "rejected_ids": down} for up, down in zip(chosen, rejected, strict=True)]

    def _margins(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Preference]
    ) -> Tensor:
        rows = self._rows(pairs, tokenizer)
        ids = [row[side] for side in ("chosen_ids", "rejected_ids") for row in rows]
        batch_size = self.config.train.per_device_eval_batch_size
        chosen, rejected = classifiers.logits(model, ids, tokenizer.pad_token_id, batch_size).squeeze(-1).chunk(2)
        return chosen - rejected

    def _token_ids(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        return classifiers.token_ids(tokenizer, texts, self.config.max_length, keep_end=True)


def _won(margins: Sequence[float]) -> list[float]:
    return [0.5 if margin == 0 else float(margin > 0) for margin in margins]
