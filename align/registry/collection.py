"""Garbage: versions that nobody named, pinned, uses or has made anything from that is kept.

What a run at work needs it says itself (`in_use`); what a stopped one is to go on with, its workspaces say. Workspaces
are garbage once what was made in them is published, or nobody came back to them for long.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from align.errors import VerificationError
from align.registry import files, references
from align.registry.inspection import Problem
from align.registry.manifest import Artifact
from align.workspace import Workspace

if TYPE_CHECKING:
    from align.registry.store import Registry

DAY = 86_400.0
"""Seconds. A run whose lock a file system grants to everyone counts as at work for as long."""


@dataclass(frozen=True)
class Garbage:
    """What may go, and why the rest may not."""

    artifacts: list[Artifact]
    """Each before those that it was made from, so that no lineage is ever broken."""
    leftovers: list[Path]
    """Publications and runs that were killed, and workspaces that nothing will go on with."""
    kept: dict[str, str]
    """`name@version` -> the first reason to keep it."""
    size: int
    """In bytes."""


@contextlib.contextmanager
def in_use(registry: Registry, artifacts: Iterable[Artifact]) -> Iterator[Callable[[Artifact], None]]:
    """While this lasts, these artifacts are kept, and all that they were made from. Gives what adds another one."""
    record = registry.prepared("running") / f"{uuid.uuid4().hex}.json"
    registry.prepared("locks")
    path = _lock(registry, record)
    used: dict[str, str] = {}

    def keep(*artifacts: Artifact) -> None:
        used.update({artifact.reference: artifact.digest for artifact in artifacts})
        files.replace(record, json.dumps(used))

    with contextlib.ExitStack() as held:
        with registry.writing("no run can be started"):
            held.enter_context(FileLock(path))
            keep(*artifacts)
        try:
            yield keep
        finally:
            for mine in (record, path):
                mine.unlink(missing_ok=True)


def find(registry: Registry, age: float = 0.0) -> Garbage:
    """What nothing needs, published more than `age` seconds ago by the file system's clock. Removes nothing.

    Raises `VerificationError` while a manifest is damaged: what that artifact was made from is not known then.
    """
    artifacts = {artifact.reference: artifact for artifact in _sound(registry)}
    now = files.now(registry.root) if registry.root.exists() else 0.0
    workspaces = [path for path in _workspaces(registry) if _is_left(registry, path, artifacts.values(), now, age)]
    claims, stale = _claims(registry, now, workspaces)
    newest = {artifact.name: reference for reference, artifact in artifacts.items()}
    claims = {reference: f"it is {name}@{references.LATEST}" for name, reference in newest.items()} | claims
    roots = {
        reference: why
        for reference, artifact in artifacts.items()
        if (why := claims.get(reference) or claims.get(artifact.digest) or _youth(artifact, now, age))
    }
    kept = _with_ancestors(artifacts, roots)
    garbage = {reference: artifact for reference, artifact in artifacts.items() if reference not in kept}
    killed = [path for path in _children(registry, "staging") if _last_change(path) < now - DAY]
    leftovers = [*killed, *stale, *workspaces]
    size = sum(map(_size, leftovers)) + sum(map(_artifact_size, garbage.values()))
    return Garbage(_descendants_first(garbage), leftovers, kept, size)


def collect(registry: Registry, age: float = 0.0) -> Garbage:
    """Remove what `find` finds, looking again whenever somebody names an artifact, or a run begins, meanwhile."""
    removed: list[Artifact] = []
    lock = FileLock(registry.prepared("locks") / "gc")
    with registry.writing("could not remove all garbage"), lock:
        leftovers = find(registry, age).leftovers
        size = sum(map(_size, leftovers))
        for path in leftovers:  # first: that its work is published shows only as long as that is there
            _clear_away(registry, path)
        while True:
            claims = _claims(registry, 0.0)[0]
            garbage = find(registry, age)
            for artifact in garbage.artifacts:
                is_latest = registry.versions(artifact.name)[-1] == artifact.version
                if is_latest or _claims(registry, 0.0)[0] != claims:
                    break
                _remove(registry, artifact)
                removed.append(artifact)
            else:
                return Garbage(removed, leftovers, garbage.kept, size + sum(map(_artifact_size, removed)))


def _clear_away(registry: Registry, path: Path) -> None:
    if path.parent.name == "workspaces":
        with contextlib.suppress(Timeout), FileLock(registry.root / "locks" / path.name, timeout=0):
            registry.discard(Workspace(path))
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
        _lock(registry, path).unlink(missing_ok=True)


def _sound(registry: Registry) -> list[Artifact]:
    found = {
        registry.directory(name, version): registry.read(name, version)
        for name in registry.names()
        for version in registry.versions(name)
    }
    if damaged := [str(one) for place, one in found.items() if isinstance(one, Problem) and place.exists()]:
        raise VerificationError(
            f"{'; '.join(damaged)}. While it is there, no garbage is collected, because what it was made from is "
            "unknown. Move its directory away."
        )
    return [one for one in found.values() if isinstance(one, Artifact)]


def _children(registry: Registry, directory: str) -> list[Path]:
    return [registry.root / directory / name for name in files.listed(registry.root / directory)]


def _workspaces(registry: Registry) -> list[Path]:
    """All in which there is more than the record of what happened in it."""
    found = _children(registry, "workspaces")
    return [path for path in found if any(name != Workspace(path).events.name for name in files.listed(path))]


def _is_left(registry: Registry, path: Path, artifacts: Iterable[Artifact], now: float, age: float) -> bool:
    """Whether no run works here, and what was made here is published; or an age is given, and nobody came since. What
    does not say with what it was begun is not gone on with, and goes after a day."""
    begun = _json(Workspace(path).begun)
    published = (
        not begun.get("forced")
        and any(  # what is forced was published before
            path.name == f"{artifact.name}-{artifact.manifest.fingerprint[:16]}"
            and begun.get("inputs") == {place: taken.digest for place, taken in artifact.manifest.inputs.items()}
            for artifact in artifacts
        )
    )
    patience = DAY if not begun else max(age, DAY) if age else math.inf
    if not published and now - _last_change(path) < patience:
        return False
    try:
        with FileLock(registry.prepared("locks") / path.name, timeout=0):
            return True
    except Timeout:
        return False


def _last_change(path: Path) -> float:
    """Of a directory and all that is in it; never, if that is just being moved away."""
    try:
        return max([path.stat().st_mtime, *(status.st_mtime for _, status in files.entries(path))])
    except FileNotFoundError:
        return math.inf


def _size(path: Path) -> int:
    """Of all that is in a directory."""
    try:
        return sum(status.st_size for _, status in files.entries(path)) if path.is_dir() else 0
    except FileNotFoundError:
        return 0


def _artifact_size(artifact: Artifact) -> int:
    return sum(record.size for record in artifact.manifest.files)


def _claims(registry: Registry, now: float, left: Collection[Path] = ()) -> tuple[dict[str, str], list[Path]]:
    """`name@version`, or a digest -> why it is kept; and the records of runs that are no more. What was begun in a
    workspace that is `left` keeps nothing."""
    claims: dict[str, str] = {}
    for name in filter(references.NAME.fullmatch, files.listed(registry.root / "pins")):
        claims |= {f"{name}@{version}": "it is pinned" for version in registry.pins(name)}
    for name in filter(references.NAME.fullmatch, files.listed(registry.root / "aliases")):
        claims |= {f"{name}@{version}": f"it is {name}@{alias}" for alias, version in registry.aliases(name).items()}
    for begun in set(_workspaces(registry)) - set(left):
        taken = _json(Workspace(begun).begun).get("inputs", {})
        claims |= {str(digest): f"{begun.name} will resume with it" for digest in taken.values()}
    stale = []
    for record in (registry.root / "running").glob("*.json"):
        if _is_live(registry, record, now):
            claims |= {str(digest): "a run is using it" for digest in _json(record).values()}
        else:
            stale.append(record)
    return claims, stale


def _is_live(registry: Registry, record: Path, now: float) -> bool:
    try:
        with FileLock(_lock(registry, record), timeout=0):
            return now - record.stat().st_mtime < DAY
    except (Timeout, FileNotFoundError):
        return True


def _lock(registry: Registry, record: Path) -> Path:
    """What a run holds as long as its record counts."""
    return registry.root / "locks" / f"run-{record.stem}"


def _json(path: Path) -> dict[str, Any]:
    """The object in a file that others write; empty if it has gone meanwhile."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise VerificationError(f"{path} cannot be read, so what it needs is unknown: {error}") from error
    return content


def _youth(artifact: Artifact, now: float, age: float) -> str | None:
    return "it is new" if now - artifact.path.parent.stat().st_mtime < age else None


def _with_ancestors(artifacts: Mapping[str, Artifact], roots: Mapping[str, str]) -> dict[str, str]:
    """The roots and all that they were made from, each with its reason."""
    kept, todo = dict(roots), list(roots)
    while todo:
        child = todo.pop()
        for parent in _parents(artifacts[child], artifacts):
            if parent not in kept:
                kept[parent] = f"{child} was made from it"
                todo.append(parent)
    return kept


def _parents(artifact: Artifact, artifacts: Mapping[str, Artifact]) -> list[str]:
    """The references of its inputs that stand in the registry: by number, or else whatever has the same content."""
    parents = []
    for taken in artifact.manifest.inputs.values():
        named = artifacts.get(taken.reference)
        if named and named.digest == taken.digest:
            parents.append(taken.reference)
        else:
            parents += [reference for reference, one in artifacts.items() if one.digest == taken.digest]
    return parents


def _descendants_first(artifacts: Mapping[str, Artifact]) -> list[Artifact]:
    order: dict[str, Artifact] = {}

    def visit(reference: str) -> None:
        if reference not in order:
            for parent in _parents(artifacts[reference], artifacts):
                visit(parent)
            order[reference] = artifacts[reference]

    for reference in artifacts:
        visit(reference)
    return list(reversed(order.values()))


def _remove(registry: Registry, artifact: Artifact) -> None:
    """In one step out of sight, then for good."""
    directory = artifact.path.parent
    files.replace(registry.root / "removed" / artifact.name / f"{artifact.version}.{artifact.digest}", "")
    doomed = registry.prepared("staging") / f"removed-{uuid.uuid4().hex}"
    directory.rename(doomed)
    files.fsync(directory.parent)
    (registry.root / "verified" / artifact.name / f"{artifact.version}.json").unlink(missing_ok=True)
    shutil.rmtree(doomed)
