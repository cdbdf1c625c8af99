"""What differs between two artifacts, by what may have caused it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from align.registry.manifest import Artifact

Difference = tuple[Any, Any]
"""The two values; None where one has no such key."""

PARTS = ("config", "inputs", "data", "metrics", "environment", "files")


def differences(one: Artifact, other: Artifact) -> dict[str, dict[str, Difference]]:
    """For each of `PARTS` the dotted keys whose values differ. Files are compared by their hashes."""
    values, others = _parts(one), _parts(other)
    return {
        part: {
            key: (values[part].get(key), others[part].get(key))
            for key in values[part] | others[part]
            if values[part].get(key) != others[part].get(key)
        }
        for part in PARTS
    }


def _parts(artifact: Artifact) -> dict[str, dict[str, Any]]:
    manifest = artifact.manifest
    environment = dict(manifest.environment)
    parts = {
        "data": environment.pop("data", {}),
        "config": manifest.config,
        "metrics": manifest.metrics,
        "environment": environment,
        "inputs": {place: taken.model_dump() for place, taken in manifest.inputs.items()},
    }
    flat = {part: dict(_flat(values)) for part, values in parts.items()}
    return flat | {"files": {file.path: file.sha256 for file in manifest.files}}


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None or not value:
        yield key, value
        return
    for name, item in items:
        yield from _flat(item, f"{key}.{name}" if key else str(name))
