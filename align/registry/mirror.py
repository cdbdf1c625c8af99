"""A registry's artifacts somewhere else: a directory, an object store, whatever fsspec knows.

    mirror.json                                  the format's version
    versions/<name>/<version>/manifest.json      beside manifest.sha256; written last, so that what it tells of is there
    content/<digest>/...                         the files of all artifacts with this digest

Content lies under its own hash, so that two who push at once cannot mix anything up, and needs no lock. What comes back
is hashed before it is believed. Aliases and pins are a registry's own, and are not mirrored.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from align.errors import AlignError, UsageError, VerificationError
from align.registry import lineage, publishing, references
from align.registry.inspection import CHECKSUM, MANIFEST, Problem, parse_manifest
from align.registry.manifest import Artifact, FileRecord, Manifest

if TYPE_CHECKING:
    from align.registry.store import Registry

FORMAT = 1
_PIECE = 1 << 20


class Mirror:
    """What is at `url`: `file:///backup`, `s3://bucket/folder`, `memory://x`, or a directory's path.

    Raises `UsageError` if fsspec knows no such place, or it holds a mirror of another format.
    """

    def __init__(self, url: str) -> None:
        self.url = _without_password(url)
        self._fs, self._root = _opened(url)
        marker = self._read("mirror.json")
        if marker is not None and _format(marker) != FORMAT:
            raise UsageError(
                f"{self.url} holds a mirror of a format other than {FORMAT}. Use the version of align that wrote it."
            )
        self._is_new = marker is None

    def push(self, registry: Registry, reference: str) -> dict[str, bool]:
        """Copy an artifact and its lineage there: each one's `name@version`, and whether it was not there yet.

        Raises `UsageError` if another artifact has one of their numbers there, `VerificationError` if one is damaged.
        """
        artifacts = lineage.complete(registry, reference)
        self._fs.invalidate_cache()
        there = {artifact.reference: self._standing(artifact) for artifact in artifacts}
        with self._reached():
            if self._is_new:
                self._write("mirror.json", json.dumps({"format": FORMAT}).encode() + b"\n")
            for artifact in artifacts:
                if not there[artifact.reference]:
                    self._push(artifact)
        return {reference: not standing for reference, standing in there.items()}

    def _standing(self, artifact: Artifact) -> bool:
        """Whether this very artifact is there, and all its files have their sizes. Otherwise it is written again."""
        found = self._manifest(artifact.name, artifact.version)
        if isinstance(found, Manifest) and found.digest != artifact.digest:
            raise UsageError(
                f"{self.url} has another {artifact.reference} (digest {found.digest[:12]}, not "
                f"{artifact.digest[:12]}): it mirrors another registry. Push to a place of its own."
            )
        if not isinstance(found, Manifest):
            return False
        return all(self._size(self._content(found.digest, record)) == record.size for record in found.files)

    def _size(self, place: str) -> int | None:
        with self._reached():
            try:
                size: int | None = self._fs.info(place)["size"]
            except (FileNotFoundError, NotADirectoryError):
                return None
        return size

    def _push(self, artifact: Artifact) -> None:
        for record in artifact.manifest.files:
            place = self._content(artifact.digest, record)
            with (artifact.path / record.path).open("rb") as source, self._fs.open(place, "wb") as target:
                shutil.copyfileobj(source, target, _PIECE)
        for name in (CHECKSUM, MANIFEST):
            self._write(_version(artifact.name, artifact.version, name), (artifact.path.parent / name).read_bytes())

    def pull(self, registry: Registry, reference: str) -> Artifact:
        """Take an artifact (`name`, `name@latest`, `name@v3`) and its lineage into a registry.

        Raises `UsageError` if it is not there, `VerificationError` if something is not as it was pushed.
        """
        name, selector = references.parse(reference)
        versions = self.versions(name)
        if not versions and self._read("mirror.json") is None:
            raise UsageError(f"there is no mirror at {self.url}")
        whole = (version for version in reversed(versions) if self._manifest(name, version))
        version = next(whole, "") if selector == references.LATEST else selector
        if version not in versions:
            hint = references.suggestion(version, versions)
            raise UsageError(f"{self.url} has no {reference} (aliases are not mirrored).{hint}")
        wanted = self._complete(name, version).values()
        return publishing.receive(registry, [(manifest, self._bytes_of(manifest)) for manifest in wanted])[-1]

    def versions(self, name: str) -> list[str]:
        """The versions of a name that are there, or that a push which was killed had begun to write."""
        place = f"{self._root}/versions/{name}"
        with self._reached():
            self._fs.invalidate_cache()
            listed = self._fs.ls(place, detail=False) if self._fs.exists(place) else []
        found = {str(path).rstrip("/").rpartition("/")[2] for path in listed}
        return sorted((entry for entry in found if references.VERSION.fullmatch(entry)), key=references.number)

    def _complete(
        self, name: str, version: str, digest: str = "", chain: Mapping[str, Manifest] = MappingProxyType({})
    ) -> dict[str, Manifest]:
        """By their digests, the manifests of an artifact and of what it was made from, each after its inputs.

        `chain`: those that are known already; each is read once, however many were made from it."""
        if digest in chain:
            return {**chain}
        found = self._manifest(name, version)
        if digest and not (isinstance(found, Manifest) and found.digest == digest):  # perhaps under another number
            others = (self._manifest(name, other) for other in reversed(self.versions(name)))
            found = next((one for one in others if isinstance(one, Manifest) and one.digest == digest), found)
        if not isinstance(found, Manifest):
            raise VerificationError(f"{self.url}: {found or f'{name}@{version} is missing'}")
        if digest and found.digest != digest:
            raise VerificationError(f"{self.url}: {name}@{version} is not the one that was taken: {found.digest}")
        for taken in found.inputs.values():
            parent, _, number = taken.reference.partition("@")
            if references.NAME.fullmatch(parent) and references.VERSION.fullmatch(number):
                chain = self._complete(parent, number, taken.digest, chain)
        return {**chain, found.digest: found}

    def _manifest(self, name: str, version: str) -> Manifest | Problem | None:
        content, checksum = (self._read(_version(name, version, part)) for part in (MANIFEST, CHECKSUM))
        return None if content is None else parse_manifest(content, checksum or b"", name, version)

    def _bytes_of(self, manifest: Manifest) -> Any:
        def content(record: FileRecord) -> Iterator[bytes]:
            with self._reached(), self._fs.open(self._content(manifest.digest, record), "rb") as file:
                while piece := file.read(_PIECE):
                    yield piece

        return content

    def _content(self, digest: str, record: FileRecord) -> str:
        return f"{self._root}/content/{digest}/{record.path}"

    def _read(self, place: str) -> bytes | None:
        with self._reached():
            try:
                content: bytes = self._fs.cat_file(f"{self._root}/{place}")
            except (FileNotFoundError, NotADirectoryError):
                return None
        return content

    def _write(self, place: str, content: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{place}", content)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except AlignError:
            raise
        except Exception as error:  # every store has its own: all mean that it could not be used
            raise AlignError(f"{self.url}: {_without_password(str(error)) or type(error).__name__}") from error


def _without_password(text: str) -> str:
    """Without what stands between `//` and `@` in an address."""
    return re.sub(r"(?<=//)[^/\s]*@", "", text)


def _version(name: str, version: str, part: str) -> str:
    return f"versions/{name}/{version}/{part}"


def _format(marker: bytes) -> Any:
    try:
        return json.loads(marker)["format"]
    except (ValueError, KeyError, TypeError):
        return None


def _opened(url: str) -> tuple[Any, str]:
    """The file system behind a URL, and the path in it. S3 needs no further package: pyarrow speaks it."""
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    if not url.strip():
        raise UsageError("a mirror's URL is empty: name a directory, or what fsspec knows")
    try:
        try:
            fs, root = fsspec.core.url_to_fs(url)
        except ImportError:
            if not url.startswith("s3://"):
                raise
            from fsspec.implementations.arrow import ArrowFSWrapper
            from pyarrow.fs import S3FileSystem

            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            fs, root = ArrowFSWrapper(S3FileSystem(endpoint_override=endpoint)), url.removeprefix("s3://")
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(_without_password(f"{url} cannot be opened: {error}")) from error
    if isinstance(fs, LocalFileSystem):
        fs.auto_mkdir = True
    return fs, root.rstrip("/")
