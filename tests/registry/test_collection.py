"""What garbage collection keeps, and that it removes the rest and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from align.errors import AlignError, VerificationError
from align.registry import Artifact, InputRecord, Registry, archive, collection

FINGERPRINT = "f" * 64


@pytest.fixture
def versions(publish: Callable[..., Artifact]) -> Callable[..., list[Artifact]]:
    """`sft@v1` to `sft@v<count>`, all different."""

    def versions(count: int, name: str = "sft", **arguments: object) -> list[Artifact]:
        return [publish(name=name, config={"number": number}, **arguments) for number in range(count)]

    return versions


def as_input(artifact: Artifact) -> dict[str, InputRecord]:
    return {"model": InputRecord(reference=artifact.reference, digest=artifact.digest)}


def garbage(registry: Registry) -> list[str]:
    return sorted(artifact.reference for artifact in collection.find(registry).artifacts)


def test_what_nothing_needs_is_found_and_only_then_removed(registry: Registry, versions: Callable):
    versions(4)
    registry.tag("sft@v2", "best")
    registry.pin("sft@v1")
    assert garbage(registry) == ["sft@v3"]
    assert registry.versions("sft") == ["v1", "v2", "v3", "v4"]
    assert [one.reference for one in collection.collect(registry).artifacts] == ["sft@v3"]
    assert registry.versions("sft") == ["v1", "v2", "v4"]
    assert registry.verify() == []
    assert collection.find(registry).kept == {
        "sft@v1": "it is pinned",
        "sft@v2": "it is sft@best",
        "sft@v4": "it is sft@latest",
    }
    registry.unpin("sft@v1")
    assert garbage(registry) == ["sft@v1"]
    assert list((registry.root / "staging").iterdir()) == []


def test_what_is_new_is_kept(registry: Registry, versions: Callable):
    old, young, _ = versions(3)
    os.utime(old.path.parent, (time.time() - 90_000,) * 2)
    os.utime(young.path.parent, (time.time() - 80_000,) * 2)
    assert [one.reference for one in collection.find(registry, collection.DAY).artifacts] == ["sft@v1"]


def test_ancestors_of_what_is_kept_are_kept(registry: Registry, publish: Callable, versions: Callable):
    base, other, _ = versions(3, "base")
    sft = publish(inputs=as_input(base))
    publish(inputs={})
    ppo = publish(name="ppo", inputs=as_input(sft))
    assert garbage(registry) == ["base@v2"]
    assert collection.find(registry).kept["base@v1"] == "sft@v1 was made from it"
    publish(name="ppo")
    assert garbage(registry) == ["base@v1", "base@v2", "ppo@v1", "sft@v1"]
    registry.pin(ppo.reference)
    assert garbage(registry) == [other.reference]


def test_descendants_go_before_what_they_were_made_from(registry: Registry, publish: Callable, versions: Callable):
    base, _ = versions(2, "base")
    publish(inputs=as_input(base))
    publish()
    assert [one.reference for one in collection.find(registry).artifacts] == ["sft@v1", "base@v1"]


def test_content_that_got_another_number_is_known_by_its_digest(registry: Registry, publish: Callable):
    publish(name="base", config={"other": 1})
    base = publish(name="base")
    publish(name="base", config={"newest": 1})
    publish(inputs={"model": InputRecord(reference="base@v1", digest=base.digest)})
    assert garbage(registry) == ["base@v1"]


def test_a_run_at_work_keeps_what_it_may_take(registry: Registry, versions: Callable):
    used, *_ = versions(3)
    with collection.in_use(registry, [used]) as keep:
        assert garbage(registry) == ["sft@v2"]
        keep(registry.resolve("sft@v2"))
        assert garbage(registry) == []
        assert collection.find(registry).kept["sft@v1"] == "a run is using it"
    assert garbage(registry) == ["sft@v1", "sft@v2"]
    assert list((registry.root / "running").iterdir()) == []


def test_a_run_in_another_process_keeps_what_it_takes_and_a_dead_one_for_a_day(registry: Registry, versions: Callable):
    versions(3)
    program = """if True:
        import sys, time
        from align.registry import Registry, collection
        registry = Registry(sys.argv[1])
        with collection.in_use(registry, [registry.resolve("sft@v1")]):
            print("at work", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", program, registry.root], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    (record,) = (registry.root / "running").iterdir()
    os.utime(record, (1, 1))
    assert garbage(registry) == ["sft@v2"]
    process.kill()
    process.communicate()
    assert garbage(registry) == ["sft@v1", "sft@v2"]
    os.utime(record)
    assert garbage(registry) == ["sft@v2"]
    os.utime(record, (1, 1))
    assert [one.reference for one in collection.collect(registry).artifacts] == ["sft@v2", "sft@v1"]
    assert list((registry.root / "running").iterdir()) == []
    assert not list((registry.root / "locks").glob("run-*"))


def test_a_stage_that_was_stopped_keeps_what_it_is_to_go_on_with(registry: Registry, versions: Callable):
    used, *_ = versions(3)
    workspace = registry.workspace("ppo", FINGERPRINT)
    workspace.begun.write_text(json.dumps({"forced": False, "inputs": {"policy": used.digest}}))
    assert garbage(registry) == ["sft@v2"]
    registry.discard(workspace)
    assert garbage(registry) == ["sft@v1", "sft@v2"]


def test_a_workspace_whose_work_is_published_is_garbage_unless_somebody_is_at_it(
    registry: Registry, versions: Callable, publish: Callable, monkeypatch: pytest.MonkeyPatch
):
    """As a run leaves it that was killed before it had cleared it away."""
    used, other, _ = versions(3, "base")
    workspace = registry.workspace("sft", FINGERPRINT)
    (workspace.checkpoints / "weights.pt").write_bytes(bytes(1000))
    workspace.events.touch()

    def begun(forced: bool, digest: str) -> list[str]:
        workspace.begun.write_text(json.dumps({"forced": forced, "inputs": {"model": digest}}))
        return [path.name for path in collection.find(registry).leftovers]

    assert begun(False, used.digest) == []
    publish(inputs=as_input(used))
    publish(inputs={}, fingerprint="e" * 64)
    assert begun(True, used.digest) == begun(False, other.digest) == []  # it may be the work of today
    with registry.lock("sft", FINGERPRINT):
        assert begun(False, used.digest) == []
    assert begun(False, used.digest) == [workspace.path.name]
    found = collection.find(registry)
    with monkeypatch.context() as patch:
        patch.setattr(collection, "_remove", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(AlignError, match="could not remove all garbage"):
            collection.collect(registry)
    assert [path.name for path in workspace.path.iterdir()] == ["events.jsonl"]
    (workspace.checkpoints / "weights.pt").mkdir(parents=True)
    assert collection.find(registry).leftovers == []  # a run may be about to say with what it begins
    (workspace.checkpoints / "weights.pt").rmdir()
    workspace.checkpoints.rmdir()
    begun(False, used.digest)
    (workspace.path / "weights.pt").write_bytes(bytes(1000))
    removed = collection.collect(registry)
    assert [one.reference for one in removed.artifacts] == ["sft@v1", "base@v2", "base@v1"]
    assert removed.size == found.size > 1000
    assert [path.name for path in workspace.path.iterdir()] == ["events.jsonl"]
    assert collection.find(registry).leftovers == []


def test_what_does_not_say_with_what_it_was_begun_goes_after_a_day(registry: Registry, versions: Callable):
    versions(1)
    workspace = registry.workspace("ppo", FINGERPRINT)
    for age, left in ((1_000, []), (100_000, [workspace.path])):
        for path in (*workspace.path.iterdir(), workspace.path):
            os.utime(path, (time.time() - age,) * 2)
        assert collection.find(registry).leftovers == left


def test_a_workspace_that_nobody_came_back_to_is_garbage_if_one_asks_for_old_ones(
    registry: Registry, versions: Callable
):
    used, *_ = versions(3)
    old = time.time() - 3 * collection.DAY
    for artifact in registry.artifacts():
        os.utime(artifact.path.parent, (old, old))
    workspace = registry.workspace("ppo", FINGERPRINT)
    workspace.begun.write_text(json.dumps({"forced": False, "inputs": {"policy": used.digest}}))
    (workspace.checkpoints / "weights.pt").write_bytes(bytes(10))
    assert collection.find(registry, 2 * collection.DAY).leftovers == []
    for path in (workspace.path, *workspace.path.rglob("*")):
        os.utime(path, (old, old))
    assert garbage(registry) == ["sft@v2"]
    assert collection.find(registry, 4 * collection.DAY).leftovers == []
    with registry.lock("ppo", FINGERPRINT):
        assert collection.find(registry, 2 * collection.DAY).leftovers == []
    removed = collection.collect(registry, 2 * collection.DAY)
    assert removed.leftovers == [workspace.path]
    assert [one.reference for one in removed.artifacts] == ["sft@v2", "sft@v1"]
    assert registry.find_workspace("ppo", FINGERPRINT) is None


def test_a_publication_that_ends_meanwhile_is_no_harm(registry: Registry, versions: Callable):
    """What was listed and then moved away has no status any more, like a link to nowhere."""
    versions(1)
    (registry.prepared("staging") / "just published").symlink_to("nowhere")
    assert collection.find(registry).leftovers == []


def test_nothing_is_collected_while_a_manifest_is_damaged(registry: Registry, versions: Callable):
    *_, last = versions(3)
    (last.path.parent / "manifest.json").unlink()
    for collect in (collection.find, collection.collect):
        with pytest.raises(VerificationError, match=r"sft@v3: manifest.json is missing\. While it is there"):
            collect(registry)
    assert registry.versions("sft") == ["v1", "v2", "v3"]


def test_nothing_is_collected_while_it_is_not_known_what_a_stage_needs(registry: Registry, versions: Callable):
    versions(3)
    registry.workspace("ppo", FINGERPRINT).begun.write_text("{")
    with pytest.raises(VerificationError, match=r"begun\.json cannot be read"):
        collection.collect(registry)


def test_what_is_named_meanwhile_is_kept(registry: Registry, versions: Callable, monkeypatch: pytest.MonkeyPatch):
    versions(4)
    remove = collection._remove

    def remove_and_tag(registry: Registry, artifact: Artifact) -> None:
        remove(registry, artifact)
        if len(registry.versions("sft")) == 3:
            registry.tag("sft@v2", "best")

    monkeypatch.setattr(collection, "_remove", remove_and_tag)
    removed = [one.reference for one in collection.collect(registry).artifacts]
    assert "sft@v2" not in removed
    assert registry.aliases("sft") == {"best": "v2"}
    assert registry.verify() == []


def test_publications_that_were_killed_are_cleared_away_after_a_day(registry: Registry, versions: Callable):
    versions(1)
    for name, age in (("killed", 100_000), ("at work", 1_000)):
        directory = registry.prepared("staging", name)
        (directory / "file").write_text("x" * 1000)
        for path in (directory / "file", directory):
            os.utime(path, (time.time() - age,) * 2)
    found = collection.collect(registry)
    assert found.size == 1000
    assert [path.name for path in found.leftovers] == ["killed"]
    assert [path.name for path in (registry.root / "staging").iterdir()] == ["at work"]


def test_an_empty_registry_has_no_garbage_and_is_not_made_by_looking(registry: Registry):
    assert collection.find(registry).artifacts == []
    assert not registry.root.exists()


def test_the_number_of_what_was_removed_is_given_to_nothing_else(
    registry: Registry, versions: Callable, publish: Callable, tmp_path: Path
):
    theirs = Registry(tmp_path / "theirs")
    for number in range(2):
        theirs.publish(
            publish(name="other").path,
            name="sft",
            kind="sft",
            fingerprint="e" * 64,
            inputs={},
            config={"their": number},
            metrics={},
            environment={},
        )
    archive.export(theirs, "sft@v2", tmp_path / "theirs.tar")
    _, mine, _ = versions(3)
    archive.export(registry, mine.reference, tmp_path / "mine.tar")
    collection.collect(registry)
    (imported,) = archive.import_(registry, tmp_path / "theirs.tar")
    assert imported.reference == "sft@v4"
    with pytest.raises(VerificationError, match="sft@v2 is not there any more"):
        registry.check(mine)
    assert archive.import_(registry, tmp_path / "mine.tar") == [mine]
    registry.check(mine)


def test_what_is_another_artifact_now_is_not_used(registry: Registry, versions: Callable):
    first, second = versions(2)
    with pytest.raises(VerificationError, match="sft@v2 is no longer the artifact that was"):
        registry.check(replace(second, manifest=first.manifest))
    assert registry.versions("sft") == ["v1", "v2"]


def test_pins_survive_and_are_unpinned_once(registry: Registry, versions: Callable):
    versions(2)
    assert registry.pin("sft@v1").reference == "sft@v1"
    assert Registry(registry.root).pins("sft") == ["v1"]
    assert registry.unpin("sft@v1") == "sft@v1"
    with pytest.raises(Exception, match=r"sft@v1 is not pinned\."):
        registry.unpin("sft@v1")
