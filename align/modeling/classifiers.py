"""Sequence classifiers on the body of any model: their tokenizer, their adapters, and their logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType
from tokenizers import processors
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from align.configs.base import LoraSettings
from align.errors import UsageError
from align.modeling import adapters
from align.modeling.trunk import pad

_READ_OTHERWISE = ("xlnet", "funnel", "fnet")


def closing_texts(tokenizer: PreTrainedTokenizerBase, config: Any) -> PreTrainedTokenizerBase:
    """A tokenizer that ends every text as the classifier's architecture needs it, also after truncation.

    A decoder-only body classifies the state of the last token that is no padding, which should not depend on which word
    that is; a T5 classifies that of its end-of-text token. The tokenizer itself puts the token there, so that whoever
    loads the published model gets it right by calling the tokenizer. Encoders (BERT, RoBERTa) have their own marks.

    Where a decoder-only body's tokenizer pads with the end-of-text token, it pads with that of the beginning from here
    on. One that has no other mark (GPT-2, Pythia) cannot: there the last word is what is classified.

    Raises:
        UsageError: the body would be trained on other inputs than are scored.
    """
    if config.model_type in _READ_OTHERWISE:
        raise UsageError(
            f"a classifier is not trained on a body of type {config.model_type}, which reads padding or segments in a "
            "way of its own: take another body (one that is trained already can be a reward)"
        )
    is_other = tokenizer.bos_token not in (None, tokenizer.eos_token)
    if _is_decoder_only(config) and tokenizer.pad_token == tokenizer.eos_token and is_other:
        tokenizer.pad_token = tokenizer.bos_token
    adds_end = tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    if adds_end or tokenizer.eos_token is None or not _needs_end(config):
        return tokenizer
    backend = tokenizer.backend_tokenizer
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next((first for first in tokenizer("a")["input_ids"][:1] if first != bare[0]), None)
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


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, *, keep_end: bool = False
) -> list[list[int]]:
    """Token ids of each text, cut to `max_length` at its end, or with `keep_end` at its start.

    A text that spells out a special token is text: a second end-of-text token would be one that a T5 refuses.
    """
    if not texts:
        return []
    tokenizer.truncation_side = "left" if keep_end else "right"
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length, split_special_tokens=True)
    tokenizer.truncation_side = "right"
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def attach(model: PreTrainedModel, settings: LoraSettings) -> PeftModel:
    """A classifier with fresh adapters, which train together with its new head and nothing else.

    Initialised from torch's global generator: seed it before.
    """
    body = model.base_model_prefix
    heads = [name for name, part in model.named_children() if name != body and any(True for _ in part.parameters())]
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        exclude_modules=rf"(.*\.)?({'|'.join(heads)})(\..*)?",
        modules_to_save=heads,
    )
    return adapters.adapted(model, lora)


@torch.inference_mode()
def logits(model: PreTrainedModel, token_ids: Sequence[Sequence[int]], pad_token_id: int, batch_size: int) -> Tensor:
    """[rows, labels] float32, on the CPU. Leaves the model in evaluation mode. Rows of like length share a batch."""
    model.eval()
    by_length = sorted(range(len(token_ids)), key=lambda row: len(token_ids[row]))
    parts = []
    for start in range(0, len(by_length), batch_size):
        ids, mask = pad([token_ids[row] for row in by_length[start : start + batch_size]], pad_token_id)
        parts.append(model(input_ids=ids.to(model.device), attention_mask=mask.long().to(model.device)).logits)
    sorted_logits = torch.cat(parts).float().cpu()
    return torch.empty_like(sorted_logits).index_copy_(0, torch.tensor(by_length), sorted_logits)


def _needs_end(config: Any) -> bool:
    return _is_decoder_only(config) or config.model_type in ("t5", "mt5", "umt5")


def _is_decoder_only(config: Any) -> bool:
    return not config.is_encoder_decoder and any(
        name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or []
    )
