"""Rows from local files: JSONL, JSON and CSV. Every error names the file and the line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from align.errors import UsageError

Row = dict[str, Any]

_LARGEST_CSV_FIELD = 2**31 - 1  # the most that a C long holds on every platform


def read(path: Path) -> list[Row]:
    """All rows of a file that `existing` gave.

    Raises:
        UsageError: it cannot be read, or is not what its name says.
    """
    return _READERS[path.suffix](path)


def existing(name: str) -> Path:
    """The file of that name. Raises `UsageError` if there is none, or none of these formats."""
    path = Path(name)
    if path.suffix not in _READERS:
        raise UsageError(
            f"{path}: data files are {', '.join(_READERS)}; convert it, or load it from the Hub with `hub:`"
        )
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise UsageError(f"data file {path} {what} (looked from {Path.cwd()})")
    return path


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
