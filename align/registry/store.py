"""The registry: a directory in which stages hand their results to each other, immutable and verified.

    registry.json                                the format's version
    artifacts/<name>/<version>/manifest.json     beside manifest.sha256 and files/; never changed once there
    aliases/<name>/<alias>.json                  small, replaced in one step, with history
    workspaces/<name>-<fingerprint>/             of stages at work; survive a kill
    staging/  quarantine/  verified/  locks/     publications in the making, damaged versions, hash cache, locks

One `os.rename` of a complete, durable directory both claims a version's number and publishes it: it fails if the
number was taken, and the next one is tried. Nothing depends on locks, which some network file systems grant to
everyone; they only save two runs from doing the same work.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock

from align.errors import AlignError, UsageError, VerificationError
from align.registry import aliases, files, references
from align.registry.inspection import (
    FILES,
    HashCache,
    Problem,
    hash_always,
    inspect,
    read_manifest,
    trust_sizes,
    write_manifest,
)
from align.registry.manifest import Artifact, FileRecord, InputRecord, Manifest, plain
from align.workspace import Workspace

FORMAT = 1


@dataclass(frozen=True)
class Lineage:
    """An artifact, or something from outside the registry, with all that it was made from."""

    reference: str
    digest: str
    artifact: Artifact | None = None
    """None if it comes from outside, or is not what it was when it was taken."""
    problem: str | None = None
    """Why the artifact cannot be shown: missing, changed or damaged."""
    inputs: dict[str, Lineage] = field(default_factory=dict)
    """By their place in the stage's configuration."""


class Registry:
    """A registry directory. It comes into being with the first thing that is put into it.

    Raises `UsageError` if the path is a file, or a registry of a newer format.
    """

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path).expanduser().absolute()
        existing = next(place for place in (self.root, *self.root.parents) if os.path.lexists(place))
        if not existing.is_dir():
            raise UsageError(
                f"the registry cannot be at {self.root}: {existing} is not a directory. "
                "Give another place with --registry, $ALIGN_REGISTRY or the recipe's `registry:`."
            )
        self._marker = self.root / "registry.json"
        try:
            written = json.loads(self._marker.read_text(encoding="utf-8"))["format"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f'{self._marker} cannot be read. It should say {{"format": {FORMAT}}}.') from error
        if written != FORMAT:
            raise UsageError(f"{self._marker} says format {written}; this align reads format {FORMAT}. Upgrade align.")

    def _prepared(self, *parts: str) -> Path:
        """A directory of the registry, made if need be, and the registry with it."""
        try:
            if not self._marker.exists():
                files.replace(self._marker, json.dumps({"format": FORMAT}) + "\n")
            files.make_directory(directory := self.root.joinpath(*parts))
        except OSError as error:
            raise UsageError(
                f"the registry {self.root} cannot be written: {error.strerror} ({error.filename}). "
                "Put this right, or give another place with --registry."
            ) from error
        return directory

    def _directory(self, name: str, version: str) -> Path:
        return self.root / "artifacts" / name / version

    # What is there

    def names(self) -> list[str]:
        """Every name that has a version."""
        listed = _listed(self.root / "artifacts")
        return [name for name in listed if references.NAME.fullmatch(name) and self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """`v1`, `v2`, … in the order of their numbers, sound or not. Empty for a name that nothing bears."""
        references.check_name(name)
        found = [entry for entry in _listed(self.root / "artifacts" / name) if references.VERSION.fullmatch(entry)]
        return sorted(found, key=references.number)

    def aliases(self, name: str) -> dict[str, str]:
        """Each alias of a name, and the version that it stands for. `latest`, which is computed, is not among them."""
        references.check_name(name)
        return aliases.read_all(self.root / "aliases" / name)

    def artifacts(self) -> list[Artifact]:
        """Every artifact with a sound manifest. `verify(full=False)` says what is wrong with the others."""
        found = (self._read(name, version) for name, version in self._located())
        return [artifact for artifact in found if isinstance(artifact, Artifact)]

    def _located(self) -> list[tuple[str, str]]:
        return [(name, version) for name in self.names() for version in self.versions(name)]

    def _read(self, name: str, version: str) -> Artifact | Problem:
        manifest = read_manifest(directory := self._directory(name, version), name, version)
        return manifest if isinstance(manifest, Problem) else Artifact(name, version, directory / FILES, manifest)

    def resolve(self, reference: str) -> Artifact:
        """The artifact that `name`, `name@v3`, `name@latest` or `name@alias` refers to.

        Its manifest and the sizes of its files are verified; `check` also hashes. Raises `UsageError` if there is none,
        `VerificationError` if it is damaged.
        """
        name, version = self._locate(reference)
        manifest, problems = inspect(directory := self._directory(name, version), name, version, trust_sizes)
        if problems or manifest is None:
            raise VerificationError(f"{_described(problems)} Do not use {directory}.")
        return Artifact(name, version, directory / FILES, manifest)

    def _locate(self, reference: str) -> tuple[str, str]:
        """Name and version of a reference, looking at nothing of the version itself."""
        name, selector = references.parse(reference)
        if not (versions := self.versions(name)):
            names = self.names()
            hint = references.suggestion(name, names) if names else " It is empty: run a recipe first."
            raise UsageError(f"the registry {self.root} has no artifact named {name!r}.{hint}")
        if selector == references.LATEST:
            return name, versions[-1]
        alias = aliases.read(self.root / "aliases" / name / f"{selector}.json")
        version = alias.version if alias else selector
        if version not in versions:
            gone = f" (which stands for {version})" if alias else ""
            hint = references.suggestion(selector, [*self.aliases(name), references.LATEST, *reversed(versions)])
            raise UsageError(f"{name!r} in the registry {self.root} has no {selector!r}{gone}.{hint}")
        return name, version

    def find(self, name: str, fingerprint: str) -> Artifact | None:
        """The newest artifact that a stage of this fingerprint made, which spares running it again; `check` it first.

        Raises `VerificationError` for a damaged manifest found on the way, and quarantines that version.
        """
        for version in reversed(self.versions(name)):
            found = self._read(name, version)
            if isinstance(found, Problem):
                raise self._quarantine(name, version, [found])
            if found.manifest.fingerprint == fingerprint:
                return found
        return None

    def lineage(self, reference: str) -> Lineage:
        """What an artifact was made from, all the way down. Missing, changed and damaged parents are reported."""
        artifact = self.resolve(reference)
        return self._ancestry(artifact.reference, artifact.digest)

    def _ancestry(self, reference: str, digest: str) -> Lineage:
        name, _, version = reference.partition("@")
        if not references.NAME.fullmatch(name) or not references.VERSION.fullmatch(version):
            return Lineage(reference, digest)  # from outside: nothing to look up
        try:
            artifact = self.resolve(reference)
        except UsageError:
            return Lineage(reference, digest, problem="missing")
        except VerificationError as error:
            return Lineage(reference, digest, problem=str(error))
        if artifact.digest != digest:
            return Lineage(reference, digest, problem=f"changed: its digest is {artifact.digest} now")
        inputs = artifact.manifest.inputs.items()
        parents = {place: self._ancestry(taken.reference, taken.digest) for place, taken in inputs}
        return Lineage(reference, digest, artifact, inputs=parents)

    # Publishing

    def publish(
        self,
        source: str | Path,
        *,
        name: str,
        kind: str,
        fingerprint: str,
        inputs: Mapping[str, InputRecord],
        config: Mapping[str, Any],
        metrics: Mapping[str, Any],
        environment: Mapping[str, Any],
        contract: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> Artifact:
        """Make the files in `source` the next version of `name`.

        A source in a workspace of this registry is moved, any other is copied. If the same content with the same
        fingerprint stands there already, that artifact is returned and no version made, unless `force`.
        Raises `AlignError` for files that may not be published and for a file system that fails; then nothing of it is
        visible, and the source is as it was.
        """
        references.check_name(name)
        private, source = {self.root, Path(source)}, Path(source).resolve()
        if not source.is_dir():
            raise AlignError(f"nothing to publish as {name!r}: {source} is not a directory")
        if refused := files.refusals(source, private):
            raise AlignError(f"{source} cannot be published as {name!r}:\n  " + "\n  ".join(refused))
        moved = source.is_relative_to((self.root / "workspaces").resolve())
        staged = self._prepared("staging") / f"{name}-{uuid.uuid4().hex}"
        try:
            staged.mkdir()
            if not moved:
                files.copy(source, staged / FILES)
            draft = Manifest(
                name=name,
                version="v1",
                kind=kind,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                fingerprint=fingerprint,
                digest="",
                files=_recorded(source if moved else staged / FILES),
                inputs=dict(inputs),
                config=plain(config, "config"),
                metrics=plain(metrics, "metrics"),
                environment=plain(environment, "environment"),
                contract=plain(contract or {}, "contract"),
            )
            draft = draft.model_copy(update={"digest": draft.identity()})
            return self._claim(draft, staged, source if moved else None, force)
        except OSError as error:
            raise AlignError(
                f"could not publish {name!r} in the registry {self.root}: {error.strerror} "
                f"({error.filename or staged}). What was there is unchanged; put this right and run again."
            ) from error
        finally:
            if moved and (staged / FILES).exists() and not source.exists():
                files.chmod_files(staged / FILES, 0o644)
                (staged / FILES).rename(source)
            shutil.rmtree(staged, ignore_errors=True)

    def _claim(self, draft: Manifest, staged: Path, to_move: Path | None, force: bool) -> Artifact:
        """Complete the staged directory and rename it to the first free version."""
        # Versions are listed once. Whatever is published afterwards is met by the rename below, so that every version
        # lower than the one claimed was looked at for a twin: of equal publications one wins, without a lock.
        versions = self.versions(draft.name)
        for version in versions if not force else []:
            if twin := self._twin(draft, version):
                return twin
        taken = [references.number(version) for version in [*versions, *self._quarantined(draft.name)]]
        number = max(taken, default=0) + 1
        parent = self._prepared("artifacts", draft.name)
        write_manifest(staged, manifest := draft.model_copy(update={"version": f"v{number}"}))
        if to_move is not None:
            to_move.rename(staged / FILES)
        files.chmod_files(staged / FILES, 0o444)
        files.fsync_directories(staged)
        while not _renamed(staged, target := parent / manifest.version):
            if not force and (twin := self._twin(draft, manifest.version)):
                shutil.rmtree(staged)
                return twin
            number += 1
            write_manifest(staged, manifest := draft.model_copy(update={"version": f"v{number}"}))
        files.fsync(parent)
        return Artifact(draft.name, manifest.version, target / FILES, manifest)

    def _twin(self, draft: Manifest, version: str) -> Artifact | None:
        """The artifact of this version, if it has the content that is being published, down to the last byte."""
        found = self._read(draft.name, version)
        if isinstance(found, Problem) or found.digest != draft.digest:
            return None
        return None if inspect(found.path.parent, draft.name, version, hash_always)[1] else found

    # Trust

    def verify(self, reference: str | None = None, full: bool = True) -> list[Problem]:
        """Everything wrong with one artifact, or with all of them and their aliases. Only looks; changes nothing.

        `full` hashes every byte; without it, manifests and sizes are compared.
        """
        hash_of = hash_always if full else trust_sizes
        located = self._located() if reference is None else [self._locate(reference)]
        problems = [
            problem
            for name, version in located
            for problem in inspect(self._directory(name, version), name, version, hash_of)[1]
        ]
        if reference is None:
            problems += [problem for name in _listed(self.root / "aliases") for problem in self._alias_problems(name)]
            if located and not self._marker.exists():
                problems.append(Problem("registry", self._marker.name, "is missing"))
        return problems

    def _alias_problems(self, name: str) -> list[Problem]:
        try:
            found, versions = self.aliases(name), self.versions(name)
        except (UsageError, VerificationError) as error:
            return [Problem(name, f"aliases/{name}", str(error))]
        return [
            Problem(f"{name}@{alias}", f"aliases/{name}/{alias}.json", f"stands for {version}, which is not there")
            for alias, version in found.items()
            if version not in versions
        ]

    def check(self, artifact: Artifact) -> None:
        """To be called before an artifact is used: every byte is hashed, unless its file is the one hashed before.

        Raises `VerificationError` naming the files, and moves the version to quarantine, where nothing finds it.
        """
        cache = HashCache(self.root / "verified" / artifact.name / f"{artifact.version}.json")
        directory = self._directory(artifact.name, artifact.version)
        _, problems = inspect(directory, artifact.name, artifact.version, cache)
        if problems:
            raise self._quarantine(artifact.name, artifact.version, problems)
        cache.save()

    def _quarantine(self, name: str, version: str, problems: list[Problem]) -> VerificationError:
        """Move a damaged version aside, deleting nothing; the error that says so. Its number is not given again."""
        directory = self._directory(name, version)
        try:
            parent = self._prepared("quarantine", name)
            place = parent / f"{version}.{len(_listed(parent)) + 1}"
            with contextlib.suppress(FileNotFoundError):  # another run was quicker
                directory.rename(place)
            outcome = f"It was moved to {place}; run again to make it anew."
        except (OSError, UsageError) as error:
            outcome = f"It could not be moved to quarantine ({error}); do not use {directory}."
        return VerificationError(f"{_described(problems)} {outcome}")

    def _quarantined(self, name: str) -> list[str]:
        found = {entry.partition(".")[0] for entry in _listed(self.root / "quarantine" / name)}
        return [version for version in found if references.VERSION.fullmatch(version)]

    def tag(self, reference: str, alias: str) -> Artifact:
        """Let `name@alias` stand for this artifact from now on. What it stood for before is kept as its history."""
        references.check_alias(alias)
        artifact = self.resolve(reference)
        directory = self._prepared("aliases", artifact.name)
        with FileLock(self._prepared("locks") / f"aliases-of-{artifact.name}"):  # so that no entry of history is lost
            aliases.point(directory / f"{alias}.json", artifact.version)
        return artifact

    # Work in progress

    def workspace(self, name: str, fingerprint: str) -> Workspace:
        """Where the stage of this fingerprint works: the same place every time, `output/` and `checkpoints/` made."""
        workspace = Workspace(self._workspace_path(name, fingerprint))
        for directory in (workspace.output, workspace.checkpoints):
            self._prepared(str(directory.relative_to(self.root)))
        return workspace

    def find_workspace(self, name: str, fingerprint: str) -> Workspace | None:
        """The workspace of this fingerprint if it has checkpoints to resume from. Makes nothing."""
        workspace = Workspace(self._workspace_path(name, fingerprint))
        return workspace if _listed(workspace.checkpoints) else None

    def _workspace_path(self, name: str, fingerprint: str) -> Path:
        references.check_name(name)
        if not references.FINGERPRINT.fullmatch(fingerprint):
            raise ValueError(f"a fingerprint is 16 to 64 hexadecimal digits, not {fingerprint!r}")
        return self.root / "workspaces" / f"{name}-{fingerprint[:16]}"

    def discard(self, workspace: Workspace) -> None:
        """Remove what a finished stage leaves in its workspace, all but its record of events."""
        for path in workspace.path.iterdir() if workspace.path.exists() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != workspace.events:
                path.unlink()

    def lock(self, name: str, fingerprint: str) -> BaseFileLock:
        """To be held (`with registry.lock(…):`) while a stage runs: a second run waits, then finds the artifact."""
        path = self._workspace_path(name, fingerprint)
        return FileLock(self._prepared("locks") / path.name)


def _listed(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _recorded(root: Path) -> list[FileRecord]:
    """Every file below `root`, hashed, and safe on the disk."""
    records = []
    for path, status in files.entries(root):
        records.append(FileRecord(path=path, size=status.st_size, sha256=files.sha256(root / path)))
        files.fsync(root / path)
    return records


def _renamed(directory: Path, target: Path) -> bool:
    """Whether the directory now is `target`; False if that exists."""
    try:
        directory.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    return True


def _described(problems: list[Problem]) -> str:
    return f"damaged artifact: {'; '.join(map(str, problems))}."
