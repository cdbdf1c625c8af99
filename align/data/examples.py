"""From rows to what a stage learns from: texts, instructions, prompts, labelled texts, evaluation examples.

Rows are left out, and counted in the log, where a column that is used is null, or where nothing but white space would
be left of a text that a model must read or write.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from align.configs.base import (
    EvaluationData,
    InstructionData,
    LabelConfig,
    LabelledData,
    PreferenceData,
    PromptData,
    SelectionConfig,
    TextData,
)
from align.data import cells, sources, templates
from align.data.readers import Row
from align.errors import UsageError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Instruction:
    """A prompt and the completion that a model should learn to give."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Labelled:
    """A text, without space around it, as responses come; its label's name; and the prompt that the text responds to,
    where that is to be read too."""

    text: str
    label: str
    prompt: str = ""


@dataclass(frozen=True)
class MultiLabelled:
    """A text and the names of all labels that hold of it, sorted; and its prompt, where that is to be read too."""

    text: str
    labels: tuple[str, ...]
    prompt: str = ""


@dataclass(frozen=True)
class Preference:
    """Two responses to a prompt (which may be empty), the better one first; without space around them, as they come."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class EvaluationExample:
    """A prompt, its reference if it has one, and the metrics to take on it (None: all)."""

    prompt: str
    reference: str | None
    metrics: tuple[str, ...] | None


def texts(data: Sequence[TextData]) -> list[str]:
    """Plain texts, in the order of the data."""
    return [text for one in data for _, (text,) in _rendered(one, [one.text])]


def instructions(data: Sequence[InstructionData]) -> list[Instruction]:
    """Prompts and completions, in the order of the data."""
    return [Instruction(*pair) for one in data for _, pair in _rendered(one, [one.prompt, one.completion])]


def prompts(data: Sequence[PromptData]) -> list[str]:
    """Prompts alone, in the order of the data."""
    return [prompt for prompt, _ in referenced_prompts(data)]


def referenced_prompts(data: Sequence[PromptData | EvaluationData]) -> list[tuple[str, str | None]]:
    """Prompts with their references, where the data has them, in the order of the data."""
    found: list[tuple[str, str | None]] = []
    for one in data:
        wanted = [one.prompt] if one.reference is None else [one.prompt, one.reference]
        for _, (prompt, *reference) in _rendered(one, wanted):
            found.append((prompt, reference[0] if reference else None))
    return found


def evaluation(data: Sequence[EvaluationData]) -> list[EvaluationExample]:
    """Prompts with references where the data has them, in the order of the data."""
    examples: list[EvaluationExample] = []
    for one in data:
        metrics = None if one.metrics is None else tuple(one.metrics)
        wanted = [one.prompt] if one.reference is None else [one.prompt, one.reference]
        for _, (prompt, *reference) in _rendered(one, wanted):
            examples.append(EvaluationExample(prompt, reference[0] if reference else None, metrics))
    return examples


def labelled(data: Sequence[LabelledData]) -> list[Labelled]:
    """Texts with labels, in the order of the data.

    Raises:
        UsageError: a label that `names` does not map (says which values stand in the data), or one that is no number
            where the label is read by a threshold.
    """
    examples: list[Labelled] = []
    for one in data:
        if one.label is None:
            raise ValueError("data with `labels:` is read by multi_labelled")
        rows = list(_rendered(one, _text_and_prompt(one), labels=[one.label.column]))
        place = sources.place(one.dataset)
        labels = _labels([templates.lookup(row, one.label.column) for row, _ in rows], one.label, place)
        found = [
            Labelled(text.strip(), label, *prompt)
            for (_, (text, *prompt)), label in zip(rows, labels, strict=True)
            if label is not None
        ]
        if not found:
            raise UsageError(f"{place}: column {one.label.column!r} holds no label in any of {len(rows)} rows")
        if len(found) < len(rows):
            logger.info("%s: %d rows without a label left out", place, len(rows) - len(found))
        examples += found
    return examples


def ambiguity(labels: Collection[str]) -> str | None:
    """What is wrong with labels that are equal but for case and space around them: the published reward, which is told
    its label by name, could not tell them apart. None where all differ."""
    counts = Counter(label.strip().casefold() for label in labels)
    if same := sorted(label for label in labels if counts[label.strip().casefold()] > 1):
        return f"labels that differ only in case or spaces: {_listed(same)}; make them equal, as label.names can"
    return None


def multi_labelled(data: Sequence[LabelledData]) -> list[MultiLabelled]:
    """Texts with the labels that hold of them, in the order of the data. A row with an empty label is left out.

    Raises:
        UsageError: a label that is no number.
    """
    examples: list[MultiLabelled] = []
    for one in data:
        place = sources.place(one.dataset)
        rows = list(_rendered(one, _text_and_prompt(one), labels=list(one.labels.values())))
        found: list[MultiLabelled] = []
        for row, (text, *prompt) in rows:
            try:
                numbers = {name: cells.number(templates.lookup(row, column)) for name, column in one.labels.items()}
            except ValueError as error:
                raise UsageError(f"{place}: labels need numbers, but: {error}") from error
            held = [name for name, number in numbers.items() if number is not None and number > one.threshold]
            if None not in numbers.values():
                found.append(MultiLabelled(text.strip(), tuple(sorted(held)), *prompt))
        if not found:
            raise UsageError(f"{place}: none of {len(rows)} rows has a number for each of {', '.join(one.labels)}")
        if len(found) < len(rows):
            logger.info("%s: %d rows without some label left out", place, len(rows) - len(found))
        examples += found
    return examples


def preferences(data: Sequence[PreferenceData]) -> list[Preference]:
    """Preference pairs, in the order of the data.

    Raises:
        UsageError: the two responses of a pair are equal: nothing can be learned from it, and something went wrong.
    """
    pairs: list[Preference] = []
    for one in data:
        wanted = [one.chosen, one.rejected] + ([] if one.prompt is None else [one.prompt])
        found = [
            Preference(prompt[0] if prompt else "", chosen.strip(), rejected.strip())
            for _, (chosen, rejected, *prompt) in _rendered(one, wanted)
        ]
        equal = [pair for pair in found if pair.chosen == pair.rejected]
        if equal:
            raise UsageError(
                f"{sources.place(one.dataset)}: in {len(equal)} of {len(found)} pairs the chosen and the rejected "
                f"response are equal, the first of them {equal[0].chosen[:40]!r}; remove them, or correct the templates"
            )
        pairs += found
    return pairs


def _rendered(
    data: SelectionConfig, wanted: Sequence[str], labels: Sequence[str] = ()
) -> Iterator[tuple[Row, list[str]]]:
    """Each selected row with its rendered templates; rows that lack one are left out."""
    place = sources.place(data.dataset)
    rows = sources.select(data)
    used = [column for template in wanted for column in templates.columns(template)]
    sources.require_columns(rows, [*used, *labels], place)
    left = 0
    for row in rows:
        texts = [templates.render(template, row) for template in wanted]
        complete = [text for text in texts if text is not None and text.strip()]
        if len(complete) < len(wanted):
            continue
        cells.require_encodable(complete, place)
        left += 1
        yield row, complete
    if left == 0:
        raise UsageError(f"{place}: none of {len(rows)} rows has text for {' and '.join(map(repr, wanted))}")
    if left < len(rows):
        logger.info("%s: %d of %d rows left out: no text in %s", place, len(rows) - left, len(rows), ", ".join(used))


def _text_and_prompt(data: LabelledData) -> list[str]:
    return [data.text] if data.prompt is None else [data.text, data.prompt]


def _labels(values: Sequence[object], label: LabelConfig, place: str) -> list[str | None]:
    """The names of labels; None where there is no label."""
    if label.threshold is not None:
        try:
            numbers = [cells.number(value) for value in values]
        except ValueError as error:
            raise UsageError(f"{place}: column {label.column!r} needs numbers for a threshold, but: {error}") from error
        return [None if one is None else label.above if one > label.threshold else label.below for one in numbers]
    spellings = [None if cells.is_empty(value) else cells.spelled(value) for value in values]
    if label.names is None:
        return spellings
    names = {cells.spelled(key): name for key, name in label.names.items()}
    if unknown := {spelling for spelling in spellings if spelling is not None} - names.keys():
        found = sorted({spelling for spelling in spellings if spelling is not None})
        raise UsageError(
            f"{place}: label.names has no name for {_listed(sorted(unknown))} in column {label.column!r}; "
            f"the column holds: {_listed(found)}"
        )
    return [None if spelling is None else names[spelling] for spelling in spellings]


def _listed(values: Sequence[str], most: int = 10) -> str:
    return ", ".join(map(repr, values[:most])) + (f" and {len(values) - most} more" if len(values) > most else "")
