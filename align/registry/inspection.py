"""Is an artifact what its manifest says? Every way to look at one goes through `inspect`."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from align.registry import files
from align.registry.manifest import FileRecord, Manifest

MANIFEST, CHECKSUM, FILES = "manifest.json", "manifest.sha256", "files"

HashOf = Callable[[FileRecord, Path, os.stat_result], str]
"""Of a file that is recorded, below this directory, with this status: its hash."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a registry."""

    reference: str
    """`name@version`, or `name@alias`."""
    file: str
    """Relative to the version's directory."""
    message: str

    def __str__(self) -> str:
        return f"{self.reference}: {self.file} {self.message}"


class Unreadable(Problem):
    """A read that failed, perhaps for a reason that passes: what could not be read is not known to be damaged."""


_DAMAGE = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP)
"""What a read fails with where something else took the place of a file."""


def _unread(reference: str, place: str, error: OSError) -> Problem:
    kind = Problem if error.errno in _DAMAGE else Unreadable
    return kind(reference, place, f"cannot be read: {error.strerror or error}")


def hash_always(record: FileRecord, root: Path, status: os.stat_result) -> str:
    """The hash of the file as it is now."""
    return files.sha256(root / record.path)


def trust_sizes(record: FileRecord, root: Path, status: os.stat_result) -> str:
    """No hashing: the file counts as unchanged if its size is right."""
    return record.sha256


class HashCache:
    """Hashes once taken, believed as long as the file is the same one: device, inode, size, both times.

    Used as a `HashOf`; `save` afterwards. Only a saving: lost, stale or unwritable, the files are hashed again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, list[int | str]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            self._known = dict(json.loads(path.read_text(encoding="utf-8")))
        self._loaded = dict(self._known)

    def __call__(self, record: FileRecord, root: Path, status: os.stat_result) -> str:
        """The file's hash, from memory if nothing about the file changed."""
        path = root / record.path
        known = self._known.get(record.path)
        if known == [*files.same_file(status), record.sha256]:
            return record.sha256
        digest = files.sha256(path)
        if files.settled(status) and files.same_file(path.lstat()) == files.same_file(status):
            self._known[record.path] = [*files.same_file(status), digest]
        return digest

    def save(self) -> None:
        """Keep what was learnt."""
        if self._known != self._loaded:
            with contextlib.suppress(OSError):
                files.replace(self.path, json.dumps(self._known))


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json` and, as `sha256sum -c` reads it, the checksum of the whole of it."""
    text = manifest.to_json()
    for name, content in ((MANIFEST, text), (CHECKSUM, _checksum(text.encode()).decode())):
        files.replace(directory / name, content)
        (directory / name).chmod(files.READ_ONLY)


def read_manifest(directory: Path, name: str, version: str) -> Manifest | Problem:
    """The manifest of a version's directory, or what is wrong with it. Looks at none of the version's files."""
    try:
        content, checksum = (directory / MANIFEST).read_bytes(), (directory / CHECKSUM).read_bytes()
    except FileNotFoundError as error:
        return Problem(f"{name}@{version}", Path(error.filename).name, "is missing")
    except OSError as error:
        return _unread(f"{name}@{version}", Path(error.filename or MANIFEST).name, error)
    return parse_manifest(content, checksum, name, version)


def parse_manifest(content: bytes, checksum: bytes, name: str, version: str) -> Manifest | Problem:
    """The manifest of `name@version`, or what is wrong with it, from the bytes of both its files."""
    reference = f"{name}@{version}"
    if checksum != _checksum(content):
        return Problem(reference, MANIFEST, f"was changed: its checksum is not the one in {CHECKSUM}")
    try:
        manifest = Manifest.model_validate_json(content)
        identity = manifest.identity()
    except (ValidationError, ValueError, RecursionError) as error:
        return Problem(reference, MANIFEST, f"is not a manifest: {error}")
    if (manifest.name, manifest.version) != (name, version):
        return Problem(reference, MANIFEST, f"belongs to {manifest.name}@{manifest.version}: the directory was moved")
    if manifest.digest != identity:
        return Problem(reference, MANIFEST, "was changed: its digest is not that of its content")
    return manifest


def _checksum(content: bytes) -> bytes:
    return f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n".encode()


def inspect(directory: Path, name: str, version: str, hash_of: HashOf) -> tuple[Manifest | None, list[Problem]]:
    """The manifest, if it is sound, and all that is wrong: with it, with any file, missing and added ones included."""
    manifest = read_manifest(directory, name, version)
    if isinstance(manifest, Problem):
        return None, [manifest]
    reference = f"{name}@{version}"
    try:
        found, root = dict(files.entries(directory)), directory / FILES
    except OSError as error:
        return manifest, [_unread(reference, str(error.filename or directory), error)]
    problems: list[Problem] = []
    for record in manifest.files:
        place = f"{FILES}/{record.path}"
        status = found.pop(place, None)
        if status is None:
            problems.append(Problem(reference, place, "is missing"))
        elif not stat.S_ISREG(status.st_mode):
            problems.append(Problem(reference, place, "is a link or a special file"))
        elif status.st_size != record.size:
            problems.append(Problem(reference, place, f"has {status.st_size} bytes, not {record.size}"))
        else:
            try:
                if hash_of(record, root, status) != record.sha256:
                    problems.append(Problem(reference, place, "was changed: its sha256 is not the one published"))
            except OSError as error:
                problems.append(_unread(reference, place, error))
    strangers = sorted(set(found) - {MANIFEST, CHECKSUM})
    problems += [Problem(reference, place, "was added after publishing") for place in strangers]
    return manifest, problems
