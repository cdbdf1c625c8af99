"""`kind: pretrain`: a tokenizer and a small language model from scratch.

A byte-level BPE tokenizer is trained on the texts, the texts are packed into blocks of equal length, and a Llama learns
to predict the next token, a T5 to fill in masked spans (Raffel et al. 2020, section 3.1.4), or a ModernBERT to fill in
masked tokens (Devlin et al. 2019, section 3.1) and, in a share of the blocks, to predict the next one (Charpentier and
Samuel 2024, "GPT or BERT: why not both?"). Held-out blocks measure the perplexity (of masked tokens for an encoder).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    set_seed,
)

from align.configs.pretrain import ModelSize, PretrainConfig
from align.data import examples
from align.errors import UsageError
from align.modeling.export import empty_directory, save_model
from align.modeling.load import parameter_count, set_attention
from align.modeling.training import IGNORED, TellEpoch, completion_loss, fit, training_arguments
from align.modeling.trunk import pad
from align.tracking import Tracker
from align.workspace import Inputs, Metrics, Workspace

PAD, EOS, UNKNOWN, MASK = "<pad>", "</s>", "<unk>", "<mask>"
SENTINELS = [f"<extra_id_{index}>" for index in range(32)]
NOISE_DENSITY, MEAN_SPAN = 0.15, 3.0
MASKED, REPLACED, KEPT = 0.3, 0.1, 0.1
"""Share of tokens that an encoder predicts; of these, shares that stand as another token or as themselves. The shares
are those of Devlin et al. 2019, but for the first: their 15 % is fewer than learns best (Wettig et al. 2023, "Should
You Mask 15% in Masked Language Modeling?")."""
HELD_OUT = 0.02
"""Of the blocks, and at least one that is full."""

Ids = NDArray[np.int64]


def run(config: PretrainConfig, inputs: Inputs, workspace: Workspace, tracker: Tracker) -> Metrics:
    """Train tokenizer and model, and measure the perplexity on held-out blocks.

    Raises:
        UsageError: where the texts are too few for a block to train on and one to measure with.
    """
    set_seed(config.seed)
    texts = examples.texts(config.data)
    random.Random(config.seed).shuffle(texts)  # Several data sets come one after another; every block range gets all.
    tokenizer = train_tokenizer(texts, config)
    blocks = pack(texts, tokenizer, config.max_length)
    tokens = sum(map(len, blocks))
    held_out = max(round(HELD_OUT * len(blocks)), 1 + bool(tokens % config.max_length))  # the last may be short
    if len(blocks) <= held_out:
        raise UsageError(
            f"the texts make only {tokens} tokens: too few for two blocks of max_length {config.max_length}, one to "
            "train on and one to measure with. Give more texts, or lower max_length"
        )
    train_blocks, test_blocks = blocks[:-held_out], blocks[-held_out:]
    model = new_model(config.architecture, config.size, tokenizer)
    if config.attn_implementation is not None:
        set_attention(model, config.attn_implementation)

    rows: Any = train_blocks
    test_rows: Any = test_blocks
    collate: Any = BlockCollator(tokenizer.pad_token_id)
    if config.architecture == "t5":
        rows = SpanCorruption(train_blocks, tokenizer, config.seed)
        test_rows = SpanCorruption(test_blocks, tokenizer, config.seed)
        collate = SpanCollator(model)
    elif config.architecture == "modernbert":
        rows = Masking(train_blocks, tokenizer, config.seed, config.causal_share)
        test_rows = Masking(test_blocks, tokenizer, config.seed)
        collate = MaskCollator(tokenizer.pad_token_id)
    trainer = Trainer(
        model=model,
        args=training_arguments(config.train, workspace, config.seed),
        train_dataset=rows,
        data_collator=collate,
        callbacks=[TellEpoch(rows)] if isinstance(rows, SpanCorruption | Masking) else None,
    )
    train_loss = fit(trainer, workspace, tracker, "pretrain")
    loss, _ = completion_loss(model, test_rows, collate, config.train.per_device_eval_batch_size)
    save_model(model, tokenizer, empty_directory(workspace.output))
    metrics = {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700)),
        "train_loss": train_loss,
        "parameters": float(parameter_count(model)),
        "tokens": float(sum(map(len, train_blocks))),
    }
    tracker.summary(metrics)
    return metrics


def train_tokenizer(texts: Sequence[str], config: PretrainConfig) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer. That of a T5 or an encoder ends every text with the end-of-text token."""
    bpe = Tokenizer(models.BPE(unk_token=UNKNOWN))
    if config.tokenizer.lowercase:
        bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    sentinels = SENTINELS if config.architecture == "t5" else []
    mask = [MASK] if config.architecture == "modernbert" else []
    trainer = trainers.BpeTrainer(
        vocab_size=config.tokenizer.vocab_size,
        special_tokens=[PAD, EOS, UNKNOWN, *sentinels, *mask],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if config.architecture != "llama":
        bpe.post_processor = processors.TemplateProcessing(
            single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, bpe.token_to_id(EOS))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        **({"mask_token": MASK} if mask else {}),
        extra_special_tokens=sentinels,
        clean_up_tokenization_spaces=False,
    )


def pack(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, length: int) -> list[Ids]:
    """All texts, each closed by the end-of-text token, one after another in blocks of `length`; the last is shorter."""
    stream: list[Ids] = []
    for start in range(0, len(texts), 1000):
        for ids in tokenizer(list(texts[start : start + 1000]), add_special_tokens=False)["input_ids"]:
            stream.append(np.array([*ids, tokenizer.eos_token_id], dtype=np.int64))
    tokens = np.concatenate(stream) if stream else np.empty(0, dtype=np.int64)
    return [tokens[start : start + length] for start in range(0, len(tokens), length)]


def new_model(architecture: str, size: ModelSize, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A network of that shape with random weights, from torch's global generator. Embeddings are tied."""
    if architecture == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                **size.model_dump(),
                num_key_value_heads=size.num_attention_heads,
                vocab_size=len(tokenizer),
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                tie_word_embeddings=True,
            )
        )
    if architecture == "modernbert":
        eos = tokenizer.eos_token_id
        return ModernBertForMaskedLM(
            ModernBertConfig(
                **size.model_dump(),
                vocab_size=len(tokenizer),
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=None,
                eos_token_id=eos,
                cls_token_id=eos,
                sep_token_id=eos,
                global_attn_every_n_layers=1,
                classifier_pooling="mean",
                sparse_prediction=True,
                tie_word_embeddings=True,
            )
        )
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=size.hidden_size,
            d_kv=size.hidden_size // size.num_attention_heads,
            d_ff=size.intermediate_size,
            num_layers=size.num_hidden_layers,
            num_decoder_layers=size.num_hidden_layers,
            num_heads=size.num_attention_heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )


class BlockCollator:
    """Blocks [length] as a batch for next-token prediction. What pads the last block is not in the loss, and needs no
    mask: nothing real comes after it."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, blocks: list[Ids]) -> dict[str, Tensor]:
        """`input_ids` and `labels`, both [blocks, length]."""
        ids, mask = pad([block.tolist() for block in blocks], self.pad_token_id)
        return {"input_ids": ids, "labels": ids.masked_fill(~mask, IGNORED)}


class SpanCollator:
    """Corrupted blocks and their spans as a batch for an encoder-decoder."""

    def __init__(self, model: Any) -> None:
        self.pad_token_id = model.config.pad_token_id
        self.shifted = model.prepare_decoder_input_ids_from_labels

    def __call__(self, rows: list[tuple[Ids, Ids]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` [rows, input]; `labels`, `decoder_input_ids` [rows, target]."""
        ids, mask = pad([row[0].tolist() for row in rows], self.pad_token_id)
        labels, _ = pad([row[1].tolist() for row in rows], IGNORED)
        return {
            "input_ids": ids,
            "attention_mask": mask.long(),
            "labels": labels,
            "decoder_input_ids": self.shifted(labels=labels),
        }


class EncoderBlock(NamedTuple):
    """What an encoder learns from a block."""

    shown: Ids
    """[length]"""
    labels: Ids
    """[length]; `IGNORED` where nothing is predicted."""
    causal: bool
    """No token sees a later one."""


class MaskCollator:
    """Blocks as a batch for an encoder."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[EncoderBlock]) -> dict[str, Tensor]:
        """`input_ids`, `labels` [rows, length], and `attention_mask`: of the same shape, or, where some rows are read
        causally, what is added to the scores [rows, 1, length, length]."""
        ids, mask = pad([row.shown.tolist() for row in rows], self.pad_token_id)
        labels, _ = pad([row.labels.tolist() for row in rows], IGNORED)
        causal = torch.tensor([row.causal for row in rows])
        if not causal.any():
            return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}
        not_later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        sees = mask[:, None] & (not_later | ~causal[:, None, None])
        added = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)
        return {"input_ids": ids, "attention_mask": added[:, None], "labels": labels}


class Masking(Dataset[EncoderBlock]):
    """Blocks with tokens to predict: masked ones, or in a share of the blocks each next one. The choice depends on
    (seed, epoch, index) alone: a resumed run sees the same."""

    def __init__(
        self, blocks: Sequence[Ids], tokenizer: PreTrainedTokenizerFast, seed: int, causal_share: float = 0.0
    ) -> None:
        self.blocks, self.seed, self.epoch, self.causal_share = blocks, seed, 0, causal_share
        self.mask, self.size = tokenizer.mask_token_id, len(tokenizer)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> EncoderBlock:
        """The whole block and its next tokens; or most of the chosen tokens masked, and the chosen ones."""
        generator = np.random.default_rng((self.seed, self.epoch, index))
        tokens = self.blocks[index]
        if self.causal_share and generator.random() < self.causal_share:
            return EncoderBlock(tokens, np.append(tokens[1:], IGNORED), causal=True)
        chosen = generator.random(len(tokens)) < MASKED
        chosen[generator.integers(len(tokens))] = True
        what = generator.random(len(tokens))
        shown = np.where(what < REPLACED, generator.integers(self.size, size=len(tokens)), self.mask)
        shown = np.where(chosen & (what < 1 - KEPT), shown, tokens)
        return EncoderBlock(shown, np.where(chosen, tokens, IGNORED), causal=False)


class SpanCorruption(Dataset[tuple[Ids, Ids]]):
    """Blocks with spans cut out. The noise depends on (seed, epoch, index) alone: a resumed run sees the same."""

    def __init__(self, blocks: Sequence[Ids], tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.blocks, self.seed, self.epoch = blocks, seed, 0
        self.sentinels = tokenizer.convert_tokens_to_ids(SENTINELS)
        self.eos = tokenizer.eos_token_id

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> tuple[Ids, Ids]:
        generator = np.random.default_rng((self.seed, self.epoch, index))
        return corrupt(self.blocks[index], self.sentinels, self.eos, generator)


def corrupt(tokens: Ids, sentinels: Sequence[int], eos: int, generator: np.random.Generator) -> tuple[Ids, Ids]:
    """Cut spans out of `tokens` [n]: about 15 % of them, 3 at a time, at least one.

    Returns:
        The text with a sentinel in place of each span, and the spans each after its sentinel. Both end with `eos`.
    """
    noise = min(max(round(NOISE_DENSITY * len(tokens)), 1), max(len(tokens) - 1, 1))
    spans = max(1, min(round(noise / MEAN_SPAN), noise, len(tokens) - noise, len(sentinels)))
    kept_lengths = _segments(len(tokens) - noise, spans, generator)
    cut_lengths = _segments(noise, spans, generator)
    text: list[int] = []
    target: list[int] = []
    place = 0
    for sentinel, kept, cut in zip(sentinels, kept_lengths, cut_lengths, strict=False):
        text += [*tokens[place : place + kept], sentinel]
        target += [sentinel, *tokens[place + kept : place + kept + cut]]
        place += kept + cut
    return np.array([*text, eos], dtype=np.int64), np.array([*target, eos], dtype=np.int64)


def _segments(total: int, count: int, generator: np.random.Generator) -> list[int]:
    """`total` divided at random into `count` parts of at least one each (a single part may be empty)."""
    cuts = np.sort(generator.choice(np.arange(1, total), count - 1, replace=False)) if count > 1 else np.empty(0, int)
    return [int(part) for part in np.diff([0, *cuts, total])]
