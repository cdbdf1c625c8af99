"""Rows from files, the Hub and the embedded generators; duplicates dropped, parts drawn, rows selected.

Local files need nothing but the standard library, so that a recipe's data is checked without importing torch.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import logging
import math
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from align.configs.base import DatasetConfig, LastReply, SelectionConfig
from align.data import dialogues, templates
from align.errors import UsageError
from align.registry import files

logger = logging.getLogger(__name__)

AnyConfig = TypeVar("AnyConfig", bound=BaseModel)

Row = dict[str, Any]

SAMPLES = "samples.jsonl"
"""The file of an evaluation that holds its rows."""

_LARGEST_CSV_FIELD = 2**31 - 1  # the most that a C long holds on every platform
_HUB_PATIENCE = 5.0
"""Seconds to wait for an answer of the Hub."""


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
        path = _existing(dataset.path)
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


def number(value: Any) -> float | None:
    """A cell as a number; None for null, an empty cell and NaN. Raises ValueError for anything else."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        parsed = float(value)
    except TypeError as error:
        raise ValueError(f"{value!r} is not a number") from error
    return None if math.isnan(parsed) else parsed


def require_encodable(texts: Sequence[str], place: str) -> None:
    """Refuse half a surrogate pair, which JSON may spell: no tokenizer takes it, and no file of UTF-8.

    Raises:
        UsageError: a text holds one.
    """
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{place}: a text holds half a character (a lone surrogate) at {error.start}: {text[:40]!a}…; repair it"
            ) from error


def is_empty(value: Any) -> bool:
    """Whether nothing stands in a cell: null, no character but spaces, NaN."""
    blank = isinstance(value, str) and not value.strip()
    return value is None or blank or (isinstance(value, float) and math.isnan(value))


def spelled(value: Any) -> str:
    """A cell as a recipe writes it, whichever format it came from: `1.0` is "1", `True` is "true"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if text in ("True", "False"):
        return text.lower()
    return text[: text.index(".")] if re.fullmatch(r"-?\d+\.0+", text) else text


def lines(path: Path) -> Iterator[str]:
    """Lines of a file with their ends, as UTF-8.

    Raises:
        UsageError: it cannot be read, or is not UTF-8 (with the line).
    """
    try:
        with path.open("rb") as file:
            yield from decoded(file, str(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error


def decoded(lines: Iterable[bytes], where_from: str) -> Iterator[str]:
    """As `lines`, of a stream. (Not `splitlines`: JSON strings may hold U+2028.)"""
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{where_from}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def normalised(text: str) -> str:
    """Case-folded letters alone: what is compared to find duplicates."""
    return text.casefold().translate(_LETTERS) or text.strip()  # a text without any letter is its own key


class _LettersOnly(dict[int, int | None]):
    """Filled as characters are met. Marks count as letters: Indic vowels are marks."""

    def __missing__(self, character: int) -> int | None:
        self[character] = character if unicodedata.category(chr(character))[0] in "LM" else None
        return self[character]


_LETTERS = _LettersOnly()


def _keys(rows: Sequence[Row], template: str, dataset: DatasetConfig) -> list[str | None]:
    require_columns(rows, templates.columns(template), place(dataset))
    rendered = (templates.render(template, row) for row in rows)
    return [None if text is None else normalised(text) for text in rendered]


def _fits(row: Row, column: str, wanted: str | float | bool | Mapping[Any, float], where_from: str) -> bool:
    value = templates.lookup(row, column)
    if isinstance(wanted, bool):
        return value is not None and spelled(value) in (("true", "1") if wanted else ("false", "0"))
    if isinstance(wanted, str):
        return value is not None and spelled(value) == spelled(wanted)
    try:
        measured = number(value)
    except ValueError as error:
        raise UsageError(f"{where_from}: where: {column} compares numbers, but a row holds {value!r}") from error
    if measured is None:
        return False
    if isinstance(wanted, Mapping):
        return wanted.get("min", -math.inf) <= measured <= wanted.get("max", math.inf)
    return measured == wanted


def _source_rows(dataset: DatasetConfig) -> list[Row]:
    if dataset.path is not None:
        path = _existing(dataset.path)
        return _READERS[path.suffix](path)
    if dataset.artifact is not None:
        raise UsageError(f"{place(dataset)} can only be read while a recipe runs")
    if dataset.hub is not None:
        return _hub_rows(dataset)
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


def _existing(name: str) -> Path:
    path = Path(name)
    if path.suffix not in _READERS:
        raise UsageError(
            f"{path}: data files are {', '.join(_READERS)}; convert it, or load it from the Hub with `hub:`"
        )
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise UsageError(f"data file {path} {what} (looked from {Path.cwd()})")
    return path


def _read_jsonl(path: Path) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(lines(path), start=1):
        if line := line.strip():
            row = _parse_json(line, path, number)
            if not isinstance(row, dict):
                raise UsageError(f"{path}:{number}: a line must be a JSON object, but is {_json_kind(row)}")
            rows.append(row)
    return rows


def _read_json(path: Path) -> list[Row]:
    rows = _parse_json("".join(lines(path)), path)
    if not isinstance(rows, list):
        raise UsageError(f"{path}: must be a JSON list of objects, but is {_json_kind(rows)}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UsageError(f"{path}: element {number} must be an object, but is {_json_kind(row)}")
    return rows


def _parse_json(text: str, path: Path, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{line + error.lineno - 1}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, too many brackets
        raise UsageError(f"{path}:{line}: JSON that cannot be read: {error}") from error


def _json_kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _read_csv(path: Path) -> list[Row]:
    limit = csv.field_size_limit(_LARGEST_CSV_FIELD)
    reader = csv.reader(lines(path), strict=True)
    try:
        header = next(reader, [])
        if repeated := {name for name in header if header.count(name) > 1}:
            raise UsageError(f"{path}:1: columns with the same name: {', '.join(sorted(repeated))}")
        rows: list[Row] = []
        for fields in reader:
            if fields and len(fields) != len(header):
                raise UsageError(f"{path}:{reader.line_num}: {len(fields)} fields, but the header has {len(header)}")
            if fields:
                rows.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise UsageError(f"{path}:{reader.line_num}: not CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
    return rows


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv}


_unavailable: dict[str, str] = {}
"""Hub data sets that could not be had, and why. The next stage that names one is told at once."""


def _hub_rows(dataset: DatasetConfig) -> list[Row]:
    known = repr((dataset.hub, dataset.subset, dataset.split, dataset.revision))
    if known not in _unavailable:
        try:
            return _downloaded(dataset)
        except Exception as error:  # the Hub's client raises its own, OSErrors, ValueErrors: all mean "not to be had"
            _unavailable[known] = str(error)
    raise UsageError(
        f"{place(dataset)}: could not be loaded from the Hub: {_unavailable[known]}. Without a network, fetch it "
        "elsewhere and name the file: --set 'datasets.NAME={path: FILE.jsonl}'"
    )


def _downloaded(dataset: DatasetConfig) -> list[Row]:
    """The rows from the Hub, or from the cache of an earlier download where nothing answers."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not _hub_answers():  # both libraries then look into the cache alone, rather than try again for half a minute
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        loaded = datasets.load_dataset(
            dataset.hub, dataset.subset, split=dataset.split or "train", revision=dataset.revision
        )
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
    return [dict(row) for row in loaded]


@lru_cache(maxsize=1)
def _hub_answers() -> bool:
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_PATIENCE)
    except Exception:  # which class it is depends on the client's version; each means no answer
        return False
    return True
