"""Files as the registry needs them: listed, hashed, refused, made durable, replaced in one step."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from align.errors import UsageError

PUBLISHABLE = {".safetensors", ".json", ".jsonl", ".csv", ".png", ".txt", ".jinja", ".md", ".model"}
"""Suffixes of the files that may be published: none of these formats runs code when it is loaded."""

READ_ONLY = 0o444
"""The mode of published files."""

SETTLED_NANOSECONDS = 2_000_000_000
"""The hash of a file changed more recently than this is not remembered: a second change could bear the same time."""

_BINARY = {".safetensors", ".png", ".model"}
_LONGEST_SAFETENSORS_HEADER = 100_000_000
"""In bytes; the format's own limit."""


def entries(root: Path | str, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `root` that is not a directory: its relative path with `/`, and its own status (of a link, not
    of its target). Sorted by name within each directory."""
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from entries(entry.path, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry.stat(follow_symlinks=False)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """`sha256`, from memory if this process has hashed the very file before."""
    known = tuple(same_file(status := path.stat()))
    if known in _hashes:
        return _hashes[known]
    digest = sha256(path)
    if settled(status):
        _hashes[known] = digest
    return digest


_hashes: dict[tuple[int, ...], str] = {}


def same_file(status: os.stat_result) -> list[int]:
    """What is equal as long as a file is the same, unchanged: device, inode, size, both times."""
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def settled(status: os.stat_result) -> bool:
    """Whether the file's last change is so long ago that another one would be seen by its time."""
    return time.time_ns() - max(status.st_ctime_ns, status.st_mtime_ns) > SETTLED_NANOSECONDS


def refusals(root: Path, private_paths: Iterable[Path]) -> list[str]:
    """Why the files below `root` may not be published, one line per file; empty when they may.

    `private_paths`: directories of this machine that no text file may mention.
    """
    private = _mention_of(private_paths)
    found = [
        f"{path}: {reason}" for path, status in entries(root) if (reason := _refusal(root / path, status, private))
    ]
    return found if any(True for _ in entries(root)) else ["it holds no file"]


def _refusal(path: Path, status: os.stat_result, private: re.Pattern[bytes]) -> str | None:
    suffix = path.suffix.lower()
    if not stat.S_ISREG(status.st_mode):
        return "is a link or a special file; only regular files are published"
    if not path.name.isprintable() or "\\" in path.name:
        return "its name holds a backslash or characters that cannot be printed"
    if suffix not in PUBLISHABLE:
        return f"{suffix or 'no suffix'} is not among what may be published ({' '.join(sorted(PUBLISHABLE))})"
    if suffix == ".safetensors":
        try:
            safetensors_header(path)
        except UsageError:
            return "is not a safetensors file, whatever its name says"
    if suffix not in _BINARY and (line := _line_of(private, path, status.st_size)):
        return f"line {line} contains a path from this machine: remove it"
    return None


def safetensors_header(path: Path) -> dict[str, dict[str, Any]]:
    """By a tensor's name: its `dtype`, `shape`, `data_offsets`. Reads no tensor.

    Raises:
        UsageError: it is not a safetensors file, or was cut short in its header.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        content = file.read(size) if size <= _LONGEST_SAFETENSORS_HEADER else b""
    try:
        if len(content) < size or not content.startswith(b"{"):
            raise ValueError("its header is missing")
        header: dict[str, dict[str, Any]] = json.loads(content)
        header.pop("__metadata__", None)
        if malformed := [name for name, tensor in header.items() if not {"dtype", "shape"} <= dict(tensor).keys()]:
            raise ValueError(f"its header does not describe {malformed[0]!r}")
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} is not a safetensors file, or was cut short ({error}); get it again") from error
    return header


def _mention_of(paths: Iterable[Path]) -> re.Pattern[bytes]:
    """A mention of one of the paths. A path of one component (`/data`) may stand in honest text, so only what the
    registry keeps below it counts."""
    spellings = {spelling for path in paths for spelling in (path.absolute(), path.resolve())}
    below = rb"/(artifacts|workspaces|staging)/"
    patterns = [
        re.escape(os.fsencode(path)) + (rb"(?![\w-])" if len(path.parts) > 2 else below) for path in sorted(spellings)
    ]
    return re.compile(b"|".join(patterns) or rb"(?!)")


def _line_of(pattern: re.Pattern[bytes], path: Path, size: int) -> int | None:
    if not size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        match = pattern.search(text)
        return text[: match.start()].count(b"\n") + 1 if match else None


def fsync(path: Path) -> None:
    """Make a file's bytes, or a directory's entries, survive the machine's end."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directories(root: Path) -> None:
    """`fsync` of `root` and every directory below it, the deepest first."""
    for directory, _, _ in os.walk(root, topdown=False):
        fsync(Path(directory))


def chmod_files(root: Path, mode: int) -> None:
    """Give every file below `root` this mode. Directories stay writable: one that is not cannot be renamed."""
    for path, _ in entries(root):
        (root / path).chmod(mode)


def copy(source: Path, destination: Path) -> None:
    """Copy a directory of regular files; links stay links, so that they are still seen as such.

    A file that is read-only, as published ones are, is not copied but linked to, where the file system can.
    """
    destination.mkdir()
    for path, status in entries(source):
        (destination / path).parent.mkdir(parents=True, exist_ok=True)
        if stat.S_IMODE(status.st_mode) == READ_ONLY:
            with contextlib.suppress(OSError):
                os.link(source / path, destination / path, follow_symlinks=False)
                continue
        shutil.copyfile(source / path, destination / path, follow_symlinks=False)


def listed(directory: Path) -> list[str]:
    """The sorted names in a directory; none if there is no such directory."""
    try:
        return sorted(entry.name for entry in os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def now(directory: Path) -> float:
    """The time by the clock of the directory's file system, in seconds since 1970."""
    with tempfile.TemporaryFile(dir=directory) as file:
        return os.fstat(file.fileno()).st_mtime


def make_directory(path: Path) -> None:
    """Create a directory and what is missing above it, durably. One that exists is fine."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        fsync(path.parent)


def replace(path: Path, content: str) -> None:
    """Write a file in one step: a reader sees the old content or the new one, also after a crash."""
    make_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(content, encoding="utf-8")
        fsync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync(path.parent)
