"""Publishing, resolving, aliases, lineage, workspaces."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path

import pytest
from filelock import Timeout

from align.errors import AlignError, UsageError, VerificationError
from align.registry import (
    Artifact,
    InputRecord,
    Registry,
    aliases,
    collection,
    files,
    lineage,
    mirror,
    publishing,
    store,
)
from align.workspace import Interval

FINGERPRINT = "f" * 64
OTHER = "e" * 64


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def as_input(artifact: Artifact) -> InputRecord:
    return InputRecord(reference=artifact.reference, digest=artifact.digest)


# Publishing and resolving


def test_round_trip(registry: Registry, source: Path, publish: Callable):
    written = contents(source)
    inputs = {"model": InputRecord(reference="hub:org/base@0123", digest="0123")}
    published = publish(metrics={"rouge": Interval(0.5, 0.4, 0.6, 9)}, inputs=inputs)
    resolved = registry.resolve("sft@v1")
    assert resolved == published
    assert resolved.reference == "sft@v1"
    assert resolved.path == registry.root / "artifacts/sft/v1/files"
    assert contents(resolved.path) == written == contents(source)
    manifest = json.loads((resolved.path.parent / "manifest.json").read_text())
    assert manifest["metrics"] == {"rouge": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}}
    assert manifest["inputs"] == {"model": {"reference": "hub:org/base@0123", "digest": "0123"}}
    assert manifest["digest"] == resolved.digest
    assert [file["path"] for file in manifest["files"]] == sorted(written)
    assert registry.verify() == []


def test_the_checksum_is_what_sha256sum_reads(publish: Callable):
    version = publish().path.parent
    assert subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=version, capture_output=True).returncode == 0


def test_published_files_are_read_only(publish: Callable):
    version = publish().path.parent
    modes = {stat.S_IMODE(path.stat().st_mode) for path in version.rglob("*") if path.is_file()}
    assert modes == {0o444}


@pytest.mark.parametrize("in_workspace", [False, True])
def test_everything_is_durable_before_it_is_visible(
    registry: Registry,
    source: Path,
    publish: Callable,
    synced: list[int],
    monkeypatch: pytest.MonkeyPatch,
    in_workspace: bool,
):
    if in_workspace:
        source = source.rename(registry.workspace("sft", FINGERPRINT).path / "finished")
    before: list[int] = []
    renamed = publishing._renamed

    def rename(directory: Path, target: Path) -> bool:
        before.extend(synced)
        return renamed(directory, target)

    monkeypatch.setattr(publishing, "_renamed", rename)
    version = publish(source).path.parent
    assert {path.stat().st_ino for path in [version, *version.rglob("*")]} <= set(before)
    assert version.parent.stat().st_ino == synced[-1]


def test_what_a_publication_was_made_from_can_change_without_changing_it(
    registry: Registry, source: Path, publish: Callable
):
    publish()
    (source / "config.json").write_text("{}")
    assert registry.verify() == []


def test_what_is_read_only_is_linked_to_and_not_copied(registry: Registry, publish: Callable, tmp_path: Path):
    first = publish()
    second = Registry(tmp_path / "second")
    manifest = first.manifest
    linked = second.publish(first.path, name="sft", kind="sft", fingerprint=FINGERPRINT, inputs={}, config=manifest.config, metrics={}, environment={})  # fmt: skip  # noqa: E501
    assert linked.digest == first.digest
    for record in manifest.files:
        assert (linked.path / record.path).samefile(first.path / record.path)
    assert registry.verify() == second.verify() == []


def test_a_workspace_is_moved_not_copied(registry: Registry, publish: Callable):
    workspace = registry.workspace("sft", FINGERPRINT)
    (workspace.output / "metrics.json").write_text("{}")
    inode = (workspace.output / "metrics.json").stat().st_ino
    published = publish(workspace.output)
    assert (published.path / "metrics.json").stat().st_ino == inode
    assert not workspace.output.exists()


def test_the_order_of_versions_is_numeric(registry: Registry, publish: Callable):
    for index in range(11):
        publish(config={"index": index})
    assert registry.versions("sft")[-2:] == ["v10", "v11"]
    assert registry.resolve("sft").version == registry.resolve("sft@latest").version == "v11"


@pytest.mark.parametrize("years", [-1, 1])
def test_a_clock_that_is_a_year_off_changes_no_order(
    registry: Registry, publish: Callable, monkeypatch: pytest.MonkeyPatch, years: int
):
    publish(config={"index": 0})
    registry.tag("sft", "best")
    now = time.time() + years * 365 * 86_400

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Clock:
            return cls.fromtimestamp(now, tz)

    for module in (store, aliases):
        monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "time_ns", lambda: int(now * 1e9))
    second = publish(config={"index": 1})
    os.utime(second.path.parent, (now, now))
    assert second.manifest.created[:4] == str(datetime.now().year + years)
    monkeypatch.undo()
    publish(config={"index": 2})
    assert registry.resolve("sft").version == "v3"
    assert registry.find("sft", FINGERPRINT) == registry.resolve("sft@v3")
    registry.tag("sft@v2", "best")
    assert registry.resolve("sft@best") == second
    registry.check(second)
    assert registry.verify() == []
    kept = collection.find(registry, collection.DAY).kept
    assert kept == {"sft@v1": "it is new", "sft@v2": "it is sft@best", "sft@v3": "it is sft@latest"}


def test_equal_content_is_published_once_unless_forced(registry: Registry, publish: Callable):
    first = publish()
    assert publish(environment={"python": "4"}) == first
    assert publish(fingerprint=OTHER).version == "v2"
    forced = publish(force=True)
    assert (forced.version, forced.digest) == ("v3", first.digest)
    assert list((registry.root / "staging").iterdir()) == []


def test_a_damaged_twin_does_not_take_the_place_of_sound_content(registry: Registry, publish: Callable):
    weights = publish().path / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    assert publish().version == "v2"


def test_find_prefers_the_newest_of_a_fingerprint(registry: Registry, publish: Callable):
    assert registry.find("sft", FINGERPRINT) is None
    publish()
    newest = publish(force=True)
    publish(fingerprint=OTHER)
    assert registry.find("sft", FINGERPRINT) == newest
    assert registry.find("sft", "d" * 64) is None


def test_refused_files_publish_nothing_and_stay_where_they_are(registry: Registry, publish: Callable):
    workspace = registry.workspace("sft", FINGERPRINT)
    (workspace.output / "training_args.bin").write_bytes(b"\x80\x04")
    (workspace.output / "config.json").write_text(f'"{workspace.path}"')
    with pytest.raises(AlignError, match=r"(?s)config.json: line 1 .*training_args.bin: .bin is not among"):
        publish(workspace.output)
    assert (workspace.output / "training_args.bin").exists()
    assert registry.artifacts() == []


@pytest.mark.parametrize("step", ["fsync_directories", "chmod_files"])
def test_a_failing_file_system_leaves_everything_as_it_was(
    registry: Registry, publish: Callable, monkeypatch: pytest.MonkeyPatch, step: str
):
    first = publish()
    workspace = registry.workspace("sft", FINGERPRINT)
    (workspace.output / "metrics.json").write_text("{}")

    working = getattr(files, step)

    def fail(*_: object) -> None:
        monkeypatch.setattr(files, step, working)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, step, fail)
    with pytest.raises(AlignError, match=r"could not publish 'sft'.*No space left on device"):
        publish(workspace.output, config={"new": True})
    assert registry.artifacts() == [first]
    assert list((registry.root / "staging").iterdir()) == []
    (workspace.output / "metrics.json").write_text("{}")
    assert publish(workspace.output, config={"new": True}).version == "v2"


def test_numbers_that_are_no_numbers_are_not_published(registry: Registry, publish: Callable):
    with pytest.raises(AlignError, match=r"metrics\.loss is nan"):
        publish(metrics={"loss": float("nan")})
    assert registry.artifacts() == []


# What people get wrong


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_registry_path_that_is_a_file(tmp_path: Path, below: str):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"the registry cannot be at .*file is not a directory\. Give another place"):
        Registry(tmp_path / "file" / below)


def test_a_newer_format_is_refused(registry: Registry, publish: Callable):
    publish()
    (registry.root / "registry.json").write_text('{"format": 2}')
    with pytest.raises(UsageError, match="says format 2; this align reads format 1"):
        Registry(registry.root)


@pytest.mark.parametrize("content", ["", "{}", "[]", "\x80"])
def test_a_damaged_format_is_refused(registry: Registry, publish: Callable, content: str):
    publish()
    (registry.root / "registry.json").write_text(content)
    with pytest.raises(UsageError, match=r"registry\.json cannot be read"):
        Registry(registry.root)


def test_looking_makes_nothing(registry: Registry):
    assert registry.artifacts() == registry.verify() == registry.names() == []
    assert registry.find("sft", FINGERPRINT) is registry.find_workspace("sft", FINGERPRINT) is None
    with pytest.raises(UsageError, match="It is empty: run a recipe first"):
        registry.resolve("sft")
    assert not registry.root.exists()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("stf", r"no artifact named 'stf'\. Did you mean 'sft'\? There is: sft\."),
        ("sft@v3", r"'sft' in .* has no 'v3'\. There is: best, latest, v1\."),
        ("sft@bets", r"has no 'bets'\. Did you mean 'best'\?"),
        ("../sft", "does not refer to an artifact"),
    ],
)
def test_references_to_nothing(registry: Registry, publish: Callable, reference: str, message: str):
    publish()
    registry.tag("sft", "best")
    with pytest.raises(UsageError, match=message):
        registry.resolve(reference)


@pytest.mark.parametrize("name", ["../sft", "Sft", "", ".sft", "a/b", "sft\n"])
def test_bad_names(registry: Registry, publish: Callable, name: str):
    for use in (
        lambda: publish(name=name),
        lambda: registry.workspace(name, FINGERPRINT),
        lambda: registry.versions(name),
    ):
        with pytest.raises(UsageError, match="cannot be named"):
            use()


def test_a_fingerprint_cannot_lead_elsewhere(registry: Registry):
    with pytest.raises(ValueError, match="hexadecimal"):
        registry.workspace("sft", "../../../elsewhere")


# Trust


def test_a_damaged_artifact_cannot_be_resolved_and_is_left_in_place(registry: Registry, publish: Callable):
    (publish().path / "config.json").unlink()
    with pytest.raises(VerificationError, match=r"sft@v1: files/config\.json is missing"):
        registry.resolve("sft")
    assert registry.versions("sft") == ["v1"]


def test_a_damaged_manifest_is_quarantined_when_it_is_met(registry: Registry, publish: Callable):
    (publish().path.parent / "manifest.json").unlink()
    with pytest.raises(VerificationError, match=r"moved to .*quarantine"):
        registry.find("sft", FINGERPRINT, quarantine=True)
    assert registry.find("sft", FINGERPRINT, quarantine=True) is None


def test_a_damaged_manifest_is_passed_by_when_one_only_looks(registry: Registry, publish: Callable):
    first = publish()
    damaged = publish(config={})
    (damaged.path.parent / "manifest.json").unlink()
    assert registry.find("sft", FINGERPRINT) == first
    assert registry.versions("sft") == ["v1", "v2"]


def test_what_is_removed_while_it_is_looked_for_is_not_damaged(
    registry: Registry, publish: Callable, monkeypatch: pytest.MonkeyPatch
):
    """As `gc` in another process does, once the versions were listed."""
    kept = publish(fingerprint=OTHER)
    publish()
    versions = registry.versions

    def then_remove(name: str) -> list[str]:
        listed = versions(name)
        if next(countdown, 1) == 0:
            collection._remove(registry, removed)
        return listed

    looks: list[tuple[Callable[[], object], int, object]] = [
        (lambda: registry.find("sft", FINGERPRINT, quarantine=True), 1, None),
        (lambda: registry.resolve("sft"), 1, kept),
        (registry.survey, 2, ([kept], [])),
        (lambda: collection._sound(registry), 2, [kept]),
    ]
    for look, count, expected in looks:
        removed, countdown = registry.resolve("sft"), reversed(range(count))
        with monkeypatch.context() as patch:
            patch.setattr(registry, "versions", then_remove)
            assert look() == expected
        removed = publish()
    collection._remove(registry, removed)
    with pytest.raises(VerificationError, match=rf"^{removed.reference} is not there any more: it was removed, or"):
        registry.check(removed)
    assert not (registry.root / "quarantine").exists() or registry.quarantined("sft") == []


def test_a_quarantined_number_is_not_given_again(registry: Registry, publish: Callable):
    publish()
    second = publish(config={})
    (second.path / "config.json").unlink()
    with pytest.raises(VerificationError):
        registry.check(second)
    assert publish(config={}).version == "v3"
    assert registry.versions("sft") == ["v1", "v3"]


# Aliases


def test_aliases_move_and_remember(registry: Registry, publish: Callable):
    first = publish()
    second = publish(config={})
    registry.tag("sft@v1", "best")
    assert registry.resolve("sft@best") == first
    registry.tag("sft@latest", "best")
    registry.tag("sft@best", "production")
    assert registry.resolve("sft@best") == registry.resolve("sft@production") == second
    assert registry.aliases("sft") == {"best": "v2", "production": "v2"}
    written = json.loads((registry.root / "aliases/sft/best.json").read_text())
    assert [entry["version"] for entry in written["history"]] == ["v1"]


def test_damaged_and_dangling_aliases_are_reported(registry: Registry, publish: Callable):
    version = publish().path.parent
    registry.tag("sft", "best")
    publish(config={})
    version.rename(registry.root / "gone")
    (problem,) = registry.verify()
    assert "sft@best: aliases/sft/best.json stands for v1, which is not there" in str(problem)
    assert "`align registry tag sft@VERSION best` lets it stand for another" in str(problem)
    with pytest.raises(UsageError, match=r"has no 'best' \(which stands for v1\)") as caught:
        registry.resolve("sft@best")
    assert "Did you mean" not in str(caught.value)
    assert "`align registry tag sft@v2 best` lets it stand for another" in str(caught.value)
    (registry.root / "aliases/sft/best.json").write_text("{")
    assert "is damaged" in registry.verify()[0].message
    with pytest.raises(VerificationError, match="set the alias again"):
        registry.resolve("sft@best")
    assert registry.resolve("sft@v2").version == "v2"


# Lineage


@pytest.fixture
def chain(registry: Registry, publish: Callable) -> list[Artifact]:
    """base, from outside; sft, from base; ppo, from sft and base."""
    outside = InputRecord(reference="hub:org/model@abc", digest="abc")
    base = publish(name="base", inputs={"model": outside})
    sft = publish(name="sft", inputs={"model": as_input(base)})
    return [base, sft, publish(name="ppo", inputs={"policy": as_input(sft), "reward": as_input(base)})]


def test_lineage_goes_down_to_what_comes_from_outside(registry: Registry, chain: list[Artifact]):
    base, sft, ppo = chain
    found = registry.lineage("ppo")
    assert found.artifact == ppo
    assert found.inputs["policy"].artifact == sft
    assert found.inputs["reward"].artifact == found.inputs["policy"].inputs["model"].artifact == base
    outside = found.inputs["reward"].inputs["model"]
    assert (outside.reference, outside.artifact, outside.problem) == ("hub:org/model@abc", None, None)


def test_lineage_reports_missing_damaged_and_changed_parents(
    registry: Registry, chain: list[Artifact], publish: Callable
):
    base, sft, _ = chain
    (sft.path / "config.json").unlink()
    base.path.parent.rename(registry.root / "gone")
    found = registry.lineage("ppo")
    assert "files/config.json is missing" in (found.inputs["policy"].problem or "")
    assert found.inputs["reward"].problem == "missing"
    assert publish(name="base", config={"other": True}).version == "v1"
    assert (registry.lineage("ppo").inputs["reward"].problem or "").startswith("changed: its digest is")


def test_each_artifact_of_a_lineage_is_looked_up_once(
    registry: Registry, publish: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Policy and reward are each made from both of the round before: 2^24 ways lead to the first."""
    pair: dict[str, InputRecord] = {}
    for number in range(25):
        config, inputs = {"round": number}, pair
        pair = {name: as_input(publish(name=name, inputs=inputs, config=config)) for name in ("policy", "reward")}
    looked_up: list[str] = []
    resolve, manifest = registry.resolve, mirror.Mirror._manifest
    monkeypatch.setattr(registry, "resolve", lambda reference: [looked_up.append(reference), resolve(reference)][1])
    assert len(registry.lineage("policy").walk()) == len(lineage.complete(registry, "policy")) == 49
    assert len(looked_up) == 2 * 50
    there, other = mirror.Mirror(str(tmp_path / "mirror")), Registry(tmp_path / "other")
    there.push(registry, "policy")
    monkeypatch.setattr(
        mirror.Mirror, "_manifest", lambda self, *place: [looked_up.append("there"), manifest(self, *place)][1]
    )
    assert there.pull(other, "policy@v25").digest == resolve("policy").digest
    assert looked_up.count("there") == 49


# Work in progress


def test_a_workspace_is_the_same_every_time_until_discarded(registry: Registry):
    workspace = registry.workspace("sft", FINGERPRINT)
    assert workspace.path.name == "sft-" + "f" * 16
    assert registry.find_workspace("sft", FINGERPRINT) is None
    (workspace.checkpoints / "checkpoint-1").mkdir()
    workspace.events.write_text("{}\n")
    (workspace.path / "wandb-run-id").write_text("x")
    assert registry.workspace("sft", FINGERPRINT) == registry.find_workspace("sft", FINGERPRINT) == workspace
    registry.discard(workspace)
    assert [path.name for path in workspace.path.iterdir()] == ["events.jsonl"]
    assert registry.find_workspace("sft", FINGERPRINT) is None
    registry.discard(registry.workspace("ppo", FINGERPRINT))


def test_a_stage_is_run_by_one_at_a_time(registry: Registry):
    with registry.lock("sft", FINGERPRINT):
        with pytest.raises(Timeout):
            registry.lock("sft", FINGERPRINT).acquire(blocking=False)
        with registry.lock("sft", OTHER) as other:
            assert other.is_locked
