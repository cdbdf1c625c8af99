"""Templates: `Summarize: {dialogue}`. A column's name in braces, dots reaching inside; all else stands for itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.configs.base import COLUMN
from align.errors import UsageError

_MISSING = object()


def columns(template: str) -> list[str]:
    """The columns that a template uses, in order, each once."""
    return list(dict.fromkeys(COLUMN.findall(template)))


def render(template: str, row: Mapping[str, Any]) -> str | None:
    """The template filled from one row, or None where a column it uses is null, NaN or missing in this row.

    Raises:
        UsageError: a column holds a list or an object, which has no one spelling as text.
    """
    values = {column: lookup(row, column) for column in columns(template)}
    for column, value in values.items():
        if value is None or value != value:  # NaN, which pandas writes for nothing
            return None
        if isinstance(value, list | dict):
            holds = f"a list; pick an element: {{{column}.0}}" if isinstance(value, list) else "an object"
            if isinstance(value, dict) and value:
                holds += f"; reach inside it: {{{column}.{next(iter(value))}}}"
            raise UsageError(f"column {column!r} in template {template!r} is not text but {holds}")
    return COLUMN.sub(lambda match: str(values[match[1]]), template)


def lookup(row: Mapping[str, Any], column: str) -> Any:
    """What stands in a column; None where it is null or missing."""
    value = _find(row, column)
    return None if value is _MISSING else value


def has(row: Mapping[str, Any], column: str) -> bool:
    """Whether the row has this column, be it null."""
    return _find(row, column) is not _MISSING


def names(row: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every column of a row by its dotted name."""
    found: list[str] = []
    for key, value in row.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, dict):
            found += names(value, f"{prefix}{key}.")
    return found


def _find(value: Any, column: str) -> Any:
    """A column named literally `a.b` wins over `b` inside `a`."""
    if isinstance(value, Mapping) and column in value:
        return value[column]
    head, dot, rest = column.partition(".")
    if not dot:
        return value[int(head)] if isinstance(value, list) and head.isdecimal() and int(head) < len(value) else _MISSING
    inner = _find(value, head)
    return _MISSING if inner is _MISSING else _find(inner, rest)
