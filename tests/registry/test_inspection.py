"""Every way of damaging an artifact is found, by `verify` and before use; hashes are remembered for unchanged files."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from align.errors import VerificationError
from align.registry import Registry, inspection


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def _append(path: Path) -> None:
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"\n")


def _truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 1)


def _swap_files(directory: Path) -> None:
    one, other = directory / "files/model.safetensors", directory / "files/adapter/adapter_model.safetensors"
    one.rename(directory / "between")
    other.rename(one)
    (directory / "between").rename(other)


def _link(path: Path) -> None:
    shutil.copy(path, path.parents[3] / "elsewhere")
    path.unlink()
    path.symlink_to(path.parents[3] / "elsewhere")


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _edit_with_its_checksum(directory: Path) -> None:
    text = (directory / "manifest.json").read_text().replace("0.001", "0.002").encode()
    for name, content in (
        ("manifest.json", text),
        ("manifest.sha256", f"{hashlib.sha256(text).hexdigest()}  manifest.json\n".encode()),
    ):
        (directory / name).chmod(0o644)
        (directory / name).write_bytes(content)


def _swap_versions(directory: Path) -> None:
    other = directory.with_name("v2")
    directory.rename(directory.with_name("between"))
    other.rename(directory)
    directory.with_name("between").rename(other)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights flipped": (lambda d: _flip(d / "files/model.safetensors"), "files/model.safetensors"),
    "nested file flipped": (lambda d: _flip(d / "files/adapter/adapter_model.safetensors"), "files/adapter"),
    "truncated": (lambda d: _truncate(d / "files/config.json"), "files/config.json"),
    "grown": (lambda d: _append(d / "files/merges.txt"), "files/merges.txt"),
    "removed": (lambda d: (d / "files/config.json").unlink(), "files/config.json"),
    "added": (lambda d: (d / "files/extra.json").write_text("{}"), "files/extra.json"),
    "added beside": (lambda d: (d / "extra.json").write_text("{}"), "extra.json"),
    "swapped": (_swap_files, "files/model.safetensors"),
    "linked": (lambda d: _link(d / "files/config.json"), "files/config.json"),
    "files gone": (lambda d: shutil.rmtree(d / "files"), "files/config.json"),
    "manifest flipped": (lambda d: _flip(d / "manifest.json"), "manifest.json"),
    "manifest truncated": (lambda d: _truncate(d / "manifest.json"), "manifest.json"),
    "manifest removed": (lambda d: (d / "manifest.json").unlink(), "manifest.json"),
    "manifest edited": (_edit_with_its_checksum, "manifest.json"),
    "manifest linked to itself": (lambda d: _link_to_itself(d / "manifest.json"), "manifest.json"),
    "checksum flipped": (lambda d: _flip(d / "manifest.sha256"), "manifest"),
    "checksum removed": (lambda d: (d / "manifest.sha256").unlink(), "manifest.sha256"),
    "versions swapped": (_swap_versions, "manifest.json"),
}


@pytest.fixture
def version(registry: Registry, publish: Callable) -> Path:
    publish()
    publish(config={})
    return registry.root / "artifacts" / "sft" / "v1"


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_reported_by_verify_which_changes_nothing(registry: Registry, version: Path, damage: str):
    do, named = DAMAGE[damage]
    assert registry.verify() == []
    do(version)
    problems = registry.verify("sft@v1")
    assert any(named in problem.file for problem in problems)
    assert set(problems) <= set(registry.verify())
    assert version.exists()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_before_use_and_quarantined(registry: Registry, version: Path, damage: str):
    do, named = DAMAGE[damage]
    artifact = registry.resolve("sft@v1")
    registry.check(artifact)
    do(version)
    with pytest.raises(VerificationError, match=rf"sft@v1: .*{named}.* moved to .*quarantine") as failure:
        registry.check(artifact)
    assert failure.value.exit_code == 3
    assert "v1" not in registry.versions("sft")
    assert (registry.root / "quarantine" / "sft" / "v1.1").exists()


@pytest.mark.parametrize("unread", ["manifest.json", "files/config.json", "files"])
def test_what_cannot_be_read_is_a_finding_and_stays_where_it_is(
    registry: Registry, version: Path, unread: str, monkeypatch: pytest.MonkeyPatch
):
    """As of a disk that is failing, or files of somebody else."""
    artifact = registry.resolve("sft@v1")

    def failing(function: Callable) -> Callable:
        def read(path: str | Path, *arguments: object, **options: object) -> object:
            if str(path) == str(version / unread):
                raise OSError(errno.EIO, "Input/output error", str(path))
            return function(path, *arguments, **options)

        return read

    monkeypatch.setattr(Path, "open", failing(Path.open))
    monkeypatch.setattr(io, "open", failing(io.open))
    monkeypatch.setattr(os, "scandir", failing(os.scandir))
    problem = next(iter(registry.verify()))
    assert unread in problem.file
    assert problem.message == "cannot be read: Input/output error"
    with pytest.raises(VerificationError, match=rf"sft@v1: .*{unread} cannot be read: Input/output error\. Put this"):
        registry.check(artifact)
    monkeypatch.undo()
    assert registry.resolve("sft@v1") == artifact


def test_every_byte_counts(registry: Registry, version: Path):
    """Each byte of each file flipped, each file cut at each length: found by `verify` and before use."""
    for path in [version / "manifest.json", version / "manifest.sha256", *(version / "files").rglob("*.*")]:
        content = path.read_bytes()
        path.chmod(0o644)
        for place in range(len(content)):
            flipped = content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
            for changed in (flipped, content[:place]):
                path.write_bytes(changed)
                cache = inspection.HashCache(registry.root / "cache.json")
                for hash_of in (inspection.hash_always, cache):
                    assert inspection.inspect(version, "sft", "v1", hash_of)[1], (path, place)
        path.write_bytes(content)
    assert registry.verify() == []


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed."""
    names: list[str] = []
    sha256 = inspection.files.sha256
    monkeypatch.setattr(inspection.files, "sha256", lambda path: names.append(path.name) or sha256(path))
    return names


def test_files_are_hashed_once(registry: Registry, version: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inspection.files, "SETTLED_NANOSECONDS", -1)
    artifact = registry.resolve("sft@v1")
    assert reads == []
    registry.check(artifact)
    assert len(reads) == 4
    registry.check(artifact)
    assert len(reads) == 4
    weights = artifact.path / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    registry.check(artifact)
    assert reads[4:] == ["model.safetensors"]


def test_a_file_that_changed_just_now_is_hashed_again(registry: Registry, version: Path, reads: list[str]):
    artifact = registry.resolve("sft@v1")
    registry.check(artifact)
    registry.check(artifact)
    assert len(reads) == 8


@pytest.mark.parametrize("rubbish", ["", "[]", '{"config.json": 3}', "\0"])
def test_a_damaged_cache_is_no_harm(registry: Registry, version: Path, rubbish: str):
    cache = registry.root / "verified" / "sft" / "v1.json"
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(rubbish)
    registry.check(registry.resolve("sft@v1"))
