"""Rows from files, the Hub and the embedded generators; duplicates dropped, parts drawn, rows selected.

Local files need nothing but the standard library, so that a recipe's data is checked without importing torch.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from align.configs.base import DatasetConfig, LastReply, SelectionConfig
from align.data import cells, dialogues, hub, readers, templates
from align.data.readers import Row
from align.errors import UsageError
from align.registry import files

logger = logging.getLogger(__name__)

AnyConfig = TypeVar("AnyConfig", bound=BaseModel)

SAMPLES = "samples.jsonl"
"""The file of an evaluation that holds its rows."""


def load_rows(dataset: DatasetConfig) -> list[Row]:
    """All rows of a data set in their own order, without its duplicates and what it excludes.

    They are read once: whoever asks again while the content is the same is given the same rows, not to be changed.

    Raises:
        UsageError: the source is missing or malformed (with the line), or lacks a column that `unique_by` names.
    """
    return list(_loaded(dataset.model_dump_json(), fingerprint(dataset)))


@lru_cache(maxsize=32)
def _loaded(dataset_json: str, content: str) -> Sequence[Row]:
    """The rows of a data set whose fingerprint is `content`: a file that has changed is another entry of the cache."""
    dataset = DatasetConfig.model_validate_json(dataset_json)
    rows = _source_rows(dataset)
    if dataset.last_reply is not None:
        rows = _cut_before_last_reply(rows, dataset.last_reply, place(dataset))
    if dataset.unique_by is None:
        return rows
    excluded = set(_keys(load_rows(dataset.exclude), dataset.unique_by, dataset.exclude)) if dataset.exclude else set()
    seen: set[str] = set()
    kept: list[Row] = []
    for row, key in zip(rows, _keys(rows, dataset.unique_by, dataset), strict=True):
        if key is None or (key not in seen and key not in excluded):
            kept.append(row)
        if key is not None:
            seen.add(key)
    if len(kept) < len(rows):
        logger.info(
            "%s: %d duplicate or excluded rows dropped, %d left", place(dataset), len(rows) - len(kept), len(kept)
        )
    return kept


def select(data: SelectionConfig) -> list[Row]:
    """The rows that a stage asked for: one part of the data set, those that fit `where`, at most `limit`.

    Raises:
        UsageError: as `load_rows`; a column that `where` names is unknown or not a number; no row is left.
    """
    rows = everything = load_rows(data.dataset)
    where_from = place(data.dataset)
    if data.part is not None:
        rows = divide(rows, data.dataset.parts or {}, data.dataset.seed, where_from)[data.part]
    require_columns(rows, data.where, where_from)
    rows = [row for row in rows if all(_fits(row, *condition, where_from) for condition in data.where.items())]
    if not rows:
        filters = f" with where: {data.where}" if data.where else ""
        raise UsageError(
            f"{where_from}: none of {len(everything)} rows left{filters}; loosen the filters or fill the file"
        )
    return rows[: data.limit]


def divide(rows: Sequence[Row], parts: Mapping[str, int], seed: int, where_from: str) -> dict[str, list[Row]]:
    """Disjoint parts of the given sizes, from the rows in an order shuffled by `seed`.

    Parts are dealt in the order of their names, so that it does not matter how a recipe lists them.
    """
    if (needed := sum(parts.values())) > len(rows):
        sizes = ", ".join(f"{name} {size}" for name, size in parts.items())
        raise UsageError(
            f"{where_from}: parts need {needed} rows ({sizes}), but there are only {len(rows)}; lower them"
        )
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    divided: dict[str, list[Row]] = {}
    for name in sorted(parts):
        divided[name], shuffled = shuffled[: parts[name]], shuffled[parts[name] :]
    return divided


def require_columns(rows: Sequence[Row], columns: Iterable[str], where_from: str) -> None:
    """Raise `UsageError` for a column that no row has; one that only some rows lack is null in these."""
    for column in columns:
        if rows and not any(templates.has(row, column) for row in rows):
            known = list(dict.fromkeys(name for row in rows[:100] for name in templates.names(row)))
            if len(known) == 1 and (mark := next((mark for mark in ";\t|" if mark in known[0]), None)):
                raise UsageError(f"{where_from} has no column {column!r}: separate columns by commas, not by {mark!r}")
            nested = [name for name in known if name.rpartition(".")[2] == column]
            guess = next(iter(nested + difflib.get_close_matches(column, known, n=1)), None)
            hint = f"; did you mean {guess!r}?" if guess else "."
            raise UsageError(f"{where_from} has no column {column!r}{hint} It has: {', '.join(known)}")


def place(dataset: DatasetConfig) -> str:
    """How errors call a data set: its file, its Hub id, its generator."""
    if dataset.path is not None:
        return dataset.path
    if dataset.artifact is not None:
        return f"samples of {dataset.artifact}"
    if dataset.hub is not None:
        return f"hub:{dataset.hub}" + (f" ({dataset.split})" if dataset.split else "")
    return f"generator {dataset.generator} ({dataset.split or 'train'})"


def fingerprint(dataset: DatasetConfig) -> str:
    """Sha256 over what decides the rows: content rather than paths, and how it is divided.

    A Hub data set without a revision is known by its id alone: a change upstream goes unnoticed.
    """
    source: list[Any]
    if dataset.path is not None:
        path = readers.existing(dataset.path)
        source = ["file", path.suffix, files.sha256_once(path)]
    elif dataset.artifact is not None:
        source = ["artifact"]  # an input of the stage, whose digest counts by itself
    elif dataset.hub is not None:
        source = ["hub", dataset.hub, dataset.subset, dataset.split or "train", dataset.revision]
    else:
        split = dialogues.split_name(dataset.split)
        size = dataset.size or dialogues.default_size(dataset.generator or "", split)
        source = ["generator", dialogues.GENERATOR_VERSION, dataset.generator, split, size, dataset.seed]
    identity = {
        "source": source,
        "last_reply": dataset.last_reply.model_dump() if dataset.last_reply else None,
        "unique_by": dataset.unique_by,
        "exclude": fingerprint(dataset.exclude) if dataset.exclude else None,
        "parts": dataset.parts,
        "seed": dataset.seed if dataset.parts else None,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def with_files(config: AnyConfig, directories: Mapping[str, Path]) -> AnyConfig:
    """A configuration whose data sets that are artifacts are files: those in `directories`, by reference."""
    if isinstance(config, DatasetConfig) and config.artifact is not None:
        file = str(directories[config.artifact] / SAMPLES)
        return config.model_copy(update={"artifact": None, "path": file})

    def located(value: Any) -> Any:
        if isinstance(value, list):
            return [located(item) for item in value]
        return with_files(value, directories) if isinstance(value, BaseModel) else value

    return config.model_copy(update={name: located(getattr(config, name)) for name in type(config).model_fields})


def waits_for_an_artifact(dataset: DatasetConfig) -> bool:
    """Whether rows are there only when an earlier stage is done."""
    return dataset.artifact is not None or (dataset.exclude is not None and waits_for_an_artifact(dataset.exclude))


def _keys(rows: Sequence[Row], template: str, dataset: DatasetConfig) -> list[str | None]:
    require_columns(rows, templates.columns(template), place(dataset))
    rendered = (templates.render(template, row) for row in rows)
    return [None if text is None else cells.normalised(text) for text in rendered]


def _fits(row: Row, column: str, wanted: str | float | bool | Mapping[Any, float], where_from: str) -> bool:
    value = templates.lookup(row, column)
    if isinstance(wanted, bool):
        return value is not None and cells.spelled(value) in (("true", "1") if wanted else ("false", "0"))
    if isinstance(wanted, str):
        return value is not None and cells.spelled(value) == cells.spelled(wanted)
    try:
        measured = cells.number(value)
    except ValueError as error:
        raise UsageError(f"{where_from}: where: {column} compares numbers, but a row holds {value!r}") from error
    if measured is None:
        return False
    if isinstance(wanted, Mapping):
        return wanted.get("min", -math.inf) <= measured <= wanted.get("max", math.inf)
    return measured == wanted


def _source_rows(dataset: DatasetConfig) -> list[Row]:
    if dataset.path is not None:
        return readers.read(readers.existing(dataset.path))
    if dataset.artifact is not None:
        raise UsageError(f"{place(dataset)} can only be read while a recipe runs")
    if dataset.hub is not None:
        return hub.rows(dataset)
    return dialogues.generate(dataset.generator or "", dialogues.split_name(dataset.split), dataset.size, dataset.seed)


def _cut_before_last_reply(rows: Sequence[Row], cut: LastReply, where_from: str) -> list[Row]:
    require_columns(rows, cut.columns, where_from)
    kept: list[Row] = []
    for row in rows:
        parts = [str(templates.lookup(row, column) or "").rpartition(cut.marker) for column in cut.columns]
        prompts = {before + marker for before, marker, _ in parts}
        if len(prompts) == 1 and parts[0][1]:
            replies = {column: reply.strip() for column, (_, _, reply) in zip(cut.columns, parts, strict=True)}
            kept.append({**row, **replies, "prompt": prompts.pop()})
    if not kept:
        raise UsageError(
            f"{where_from}: in none of {len(rows)} rows do {' and '.join(cut.columns)} contain {cut.marker!r} "
            "after the same prompt; correct last_reply"
        )
    if len(kept) < len(rows):
        logger.info("%s: %d rows without one prompt left out", where_from, len(rows) - len(kept))
    return kept
