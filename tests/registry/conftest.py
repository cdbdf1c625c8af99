"""A small registry, and one way to publish into it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align.registry import Artifact, Registry

FINGERPRINT = "f" * 64


def safetensors(payload: bytes = b"\0" * 64) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(payload)], "data_offsets": [0, len(payload)]}}).encode()
    return len(header).to_bytes(8, "little") + header + payload


@pytest.fixture(autouse=True)
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inode numbers of what was made durable, in order. Nothing is: only the machine's end could tell."""
    inodes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: inodes.append(os.fstat(descriptor).st_ino))
    return inodes


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What a stage may write: weights, a nested adapter, text."""
    directory = tmp_path / "source"
    (directory / "adapter").mkdir(parents=True)
    (directory / "config.json").write_text('{"model_type": "llama"}\n')
    (directory / "model.safetensors").write_bytes(safetensors())
    (directory / "adapter" / "adapter_model.safetensors").write_bytes(safetensors(b"\1" * 32))
    (directory / "merges.txt").write_text("")
    return directory


Publish = Callable[..., Artifact]


@pytest.fixture
def publish(registry: Registry, source: Path) -> Publish:
    """Publishes `source` as `sft`; every argument can be given differently."""

    def publish(directory: Path = source, **changes: Any) -> Artifact:
        arguments: dict[str, Any] = {
            "name": "sft",
            "kind": "sft",
            "fingerprint": FINGERPRINT,
            "inputs": {},
            "config": {"train": {"learning_rate": 1e-3}},
            "metrics": {"loss": 1.5},
            "environment": {"python": "3"},
        }
        return registry.publish(directory, **(arguments | changes))

    return publish
