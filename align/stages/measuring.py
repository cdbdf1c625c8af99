"""What an evaluation measures of one model's responses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import reward_models
from align import interrupt
from align.configs.base import Metric
from align.configs.evaluate import EvaluateConfig
from align.data.examples import EvaluationExample
from align.errors import AlignError
from align.metrics import corpus, diversity, overlap
from align.metrics.corpus import CorpusMetric
from align.modeling.context import check_context
from align.modeling.generation import Response
from align.modeling.trunk import Batch, response_kl, response_log_probs, unwrapped
from align.stages.responses import Subject
from align.workspace import Interval

logger = logging.getLogger(__name__)


@dataclass
class Measured:
    """What one model answered, and how it was measured."""

    texts: list[str]
    by_row: dict[str, dict[int, float]] = field(default_factory=dict)
    """metric -> row -> number"""
    whole: dict[str, CorpusMetric] = field(default_factory=dict)
    """Metrics that have no value for a single row."""
    extra: dict[str, Interval] = field(default_factory=dict)
    """Metrics that are measured once, and not compared."""


Judge = Callable[[Sequence[str], Sequence[str]], list[float]]
"""(prompts, responses) -> toxicity of each, from 0 to 1."""


def measure(
    config: EvaluateConfig,
    subject: Subject,
    baseline: Subject,
    rows: Sequence[EvaluationExample],
    units: Sequence[Hashable],
    responses: Sequence[Response],
    judge: Judge | None,
    reward: reward_models.CheckedModel | None,
) -> Measured:
    """Everything that is measured of one model's responses, each on the rows that ask for it."""
    result = Measured([response.text for response in responses])
    prompts, texts = [row.prompt for row in rows], result.texts

    def asked(metric: Metric, wanted: bool = True) -> list[int]:
        return [i for i, row in enumerate(rows) if wanted and (row.metrics is None or metric in row.metrics)]

    def note(metric: str, at: Sequence[int], values: Sequence[float]) -> None:
        if at:
            result.by_row[metric] = dict(zip(at, map(float, values), strict=True))

    try:
        if judge and (at := asked("toxicity")):
            note("toxicity", at, judge(_at(prompts, at), _at(texts, at)))
        if reward and (at := asked("reward")):
            references = [rows[i].reference or "" for i in at] if any(rows[i].reference for i in at) else None
            note("reward", at, reward.score(_at(prompts, at), _at(texts, at), references))
            for part, scores in reward.components().items():
                note(f"reward.{part}", at, scores)
    except reward_models.RewardError as error:
        raise AlignError(f"evaluating {subject.name}: {error}") from error

    with_reference = {i: row.reference for i, row in enumerate(rows) if row.reference is not None}
    if at := [i for i in asked("rouge", "rouge" in config.metrics) if i in with_reference]:
        scored = overlap.rouge(_at(texts, at), _at(with_reference, at))
        for metric in ("rouge_1", "rouge_2", "rouge_l"):
            note(metric, at, [scores[metric] for scores in scored])
    if at := [i for i in asked("bleu", "bleu" in config.metrics) if i in with_reference]:
        result.whole["bleu"] = corpus.bleu(_at(texts, at), _at(with_reference, at), [units[i] for i in at])
    if at := [i for i in asked("perplexity", "perplexity" in config.metrics) if i in with_reference]:
        pairs = [(prompts[i], with_reference[i]) for i in at]
        likelihoods = reference_likelihoods(subject, pairs, config.batch_size)
        perplexity = corpus.perplexity(*likelihoods, units=[units[i] for i in at])
        if _vocabularies_differ(subject, baseline):  # another tokenizer's tokens: no difference to take
            result.extra["perplexity"] = perplexity.interval()
        else:
            result.whole["perplexity"] = perplexity
    if at := asked("kl", "kl" in config.metrics):
        if subject is baseline:
            note("kl", at, [0.0] * len(at))
        elif problem := _vocabularies_differ(subject, baseline):
            logger.warning("kl of %s is left out: %s", subject.name, problem)
        else:
            pairs_of_ids = [(subject.tokenizer(prompts[i])["input_ids"], responses[i].token_ids) for i in at]
            note("kl", at, kl_to_baseline(subject, baseline, pairs_of_ids, config.batch_size))
    at = asked("length", "length" in config.metrics)
    note("length_characters", at, [len(texts[i]) for i in at])
    note("length_tokens", at, [len(responses[i].token_ids) for i in at])
    if at := asked("distinct", "distinct" in config.metrics):
        for n in (1, 2):
            result.whole[f"distinct_{n}"] = corpus.distinct(_at(texts, at), n, [units[i] for i in at])
        note("repetition", at, [diversity.repetition(texts[i]) for i in at])
    return result


def reference_likelihoods(
    subject: Subject, pairs: Sequence[tuple[str, str]], batch_size: int
) -> tuple[list[float], list[int]]:
    """Negative log-likelihood (nats) and number of tokens of each reference, end of text included.

    A decoder-only model reads the reference after its prompt, with the space between words that belongs there.

    Raises:
        UsageError: a reference does not fit into the model's table of positions.
    """
    ids: list[tuple[list[int], list[int]]] = []
    for prompt, reference in pairs:
        joined = unwrapped(subject.model).config.is_encoder_decoder or not prompt or prompt[-1].isspace()
        text = reference if joined else f" {reference.lstrip()}"
        completion = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
        prompt_ids = subject.tokenizer(prompt)["input_ids"]
        ids.append((prompt_ids, [*completion, subject.tokenizer.eos_token_id]))
    lengths = [(len(prompt), len(completion)) for prompt, completion in ids]
    check_context(
        subject.model, lengths, "leave such rows out, or measure no perplexity on them (`metrics:` of the data)"
    )
    losses: list[float] = []
    for batch in _batches(subject, ids, batch_size):
        losses += (-response_log_probs(subject.model, batch).double().sum(1)).tolist()
    return losses, [len(completion) for _, completion in ids]


def kl_to_baseline(
    subject: Subject, baseline: Subject, ids: Sequence[tuple[list[int], list[int]]], batch_size: int
) -> list[float]:
    """Nats per response by which the model has moved away, at temperature 1, along its own responses."""
    found: list[float] = []
    for batch in _batches(subject, ids, batch_size):
        found += response_kl(subject.model, baseline.model, batch).tolist()
    return found


def _batches(subject: Subject, ids: Sequence[tuple[list[int], list[int]]], batch_size: int) -> Iterator[Batch]:
    """Prompt and response ids as batches, in order."""
    for start in range(0, len(ids), batch_size):
        prompts, responses = zip(*ids[start : start + batch_size], strict=True)
        interrupt.raise_if_requested("the responses so far are kept")
        yield Batch.build(prompts, responses, subject.tokenizer.pad_token_id, next(subject.model.parameters()).device)


def _vocabularies_differ(one: Subject, other: Subject) -> str | None:
    if one.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        return f"its tokenizer is not that of {other.name}"
    sizes = [len(unwrapped(subject.model).get_output_embeddings().weight) for subject in (one, other)]
    return None if sizes[0] == sizes[1] else f"it has {sizes[0]} logits, {other.name} has {sizes[1]}"


def _at(values: Sequence[str] | Mapping[int, str], rows: Sequence[int]) -> list[str]:
    return [values[row] for row in rows]
