"""How an artifact comes to stand in a registry: staged, hashed, made durable, then claimed by one rename.

`publish` takes what a stage has written; `receive` takes artifacts that come with a manifest from elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from align.errors import AlignError, VerificationError
from align.registry import files, references
from align.registry.inspection import FILES, Problem, hash_always, inspect, write_manifest
from align.registry.manifest import Artifact, FileRecord, Manifest

if TYPE_CHECKING:
    from align.registry.store import Registry

Parcel = tuple[Manifest, Callable[[FileRecord], Iterable[bytes]]]
"""An artifact that arrives: its manifest, and what gives the bytes of one of its files, a piece at a time."""


def publish(registry: Registry, source: Path, draft: Manifest, force: bool) -> Artifact:
    """See `Registry.publish`; `draft` is the manifest without version, files and digest."""
    name, private, source = draft.name, {registry.root, source}, source.resolve()
    if not source.is_dir():
        raise AlignError(f"nothing to publish as {name!r}: {source} is not a directory")
    if refused := files.refusals(source, private):
        raise AlignError(f"{source} cannot be published as {name!r}:\n  " + "\n  ".join(refused))
    moved = source.is_relative_to((registry.root / "workspaces").resolve())
    with _staging(registry, f"could not publish {name!r}") as staged:
        try:
            if not moved:
                files.copy(source, staged / FILES)
            draft = draft.model_copy(update={"files": _recorded(source if moved else staged / FILES)})
            draft = draft.model_copy(update={"digest": draft.identity()})
            return _claim(registry, draft, staged, to_move=source if moved else None, force=force)
        finally:
            if moved and (staged / FILES).exists() and not source.exists():
                files.chmod_files(staged / FILES, 0o644)
                (staged / FILES).rename(source)


def receive(registry: Registry, parcels: Iterable[Parcel]) -> list[Artifact]:
    """Take in artifacts, each after those it was made from.

    None appears before all have arrived and were verified. They then appear one by one: a kill or a full disk may leave
    the first ones, which is a sound registry, and the same call takes in the rest.

    Content that stands here already is used as it is. A version keeps its number if that is free, and what was made
    from one that got another number refers to it by that.
    Raises `VerificationError` for bytes that are not what their manifest says, `AlignError` for files that may not be
    published.
    """
    artifacts: dict[str, Artifact] = {}
    order = []
    with _staging(registry, "could not store what arrived") as staging:
        arrived: list[tuple[Manifest, Path]] = []
        for manifest, content in parcels:
            order.append(manifest.digest)
            if twin := _standing(registry, manifest):
                artifacts[manifest.digest] = twin
                continue
            staged = staging / str(len(arrived))
            (staged / FILES).mkdir(parents=True)
            for record in manifest.files:
                _write(staged / FILES / record.path, record, content(record), f"{manifest.name}@{manifest.version}")
            if refused := files.refusals(staged / FILES, {registry.root}):
                raise AlignError(f"{manifest.name}@{manifest.version} is refused:\n  " + "\n  ".join(refused))
            arrived.append((manifest, staged))
        for manifest, staged in arrived:
            inputs = {
                place: taken.model_copy(update={"reference": artifacts[taken.digest].reference})
                if taken.digest in artifacts
                else taken
                for place, taken in manifest.inputs.items()
            }
            draft = manifest.model_copy(update={"inputs": inputs})
            artifacts[manifest.digest] = _claim(registry, draft, staged, wanted=references.number(manifest.version))
    return [artifacts[digest] for digest in order]


@contextmanager
def _staging(registry: Registry, failing: str) -> Iterator[Path]:
    """A new directory on the registry's file system, gone afterwards."""
    staged = registry.prepared("staging") / uuid.uuid4().hex
    with registry.writing(failing):
        try:
            staged.mkdir()
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _recorded(root: Path) -> list[FileRecord]:
    """Every file below `root`, hashed, and safe on the disk. The disk writes while the processor hashes."""
    with ThreadPoolExecutor(1) as disk:
        records, durable = [], []
        for path, status in files.entries(root):
            durable.append(disk.submit(files.fsync, root / path))
            records.append(FileRecord(path=path, size=status.st_size, sha256=files.sha256(root / path)))
        for written in durable:
            written.result()
    return records


def _write(path: Path, record: FileRecord, content: Iterable[bytes], reference: str) -> None:
    """Write a file that arrives, up to the size and with the hash that its manifest names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for piece in content:
            size += len(piece)
            if size > record.size:
                break
            file.write(piece)
            digest.update(piece)
    if size != record.size or digest.hexdigest() != record.sha256:
        raise VerificationError(f"{reference}: {FILES}/{record.path} arrived with other bytes than were published")
    files.fsync(path)


def _claim(
    registry: Registry,
    draft: Manifest,
    staged: Path,
    to_move: Path | None = None,
    force: bool = False,
    wanted: int | None = None,
) -> Artifact:
    """Complete the staged directory and rename it to `wanted` if that is free, else to the first version after all."""
    # Versions are listed before they are looked at for a twin. Whatever is published afterwards is met by the rename
    # below, so that every version lower than the one claimed was looked at: of equal publications one wins.
    versions = registry.versions(draft.name)
    if not force and (twin := _standing(registry, draft)):
        return twin
    others = [version for version, digest in registry.removed(draft.name).items() if digest != draft.digest]
    taken = {references.number(version) for version in [*versions, *registry.quarantined(draft.name), *others]}
    following = max(taken, default=0) + 1
    number = wanted if wanted and wanted not in taken else following
    parent = registry.prepared("artifacts", draft.name)
    write_manifest(staged, manifest := draft.model_copy(update={"version": f"v{number}"}))
    if to_move is not None:
        to_move.rename(staged / FILES)
    files.chmod_files(staged / FILES, files.READ_ONLY)
    files.fsync_directories(staged)
    while not _renamed(staged, target := parent / manifest.version):
        if not force and (twin := _twin(registry, draft, manifest.version)):
            shutil.rmtree(staged)
            return twin
        number = max(number + 1, following)
        write_manifest(staged, manifest := draft.model_copy(update={"version": f"v{number}"}))
    files.fsync(parent)
    return Artifact(draft.name, manifest.version, target / FILES, manifest)


def _standing(registry: Registry, draft: Manifest) -> Artifact | None:
    """The artifact with this content, if there is one."""
    return next((twin for version in registry.versions(draft.name) if (twin := _twin(registry, draft, version))), None)


def _twin(registry: Registry, draft: Manifest, version: str) -> Artifact | None:
    """The artifact of this version, if it has the content that is being published, down to the last byte."""
    found = registry.read(draft.name, version)
    if isinstance(found, Problem) or found.digest != draft.digest:
        return None
    return None if inspect(found.path.parent, draft.name, version, hash_always)[1] else found


def _renamed(directory: Path, target: Path) -> bool:
    """Whether the directory now is `target`; False if that exists."""
    try:
        directory.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    return True
