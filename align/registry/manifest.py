"""What is known of an artifact: where it came from, what it holds, and the digest that names its content."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import to_jsonable_python

from align.errors import AlignError
from align.registry.references import FINGERPRINT, NAME, VERSION


def _inside(path: str) -> str:
    if not path.isprintable() or "\\" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise ValueError("is not a plain relative path")
    return path


Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(_Record):
    """One published file, by its path below `files/`, and its size in bytes."""

    path: Annotated[str, AfterValidator(_inside)]
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class InputRecord(_Record):
    """What a stage took: `name@version`, or a reference to something outside the registry (`hub:…`, `path:…`)."""

    reference: Text
    digest: Text
    """The artifact's digest, or whatever pins the outside thing: a commit, a hash of its content."""


class Manifest(_Record):
    """`manifest.json`, field by field. Never rewritten once it is published."""

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    version: Annotated[str, Field(pattern=f"^{VERSION.pattern}$")]
    kind: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    created: Annotated[str, Field(pattern=r"^[\dT:.+-]{10,40}$")]
    """UTC, ISO 8601. For people: the order of versions is that of their numbers."""
    fingerprint: Annotated[str, Field(pattern=f"^{FINGERPRINT.pattern}$")]
    digest: str
    files: list[FileRecord]
    inputs: dict[str, InputRecord]
    """By their place in the stage's configuration: `model`, `models.0`."""
    config: dict[str, Any]
    metrics: dict[str, Any]
    environment: dict[str, Any]
    contract: dict[str, Any] = {}
    """What a later stage has to agree with: base of an adapter, tokenizer, chat template, labels, context, dtype."""

    def identity(self) -> str:
        """sha256 of the canonical JSON of what makes the artifact the one it is: the digest it should bear.

        An input counts by its digest, which chains the hashes of the whole lineage; under which number the same content
        was published does not matter. When, where and with which metrics it was made are no part of it.
        """
        content = {
            "name": self.name,
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "inputs": {place: taken.digest for place, taken in self.inputs.items()},
            "config": self.config,
            "files": {file.path: file.sha256 for file in self.files},
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Artifact:
    """One published version."""

    name: str
    version: str
    path: Path
    """The directory `files/`: loads with plain `from_pretrained`, or holds plain JSON."""
    manifest: Manifest

    @property
    def digest(self) -> str:
        """Names the content: equal digests, equal artifacts."""
        return self.manifest.digest

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


def plain(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same values as JSON has them: data classes and models as objects, tuples as lists.

    Raises `AlignError`, naming the key, for what JSON cannot hold: NaN, infinities, arbitrary objects.
    """
    try:
        result: dict[str, Any] = to_jsonable_python(dict(values))
    except ValueError as error:
        raise AlignError(f"{where} cannot be written as JSON: {error}") from error
    for key, value in _leaves(result, where):
        if isinstance(value, float) and not math.isfinite(value):
            raise AlignError(f"{key} is {value}: an artifact records finite numbers only, so it is not published")
    return result


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if children is None:
        yield where, value
    for key, item in children or ():
        yield from _leaves(item, f"{where}.{key}")
