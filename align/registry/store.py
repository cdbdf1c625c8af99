"""The registry: a directory in which stages hand their results to each other, immutable and verified.

    registry.json                                the format's version
    artifacts/<name>/<version>/manifest.json     beside manifest.sha256 and files/; never changed once there
    aliases/<name>/<alias>.json                  small, replaced in one step, with history
    pins/<name>/<version>.json                   versions to be kept
    workspaces/<name>-<fingerprint>/             of stages at work; survive a kill
    running/<run>.json                           which artifacts a run at work may still take
    staging/  quarantine/  verified/  locks/     publications in the making, damaged versions, hash cache, locks
    removed/<name>/<version>.<digest>            of each version that `gc` removed, so that its number means no other

One `os.rename` of a complete, durable directory both claims a version's number and publishes it: it fails if the
number was taken, and the next one is tried. Nothing depends on locks, which some network file systems grant to
everyone; they only save two runs from doing the same work.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock

from align.errors import AlignError, UsageError, VerificationError
from align.registry import aliases, files, lineage, publishing, references
from align.registry.inspection import (
    FILES,
    HashCache,
    Problem,
    Unreadable,
    hash_always,
    inspect,
    read_manifest,
    trust_sizes,
)
from align.registry.lineage import Lineage
from align.registry.manifest import Artifact, InputRecord, Manifest, plain
from align.workspace import Workspace

FORMAT = 1


class Registry:
    """A registry directory. It comes into being with the first thing that is put into it.

    Raises `UsageError` if the path is a file, or a registry of another format.
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
            raise UsageError(
                f"{self._marker} says format {written}; this align reads format {FORMAT}. "
                "Use the version of align that wrote it."
            )

    @classmethod
    def at(cls, path: str | Path | None = None, otherwise: str | Path | None = None) -> Registry:
        """The registry at `path`, else at `$ALIGN_REGISTRY`, else at `otherwise`, else at `./registry`."""
        return cls(path or os.environ.get("ALIGN_REGISTRY") or otherwise or "registry")

    def prepared(self, *parts: str) -> Path:
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

    @contextlib.contextmanager
    def writing(self, failing: str) -> Iterator[None]:
        """Around what writes into the registry: a file system that fails is an `AlignError` that begins like this."""
        try:
            yield
        except OSError as error:
            place = f" ({error.filename})" if error.filename else ""
            raise AlignError(
                f"{failing} in the registry {self.root}: {error.strerror}{place}. "
                "What was there is unchanged; put this right and run again."
            ) from error

    def directory(self, name: str, version: str) -> Path:
        """Where this version stands, or would: `manifest.json` beside `files/`."""
        return self.root / "artifacts" / name / version

    # What is there

    def names(self) -> list[str]:
        """Every name that has a version."""
        listed = files.listed(self.root / "artifacts")
        return [name for name in listed if references.NAME.fullmatch(name) and self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """`v1`, `v2`, … in the order of their numbers, sound or not. Empty for a name that nothing bears."""
        references.check_name(name)
        found = [entry for entry in files.listed(self.root / "artifacts" / name) if references.VERSION.fullmatch(entry)]
        return sorted(found, key=references.number)

    def aliases(self, name: str) -> dict[str, str]:
        """Each alias of a name, and the version that it stands for. `latest`, which is computed, is not among them."""
        references.check_name(name)
        return aliases.read_all(self.root / "aliases" / name)

    def artifacts(self) -> list[Artifact]:
        """Every artifact with a sound manifest. `survey` says what is wrong with the others."""
        found = (self.read(name, version) for name, version in self._located())
        return [artifact for artifact in found if isinstance(artifact, Artifact)]

    def survey(self, full: bool = False) -> tuple[list[Artifact], list[Problem]]:
        """Every artifact with a sound manifest, and everything that is wrong in the registry; changes nothing.

        `full` hashes every byte; without it, manifests and sizes are compared.
        """
        artifacts, problems = [], []
        for name, version in self._located():
            directory = self.directory(name, version)
            manifest, wrong = inspect(directory, name, version, hash_always if full else trust_sizes)
            if wrong and not directory.exists():  # removed meanwhile
                continue
            problems += wrong
            if manifest:
                artifacts.append(Artifact(name, version, directory / FILES, manifest))
        if (artifacts or problems) and not self._marker.exists():
            problems.append(Problem("registry", self._marker.name, "is missing"))
        tagged = files.listed(self.root / "aliases")
        return artifacts, problems + [problem for name in tagged for problem in self._alias_problems(name)]

    def _located(self) -> list[tuple[str, str]]:
        return [(name, version) for name in self.names() for version in self.versions(name)]

    def read(self, name: str, version: str) -> Artifact | Problem:
        """The artifact as its manifest has it, none of its files looked at; or what is wrong with the manifest."""
        manifest = read_manifest(directory := self.directory(name, version), name, version)
        return manifest if isinstance(manifest, Problem) else Artifact(name, version, directory / FILES, manifest)

    def resolve(self, reference: str) -> Artifact:
        """The artifact that `name`, `name@v3`, `name@latest` or `name@alias` refers to.

        Its manifest and the sizes of its files are verified; `check` also hashes. Raises `UsageError` if there is none,
        `VerificationError` if it is damaged.
        """
        name, version = self._locate(reference)
        manifest, problems = inspect(directory := self.directory(name, version), name, version, trust_sizes)
        if problems and not directory.exists():  # removed since it was located
            return self.resolve(reference)
        if problems or manifest is None:
            raise VerificationError(f"{_described(problems)} Do not use {directory}.")
        return Artifact(name, version, directory / FILES, manifest)

    def with_digest(self, name: str, digest: str) -> Artifact | None:
        """The newest sound version of a name with this content."""
        for version in reversed(self.versions(name)):
            found = self.read(name, version)
            if isinstance(found, Artifact) and found.digest == digest and not self.verify(found.reference, full=False):
                return found
        return None

    def _locate(self, reference: str) -> tuple[str, str]:
        """Name and version of a reference, looking at nothing of the version itself."""
        name, selector = references.parse(reference)
        if not (versions := self.versions(name)):
            names = self.names()
            hint = references.suggestion(name, names) if names else " It is empty: run a recipe first."
            raise UsageError(
                f"the registry {self.root} has no artifact named {name!r}.{_set_aside(self, name) or hint}"
            )
        if selector == references.LATEST:
            return name, versions[-1]
        alias = aliases.read(self.root / "aliases" / name / f"{selector}.json")
        version = alias.version if alias else selector
        if version not in versions:
            gone = f" (which stands for {version})" if alias else ""
            if alias:
                hint = f" `align registry tag {name}@{versions[-1]} {selector}` lets it stand for another."
            else:
                hint = references.suggestion(selector, [*self.aliases(name), references.LATEST, *reversed(versions)])
            raise UsageError(
                f"{name!r} in the registry {self.root} has no {selector!r}{gone}.{_set_aside(self, name)}{hint}"
            )
        return name, version

    def find(self, name: str, fingerprint: str, *, quarantine: bool = False) -> Artifact | None:
        """The newest artifact that a stage of this fingerprint made, which spares running it again; `check` it first.

        `quarantine`: move a damaged manifest that is found on the way, and its version, aside, and raise
        `VerificationError`. Without it, such a version is passed by.
        """
        for version in reversed(self.versions(name)):
            found = self.read(name, version)
            if isinstance(found, Artifact):
                if found.manifest.fingerprint == fingerprint:
                    return found
            elif quarantine and self.directory(name, version).exists():
                raise self._quarantine(name, version, [found])
        return None

    def lineage(self, reference: str) -> Lineage:
        """What an artifact was made from, all the way down. Missing, changed and damaged parents are reported."""
        artifact = self.resolve(reference)
        return lineage.trace(self, artifact.reference, artifact.digest, {})

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

        A source in a workspace of this registry is moved. Any other is copied, read-only files (0444) of the same file
        system by hard links. If the same content with the same fingerprint stands there already, that artifact is
        returned and no version made, unless `force`.
        Raises `AlignError` for files that may not be published and for a file system that fails; then nothing of it is
        visible, and the source is as it was.
        """
        references.check_name(name)
        draft = Manifest(
            name=name,
            version="v1",
            kind=kind,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            fingerprint=fingerprint,
            digest="",
            files=[],
            inputs=dict(inputs),
            config=plain(config, "config"),
            metrics=plain(metrics, "metrics"),
            environment=plain(environment, "environment"),
            contract=plain(contract or {}, "contract"),
        )
        return publishing.publish(self, Path(source), draft, force)

    # Trust

    def verify(self, reference: str | None = None, full: bool = True) -> list[Problem]:
        """Everything wrong with one artifact, or with all of them and their aliases. Only looks; changes nothing.

        `full` hashes every byte; without it, manifests and sizes are compared.
        """
        if reference is None:
            return self.survey(full)[1]
        name, version = self._locate(reference)
        return inspect(self.directory(name, version), name, version, hash_always if full else trust_sizes)[1]

    def _alias_problems(self, name: str) -> list[Problem]:
        try:
            found, versions = self.aliases(name), self.versions(name)
        except (UsageError, VerificationError) as error:
            return [Problem(name, f"aliases/{name}", str(error))]
        return [
            Problem(f"{name}@{alias}", f"aliases/{name}/{alias}.json", _dangling(name, alias, version))
            for alias, version in found.items()
            if version not in versions
        ]

    def check(self, artifact: Artifact) -> None:
        """To be called before an artifact is used: every byte is hashed, unless its file is the one hashed before.

        Raises `VerificationError` naming the files, and moves the version to quarantine, where nothing finds it. What
        cannot be read stays where it is.
        """
        cache = HashCache(self.root / "verified" / artifact.name / f"{artifact.version}.json")
        directory = self.directory(artifact.name, artifact.version)
        manifest, problems = inspect(directory, artifact.name, artifact.version, cache)
        if manifest and manifest.digest != artifact.digest:
            raise VerificationError(
                f"{artifact.reference} is no longer the artifact that was looked up: its digest is "
                f"{manifest.digest[:12]}, and was {artifact.digest[:12]}. Look it up again."
            )
        if problems:
            raise self._quarantine(artifact.name, artifact.version, problems)
        cache.save()

    def _quarantine(self, name: str, version: str, problems: list[Problem]) -> VerificationError:
        """Move a damaged version aside, deleting nothing; the error that says so. Its number is not given again."""
        directory = self.directory(name, version)
        if any(isinstance(problem, Unreadable) for problem in problems):
            return VerificationError(f"{'; '.join(map(str, problems))}. Put this right, and run again.")
        try:
            parent = self.prepared("quarantine", name)
            place = parent / f"{version}.{len(files.listed(parent)) + 1}"
            directory.rename(place)
            outcome = f"It was moved to {place}; run again to make it anew."
        except FileNotFoundError:
            return VerificationError(
                f"{name}@{version} is not there any more: it was removed, or moved aside. Run again to make it anew."
            )
        except (OSError, UsageError) as error:
            outcome = f"It could not be moved to quarantine ({error}); do not use {directory}."
        return VerificationError(f"{_described(problems)} {outcome}")

    def quarantined(self, name: str) -> list[str]:
        """Versions that were found damaged and moved aside."""
        found = {entry.partition(".")[0] for entry in files.listed(self.root / "quarantine" / name)}
        return [version for version in found if references.VERSION.fullmatch(version)]

    def removed(self, name: str) -> dict[str, str]:
        """The versions that `gc` removed, each with the digest that it had. Their numbers are given to nothing else."""
        split = (entry.partition(".") for entry in files.listed(self.root / "removed" / name))
        return {version: digest for version, _, digest in split if references.VERSION.fullmatch(version)}

    # What people say of versions

    def tag(self, reference: str, alias: str) -> Artifact:
        """Let `name@alias` stand for this artifact from now on. What it stood for before is kept as its history."""
        references.check_alias(alias)
        artifact = self.resolve(reference)
        directory = self.prepared("aliases", artifact.name)
        lock = FileLock(self.prepared("locks") / f"aliases-of-{artifact.name}")
        with self.writing(f"could not tag {artifact.reference}"), lock:  # so that no entry of history is lost
            aliases.point(directory / f"{alias}.json", artifact.version)
        return artifact

    def pin(self, reference: str) -> Artifact:
        """Keep this version whatever `gc` finds, until `unpin`."""
        artifact = self.resolve(reference)
        path = self.prepared("pins", artifact.name) / f"{artifact.version}.json"
        with self.writing(f"could not pin {artifact.reference}"):
            files.replace(path, json.dumps({"since": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")
        return artifact

    def unpin(self, reference: str) -> str:
        """Let go of a pinned version; its `name@version`. Raises `UsageError` if it is not pinned."""
        name, version = self._locate(reference)
        if version not in self.pins(name):
            raise UsageError(f"{name}@{version} is not pinned.")
        with self.writing(f"could not unpin {name}@{version}"):
            (self.root / "pins" / name / f"{version}.json").unlink()
        return f"{name}@{version}"

    def pins(self, name: str) -> list[str]:
        """The pinned versions of a name."""
        return [entry.removesuffix(".json") for entry in files.listed(self.root / "pins" / name) if entry[0] != "."]

    # Work in progress

    def workspace(self, name: str, fingerprint: str) -> Workspace:
        """Where the stage of this fingerprint works: the same place every time, `output/` and `checkpoints/` made."""
        workspace = Workspace(self._workspace_path(name, fingerprint))
        for directory in (workspace.output, workspace.checkpoints):
            self.prepared(str(directory.relative_to(self.root)))
        return workspace

    def find_workspace(self, name: str, fingerprint: str) -> Workspace | None:
        """The workspace of this fingerprint if it has checkpoints to resume from. Makes nothing."""
        workspace = Workspace(self._workspace_path(name, fingerprint))
        return workspace if files.listed(workspace.checkpoints) else None

    def _workspace_path(self, name: str, fingerprint: str) -> Path:
        references.check_name(name)
        if not references.FINGERPRINT.fullmatch(fingerprint):
            raise ValueError(f"a fingerprint is 16 to 64 hexadecimal digits, not {fingerprint!r}")
        return self.root / "workspaces" / f"{name}-{fingerprint[:16]}"

    def discard(self, workspace: Workspace) -> None:
        """Remove what a finished stage leaves in its workspace, all but its record of events.

        With what it was begun goes first: if this is cut short, nothing that is left is gone on with.
        """
        workspace.begun.unlink(missing_ok=True)
        for path in workspace.path.iterdir() if workspace.path.exists() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != workspace.events:
                path.unlink()

    def lock(self, name: str, fingerprint: str) -> BaseFileLock:
        """To be held (`with registry.lock(…):`) while a stage runs: a second run waits, then finds the artifact."""
        path = self._workspace_path(name, fingerprint)
        return FileLock(self.prepared("locks") / path.name)


def _described(problems: list[Problem]) -> str:
    return f"damaged artifact: {'; '.join(map(str, problems))}."


def _set_aside(registry: Registry, name: str) -> str:
    """A sentence on the versions of a name that are in quarantine, for whoever misses one."""
    damaged = sorted(registry.quarantined(name), key=references.number)
    place = registry.root / "quarantine" / name
    return f" Damaged, and moved to {place}: {', '.join(damaged)}." if damaged else ""


def _dangling(name: str, alias: str, version: str) -> str:
    remedy = f"`align registry tag {name}@VERSION {alias}` lets it stand for another"
    return f"stands for {version}, which is not there; {remedy}"
