"""Rows to measure a reward model on: texts that are good or bad, or pairs of which one is better."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from align.configs.base import SelectionConfig
from align.data import cells, sources, templates
from align.data.readers import Row
from align.errors import UsageError

logger = logging.getLogger(__name__)

RESPONSES = ("response", "text", "completion", "sentence")
"""Columns that are taken for the response where no template is given."""


@dataclass(frozen=True)
class Rows:
    """Texts to score, and the rows they stand in."""

    place: str
    rows: list[Row]
    numbers: list[int]
    """Which of the data's rows they are, counted from 1."""
    prompts: list[str]
    responses: list[str]
    references: list[str] | None = None


@dataclass(frozen=True)
class Pairs:
    """Two responses to each prompt, and the rows they stand in."""

    place: str
    rows: list[Row]
    numbers: list[int]
    """Which of the data's rows they are, counted from 1."""
    prompts: list[str]
    chosen: list[str]
    rejected: list[str]
    references: list[str] | None = None


Found = TypeVar("Found", Rows, Pairs)


def select(text: str) -> tuple[list[Row], str]:
    """The rows of a file, or of what a recipe would call a data set: `{path: x.csv, last_reply: {…}}`.

    A mapping may also select, as a recipe's `data:` does: `{dataset: {…}, where: {…}, limit: 100}`.

    Raises:
        UsageError: no such file or key, or no row.
    """
    asked: Any = {"path": text}
    if text.lstrip().startswith("{"):
        try:
            asked = yaml.safe_load(_with_environment(text))
        except yaml.YAMLError as error:
            raise UsageError(f"DATA is not YAML: {' '.join(str(error).split())}") from error
    try:
        selection = SelectionConfig.model_validate(asked if "dataset" in asked else {"dataset": asked})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"DATA: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return sources.select(selection), sources.place(selection.dataset)


def texts(
    rows: Sequence[Row],
    place: str,
    response: str | None = None,
    prompt: str | None = None,
    reference: str | None = None,
) -> Rows:
    """Responses, their prompts and references, by templates such as `{text}`; without one by the columns' usual names.

    Rows without a response are left out, and so are those without a reference where its template is given.
    """
    response = response or _usual(rows, RESPONSES, place, "--response '{column}'")
    _require_column({"--response": response, "--reference": reference})
    prompt, compared = prompt or _if_there(rows, "prompt"), reference or _if_there(rows, "reference")
    used = [column for template in (response, prompt, compared) for column in templates.columns(template)]
    sources.require_columns(rows, used, place)
    rendered = [(number, row, templates.render(response, row)) for number, row in enumerate(rows, start=1)]
    # As a classifier is trained, and as responses come.
    kept = [(number, row, text.strip()) for number, row, text in rendered if text is not None and text.strip()]
    if not kept:
        raise UsageError(f"{place}: no row has text for {response!r}")
    _say_left_out(place, len(rows), len(kept), f"text for {response!r}")
    found = Rows(
        place,
        rows=[row for _, row, _ in kept],
        numbers=[number for number, _, _ in kept],
        prompts=[templates.render(prompt, row) or "" for _, row, _ in kept],
        responses=[text for _, _, text in kept],
        references=[templates.render(compared, row) or "" for _, row, _ in kept] if compared else None,
    )
    for column in (found.prompts, found.responses, found.references or []):
        cells.require_encodable(column, place)
    return with_references(found) if reference else found


def pairs(
    rows: Sequence[Row],
    place: str,
    prompt: str | None = None,
    reference: str | None = None,
    chosen: str = "{chosen}",
    rejected: str = "{rejected}",
) -> Pairs:
    """Two responses a row, by templates; rows without both are left out, and so are those without a reference where
    its template is given.

    Raises:
        UsageError: a pair whose two responses are equal.
    """
    _require_column({"--chosen": chosen, "--rejected": rejected, "--reference": reference})
    prompt, compared = prompt or _if_there(rows, "prompt"), reference or _if_there(rows, "reference")
    sources.require_columns(rows, templates.columns(chosen + rejected + prompt + compared), place)
    kept, numbers, ups, downs, references = [], [], [], [], []
    for number, row in enumerate(rows, start=1):
        better, worse = templates.render(chosen, row), templates.render(rejected, row)
        # As a model of preferences is trained, and as responses come.
        better, worse = ((text or "").strip() for text in (better, worse))
        if not (better and worse):
            continue
        if better == worse:
            raise UsageError(f"{place}: in row {number} chosen and rejected are equal: nothing is preferred; remove it")
        kept.append(row)
        numbers.append(number)
        references.append(templates.render(compared, row) or "")
        ups.append(better)
        downs.append(worse)
    if not kept:
        raise UsageError(f"{place}: no row has both chosen and rejected")
    _say_left_out(place, len(rows), len(kept), "both chosen and rejected")
    prompts = [templates.render(prompt, row) or "" for row in kept]
    for column in (prompts, ups, downs, references):
        cells.require_encodable(column, place)
    found = Pairs(place, kept, numbers, prompts, ups, downs, references if compared else None)
    return with_references(found) if reference else found


def with_references(data: Found) -> Found:
    """Only the rows that have a reference, for a model that compares with it.

    Raises:
        UsageError: none has one.
    """
    if data.references is None:
        return data
    kept = [index for index, reference in enumerate(data.references) if reference.strip()]
    if not kept:
        raise UsageError(f"{data.place}: no row has a reference")
    _say_left_out(data.place, len(data.rows), len(kept), "a reference")
    return _only(data, kept)


def are_pairs(rows: Sequence[Row]) -> bool:
    """Whether the rows have the columns of preference pairs."""
    return any({"chosen", "rejected"} <= row.keys() for row in rows)


def labels(data: Rows, column: str) -> tuple[Rows, list[str]]:
    """The labels as a recipe would spell them, without space around them, and the rows that have one."""
    sources.require_columns(data.rows, [column], data.place)
    found = [templates.lookup(row, column) for row in data.rows]
    kept = [index for index, value in enumerate(found) if not cells.is_empty(value)]
    if not kept:
        raise UsageError(f"{data.place}: column {column!r} is empty in all {len(data.rows)} rows")
    _say_left_out(data.place, len(found), len(kept), f"{column!r}")
    return _only(data, kept), [cells.spelled(found[index]) for index in kept]


def are_of_its_label(good: Sequence[bool], values: Sequence[str], description: Mapping[str, Any]) -> bool:
    """Whether the good rows are those of the model's label (or, with its sign changed, all others), so that its
    probability is theirs. Of two labels, one is the other's opposite, whatever the data calls them."""
    scored, is_good = str(description.get("label") or "").casefold(), description.get("sign", 1) == 1
    if len(set(values)) == 2 or scored not in {value.casefold() for value in values}:
        return True
    return all((value.casefold() == scored) == (one == is_good) for value, one in zip(values, good, strict=True))


def good(
    values: Sequence[str], column: str, description: Mapping[str, Any], positive: Sequence[str] = ()
) -> list[bool]:
    """Whether each row should score high: its label is one of `positive`, or else the one that the model scores.

    Raises:
        UsageError: no row has such a label, all rows have, or it is not known which is meant.
    """
    known = sorted(set(values))
    scored = str(description.get("label") or "")
    if positive:
        if unknown := [one for one in positive if cells.spelled(one) not in known]:
            raise UsageError(f"--positive {unknown[0]}: column {column!r} holds {_listed(known)}")
        wanted = {cells.spelled(one) for one in positive}
        result = [value in wanted for value in values]
    elif scored.casefold() in {value.casefold() for value in known}:
        is_good = description.get("sign", 1) == 1
        result = [(value.casefold() == scored.casefold()) == is_good for value in values]
        if len(known) > 2:
            others = [value for value in known if value.casefold() != scored.casefold()]
            logger.info("column %r: %s should score %s", column, _listed(others), "low" if is_good else "high")
    else:
        what = f"the model scores {scored!r}, and " if scored else ""
        raise UsageError(f"{what}column {column!r} holds {_listed(known)}: which should score high? Say --positive")
    if all(result) or not any(result):
        raise UsageError(
            f"column {column!r} holds {_listed(known)}, so that all {len(result)} rows should score "
            f"{'high' if result[0] else 'low'}: there is nothing to tell apart"
        )
    return result


def _only(data: Found, kept: Sequence[int]) -> Found:
    """Some of the rows, by their places."""
    columns: dict[str, Any] = {field.name: getattr(data, field.name) for field in fields(data)}
    some = {name: [column[index] for index in kept] for name, column in columns.items() if isinstance(column, list)}
    return type(data)(**{**columns, **some})


def _say_left_out(place: str, rows: int, kept: int, wanted: str) -> None:
    if kept < rows:
        logger.info("%s: %d of %d rows left out, without %s", place, rows - kept, rows, wanted)


def _require_column(templates_by_option: Mapping[str, str | None]) -> None:
    for option, template in templates_by_option.items():
        if template is not None and not templates.columns(template):
            raise UsageError(f"{option} {template!r} names no column: write it in braces, as in '{{{template}}}'")


def _if_there(rows: Sequence[Row], column: str) -> str:
    return f"{{{column}}}" if any(column in row for row in rows) else ""


def _usual(rows: Sequence[Row], names: Sequence[str], place: str, option: str) -> str:
    for name in names:
        if any(name in row for row in rows):
            return f"{{{name}}}"
    found = list(dict.fromkeys(name for row in rows[:100] for name in templates.names(row)))
    hint = "; separate columns by commas" if len(found) == 1 and ";" in found[0] else ""
    raise UsageError(
        f"{place} has no column {' or '.join(names)}, but {', '.join(found)}: say which with {option}{hint}"
    )


def _with_environment(text: str) -> str:
    """`${env:NAME}` replaced, as in a recipe."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise UsageError(f"DATA: the environment has no {match[1]}")
        return os.environ[match[1]]

    return re.sub(r"\$\{env:(\w+)\}", value, text)


def _listed(values: Sequence[str], most: int = 10) -> str:
    return ", ".join(map(repr, values[:most])) + (f" and {len(values) - most} more" if len(values) > most else "")
