"""An artifact and all that it was made from, in one file: for another registry, a colleague, a shelf.

    archive.json                                         {"format": 1, "artifacts": ["base@v1", "sft@v1"]}
    artifacts/<name>/<version>/manifest.json             each artifact after those it was made from, the one that was
    artifacts/<name>/<version>/manifest.sha256           asked for last, laid out as in a registry
    artifacts/<name>/<version>/files/...

A plain tar file, without compression, times or owners: the same artifact gives the same bytes. What is read is a small
part of tar: plain files whose headers bear names that the manifests list, each once. Everything else that tar knows
(links, devices, sparse files, extended headers) is refused before a byte is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from align.errors import AlignError, UsageError, VerificationError
from align.registry import files, lineage, publishing, references
from align.registry.inspection import CHECKSUM, FILES, MANIFEST, Problem, parse_manifest
from align.registry.manifest import Artifact, FileRecord, Manifest

if TYPE_CHECKING:
    from align.registry.store import Registry

FORMAT = 1
_INDEX = "archive.json"
_BLOCK, _PIECE = tarfile.BLOCKSIZE, 1 << 20
_LARGEST_TEXT = 64 << 20
"""Bytes of a manifest; the largest we have seen had some thousands."""

_Members = dict[str, tuple[int, int]]
"""By name: where a member's bytes begin, and how many there are."""


def export(registry: Registry, reference: str, path: Path) -> list[Artifact]:
    """Write an artifact with its lineage to `path`, in one step; what it holds, the artifact itself last.

    Raises `UsageError` if something else than an archive stands there, `VerificationError` if any of it is damaged or
    missing, `AlignError` if the file cannot be written.
    """
    _refuse_what_is_no_archive(path)
    artifacts = lineage.complete(registry, reference)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    index = json.dumps({"format": FORMAT, "artifacts": [artifact.reference for artifact in artifacts]}) + "\n"
    try:
        with partial.open("xb") as file:
            file.write(_header(_INDEX, len(index)) + _padded(index.encode()))
            for artifact in artifacts:
                content = [MANIFEST, CHECKSUM, *(f"{FILES}/{record.path}" for record in artifact.manifest.files)]
                for name in content:
                    source = artifact.path.parent / name
                    file.write(_header(_place(artifact.name, artifact.version, name), source.stat().st_size))
                    with source.open("rb") as reader:
                        shutil.copyfileobj(reader, file, _PIECE)
                    file.write(bytes(-file.tell() % _BLOCK))
            file.write(bytes(2 * _BLOCK))
        files.fsync(partial)
        partial.replace(path)
    except OSError as error:
        raise AlignError(f"{reference} cannot be exported to {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return artifacts


def import_(registry: Registry, path: Path, name: str | None = None) -> list[Artifact]:
    """Take in an archive that `export` wrote; what stands in the registry now, the artifact itself last.

    Content that the registry has already is not added again. `name` is another one for the artifact, not for its
    ancestors; where it came from is then in its environment as `imported_as`.
    Raises `UsageError` for a file that is no archive, `VerificationError` for bytes that are not what their manifest
    says, `AlignError` for what may not be published. Nothing was added then.
    """
    if name is not None:
        references.check_name(name)
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        if not file.seekable():
            raise UsageError(f"{path} can be read only once: write it to a file, and import that")
        try:
            members = _members(file)
            manifests = _manifests(file, members)
        except (tarfile.HeaderError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(f"{path} is not an archive that `align registry export` wrote: {error}") from error

        def parcel(manifest: Manifest) -> publishing.Parcel:
            def content(record: FileRecord) -> Iterator[bytes]:
                return _pieces(file, *members[_place(manifest.name, manifest.version, f"{FILES}/{record.path}")])

            last = manifest is manifests[-1]
            return (_renamed(manifest, name) if name and last else manifest), content

        return publishing.receive(registry, map(parcel, manifests))


def _refuse_what_is_no_archive(path: Path) -> None:
    """An archive takes the place of what is there: only of an older one, or of an empty file."""
    there = os.path.lexists(path)
    if str(path) == "-" or (there and (path.is_symlink() or not path.is_file())):
        raise UsageError(f"{path} is not a regular file: give the path of a file to create")
    if there and not _begins_as_an_archive(path):
        raise UsageError(f"{path} exists, and is not an archive of artifacts: give another name, or remove it")


def _begins_as_an_archive(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_INDEX)) in (b"", _INDEX.encode())
    except OSError:
        return False


def _place(name: str, version: str, file: str) -> str:
    return f"artifacts/{name}/{version}/{file}"


def _header(name: str, size: int) -> bytes:
    """Of one member, without anything that could differ from day to day."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, files.READ_ONLY
    try:
        header = info.tobuf(tarfile.USTAR_FORMAT if size < 8**11 else tarfile.GNU_FORMAT, "utf-8", "strict")
    except ValueError as error:
        raise AlignError(f"{name} cannot be archived: {error}") from error
    if len(header) != _BLOCK:
        raise AlignError(f"{name} cannot be archived: its name is too long for its size")
    return header


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % _BLOCK)


def _members(file: IO[bytes]) -> _Members:
    """Every member, by the headers alone. Raises `ValueError` for any that is not a plain file, or comes twice."""
    end = file.seek(0, 2)
    file.seek(0)
    found: _Members = {}
    while (block := file.read(_BLOCK)) != bytes(_BLOCK):
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        if info.type != tarfile.REGTYPE:
            raise ValueError(f"{info.name!r} is not a plain file")
        if info.name in found:
            raise ValueError(f"{info.name!r} appears twice")
        begin = file.tell()
        if not 0 <= info.size <= end - begin:
            raise ValueError(f"it ends within {info.name!r}")
        found[info.name] = begin, info.size
        file.seek(begin + info.size + -info.size % _BLOCK)
    if file.read(_BLOCK + 1) != bytes(_BLOCK):
        raise ValueError("it continues after its end, or stops before it")
    return found


def _manifests(file: IO[bytes], members: _Members) -> list[Manifest]:
    """Of all artifacts, in the order of the index. The members have to be theirs, and no others."""
    index = json.loads(_text(file, members, _INDEX))
    if index["format"] != FORMAT:
        raise ValueError(f"its format is {index['format']!r}, and this align reads {FORMAT}")
    found, expected = [], {_INDEX}
    for reference in index["artifacts"]:
        name, version = references.parse(reference)
        texts = [_place(name, version, part) for part in (MANIFEST, CHECKSUM)]
        content, checksum = (_text(file, members, text) for text in texts)
        manifest = parse_manifest(content, checksum, name, version)
        if isinstance(manifest, Problem):
            raise VerificationError(str(manifest))
        found.append(manifest)
        expected |= {*texts, *(_place(name, version, f"{FILES}/{record.path}") for record in manifest.files)}
    if not found:
        raise ValueError("it holds nothing")
    if unlike := sorted(expected ^ members.keys()):
        raise ValueError(f"{unlike[0]!r} is {'missing' if unlike[0] in expected else 'listed by no manifest'}")
    return found


def _text(file: IO[bytes], members: _Members, name: str) -> bytes:
    begin, size = members[name]
    if size > _LARGEST_TEXT:
        raise ValueError(f"{name!r} has {size} bytes")
    return b"".join(_pieces(file, begin, size))


def _pieces(file: IO[bytes], begin: int, size: int) -> Iterator[bytes]:
    file.seek(begin)
    while size and (piece := file.read(min(size, _PIECE))):
        size -= len(piece)
        yield piece


def _renamed(manifest: Manifest, name: str) -> Manifest:
    """The same content under another name, which is part of its identity."""
    origin = {"imported_as": {"reference": f"{manifest.name}@{manifest.version}", "digest": manifest.digest}}
    renamed = manifest.model_copy(update={"name": name, "environment": {**manifest.environment, **origin}})
    return renamed.model_copy(update={"digest": renamed.identity()})
