"""Rows in, the same rows with their scores out."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from align.errors import AlignError, UsageError
from align.progress import Advance
from reward_models import CheckedModel, RewardError

logger = logging.getLogger(__name__)

Row = dict[str, Any]

AT_ONCE = 1024
"""Rows in one call of the model: enough to sort by length, few enough to see progress."""
_TEXT_KEYS = ("prompt", "response", "reference")
_TABLES = (".csv", ".tsv", ".parquet")
_LIST = re.compile(r"\s*\[\s*(\{|$)")
_ROW = '{"prompt": "…", "response": "…"}'


def read(lines: Iterable[str], source: str, *, plain: bool = False) -> list[Row]:
    """Rows with a `response`, from JSON lines; or, where the first line is no JSON object, one response per line.

    Args:
        lines: with or without their ends; empty ones are skipped.
        source: how errors call it.
        plain: a line is a response, whatever it looks like.

    Raises:
        UsageError: a line that is not like the others, a table or a JSON list, or nothing at all.
    """
    if not plain and source.lower().endswith(_TABLES):
        raise UsageError(
            f"{source}: give JSON lines ({_ROW}), or one response per line; `align reward evaluate` reads tables. "
            "(--plain scores its lines as they are)"
        )
    rows: list[Row] = []
    as_json: bool | None = False if plain else None
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n")
        if not text.strip():
            continue
        if as_json is None:
            as_json = text.lstrip().startswith("{")
            if _LIST.match(text):
                raise UsageError(f"{source}:{number}: a JSON list; put each row on a line of its own (or say --plain)")
        if not (plain or as_json) and _is_object(text):
            raise UsageError(
                f"{source}:{number}: a JSON row, but the first line is not one: say --plain if all are text"
            )
        rows.append(_row(text, f"{source}:{number}") if as_json else {"response": text})
    if not rows:
        raise UsageError(f"{source} holds no row to score")
    if len({"reference" in row for row in rows}) > 1:
        raise UsageError(f"{source}: some rows have a `reference` and some do not; give it to all or to none")
    return rows


def score(model: CheckedModel, rows: Sequence[Row], advance: Advance = lambda n=1, **_: None) -> Iterator[Row]:
    """Each row, as it is, with its `score`, and with `components` where the model is made of parts.

    Raises:
        AlignError: the model broke its contract.
    """
    warn_of_missing_prompts(model, [row.get("prompt", "") for row in rows])
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        references = [row["reference"] for row in some] if "reference" in some[0] else None
        responses = [row["response"] for row in some]
        scores = scored(model, [row.get("prompt", "") for row in some], responses, references)
        parts = model.components()
        for index, (row, number) in enumerate(zip(some, scores, strict=True)):
            components = {"components": {name: values[index] for name, values in parts.items()}} if parts else {}
            yield {**row, "score": number, **components}
        advance(len(some))


def warn_of_missing_prompts(model: CheckedModel, prompts: Sequence[str]) -> None:
    """A model that reads prompts scores responses without them too, and says something else."""
    if model.describe().get("input") in ("prompt_and_response", "chat") and not all(prompts):
        count = len([prompt for prompt in prompts if prompt])
        having = f"{count} of {len(prompts)} rows have one" if count else "no row has one"
        logger.warning("%s reads the prompt as well, and %s: is its column `prompt`?", model.name, having)


def scored(
    model: CheckedModel, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
) -> list[float]:
    """`model.score`, whose failure is an `AlignError`."""
    try:
        return model.score(prompts, responses, references)
    except RewardError as error:
        raise AlignError(str(error)) from error


def in_pieces(
    model: CheckedModel,
    prompts: Sequence[str],
    responses: Sequence[str],
    references: Sequence[str] | None = None,
    *,
    advance: Callable[[int], None],
) -> list[float]:
    """As `scored`, a piece at a time, so that progress can be shown."""
    warn_of_missing_prompts(model, prompts)
    scores: list[float] = []
    for start in range(0, len(responses), AT_ONCE):
        piece = slice(start, start + AT_ONCE)
        scores += scored(model, prompts[piece], responses[piece], references[piece] if references else None)
        advance(len(responses[piece]))
    return scores


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _row(text: str, where: str) -> Row:
    try:
        row = json.loads(text)
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: half a surrogate pair ({error.object[error.start]!r}) is not text") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}; the first line was, so all must be (or say --plain)") from error
    if not isinstance(row, dict) or "response" not in row:
        raise UsageError(f"{where}: a row is an object with a `response`: {_ROW}")
    if taken := [key for key in ("score", "components") if key in row]:
        raise UsageError(f"{where}: the row has a `{taken[0]}` already, which would be overwritten: rename it")
    for key in _TEXT_KEYS:
        if key in row and not isinstance(row[key], str):
            raise UsageError(f"{where}: `{key}` must be text, not {row[key]!r:.40}")
    return row
