"""Rewards within rewards: what a spec is made of, as plain data. `Spec` in `loading.py` says what one looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Place = tuple[str | int, ...]
"""The keys that lead to a part of a spec: `("of", 0, "model")`."""


def walk(spec: object, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """The spec itself and all within it, each after what it is within, by its place.

    `of` is only looked into beside `combine`; elsewhere it is an option of somebody's own.
    """
    yield place, spec
    if isinstance(spec, Mapping):
        if "model" in spec:
            yield from walk(spec["model"], (*place, "model"))
        for index, member in enumerate(_members(spec)):
            yield from walk(member, (*place, "of", index))


def rebuilt(spec: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """The spec with `change` made to what it is directly made of."""
    result = dict(spec)
    if "model" in spec:
        result["model"] = change(spec["model"])
    if members := _members(spec):
        result["of"] = [change(member) for member in members]
    return result


def _members(spec: Mapping[str, Any]) -> list[Any]:
    of = spec.get("of") if "combine" in spec else None
    return of if isinstance(of, list) else []
