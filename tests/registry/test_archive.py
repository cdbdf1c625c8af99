"""Export and import: the same bytes, the same artifacts, and nothing written for an archive that is not right."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from align.errors import AlignError, UsageError, VerificationError
from align.registry import Artifact, InputRecord, Registry, archive
from align.registry.mirror import Mirror


@pytest.fixture
def chain(publish: Callable[..., Artifact]) -> Artifact:
    """`ppo@v2`, made from `sft@v2`."""
    publish(name="sft", config={"older": 1})
    publish(name="ppo", config={"older": 1})
    sft = publish(name="sft")
    return publish(name="ppo", inputs={"policy": InputRecord(reference=sft.reference, digest=sft.digest)})


@pytest.fixture
def exported(registry: Registry, chain: Artifact, tmp_path: Path) -> Path:
    archive.export(registry, "ppo", tmp_path / "ppo.tar")
    return tmp_path / "ppo.tar"


@pytest.fixture
def other(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "elsewhere" / "registry")


def everything_below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_the_same_artifact_gives_the_same_bytes(registry: Registry, exported: Path, tmp_path: Path):
    again = tmp_path / "again.tar"
    assert [one.reference for one in archive.export(registry, "ppo@v2", again)] == ["sft@v2", "ppo@v2"]
    assert again.read_bytes() == exported.read_bytes()


def test_only_an_archive_is_replaced(registry: Registry, chain: Artifact, tmp_path: Path):
    mine, empty, pipe, link = (tmp_path / name for name in ("mine", "empty", "pipe", "link"))
    mine.write_text("mine")
    empty.touch()
    os.mkfifo(pipe)
    link.symlink_to(empty)
    for path, message in {
        mine: "mine exists, and is not an archive of artifacts",
        pipe: "pipe is not a regular file",
        link: "link is not a regular file",
        tmp_path: "is not a regular file",
        Path("-"): "- is not a regular file",
        Path(): "is not a regular file",
    }.items():
        with pytest.raises(UsageError, match=message):
            archive.export(registry, "ppo", path)
    assert mine.read_text() == "mine"
    assert pipe.is_fifo()
    for _ in range(2):
        archive.export(registry, "ppo", empty)
    assert archive.import_(Registry(tmp_path / "other"), empty)[-1].digest == chain.digest


def test_a_pipe_is_not_imported(other: Registry, exported: Path, tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR)
    try:
        with pytest.raises(UsageError, match="pipe can be read only once: write it to a file"):
            archive.import_(other, pipe)
    finally:
        os.close(held)


def test_it_is_a_tar_file_that_unpacks_to_a_registry(exported: Path, chain: Artifact, tmp_path: Path):
    with tarfile.open(exported) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    unpacked = Registry(tmp_path / "unpacked")
    assert [str(problem) for problem in unpacked.verify()] == ["registry: registry.json is missing"]
    assert unpacked.resolve("ppo@v2").digest == chain.digest


def test_a_round_trip_keeps_numbers_digests_and_lineage(exported: Path, other: Registry, chain: Artifact):
    taken = archive.import_(other, exported)
    assert [artifact.reference for artifact in taken] == ["sft@v2", "ppo@v2"]
    assert taken[-1].manifest == chain.manifest
    assert other.verify() == []
    assert all(node.problem is None for node in other.lineage("ppo").walk())
    assert archive.import_(other, exported) == taken
    assert len(other.artifacts()) == 2


def test_a_number_that_is_taken_changes_and_what_refers_to_it_with_it(
    exported: Path, other: Registry, source: Path, chain: Artifact
):
    for content in ("1", "2", "3"):
        other.publish(source, name="sft", kind="sft", fingerprint=content * 64, inputs={}, config={}, metrics={}, environment={})  # fmt: skip  # noqa: E501
    sft, ppo = archive.import_(other, exported)
    assert (sft.reference, ppo.reference) == ("sft@v4", "ppo@v2")
    assert ppo.digest == chain.digest
    assert ppo.manifest.inputs["policy"] == InputRecord(reference="sft@v4", digest=sft.digest)
    assert all(node.problem is None for node in other.lineage("ppo").walk())
    assert other.verify() == []


def test_a_parent_that_was_made_again_under_another_number_still_counts(
    registry: Registry, chain: Artifact, other: Registry, publish: Callable, tmp_path: Path
):
    sft = registry.resolve("sft@v2")
    (sft.path / "config.json").unlink()
    with pytest.raises(VerificationError):
        registry.check(sft)
    assert publish(name="sft").reference == "sft@v3"
    (parent,) = registry.lineage("ppo").inputs.values()
    assert (parent.reference, parent.digest, parent.problem) == ("sft@v3", sft.digest, None)
    archive.export(registry, "ppo", tmp_path / "ppo.tar")
    sft, ppo = archive.import_(other, tmp_path / "ppo.tar")
    assert (sft.reference, ppo.manifest.inputs["policy"].reference) == ("sft@v3", "sft@v3")
    Mirror(str(tmp_path / "mirror")).push(registry, "ppo")
    assert Mirror(str(tmp_path / "mirror")).pull(Registry(tmp_path / "third"), "ppo").digest == ppo.digest


def test_what_stands_here_is_returned_in_the_order_of_the_archive(exported: Path, other: Registry):
    sft, ppo = archive.import_(other, exported)
    sft.path.parent.rename(other.root / "gone")
    assert archive.import_(other, exported) == [sft, ppo]
    assert other.verify() == []


def test_an_artifact_can_be_given_another_name(exported: Path, registry: Registry, chain: Artifact):
    taken = archive.import_(registry, exported, "theirs")[-1]
    assert taken.reference == "theirs@v2"
    assert taken.digest != chain.digest
    assert taken.manifest.environment["imported_as"] == {"reference": "ppo@v2", "digest": chain.digest}
    assert registry.lineage("theirs").inputs["policy"].reference == "sft@v2"
    assert registry.verify() == []
    with pytest.raises(UsageError, match="cannot be named"):
        archive.import_(registry, exported, "../theirs")


@pytest.mark.parametrize("damage", ["parent damaged", "parent gone", "itself damaged"])
def test_what_is_damaged_is_not_exported(registry: Registry, chain: Artifact, tmp_path: Path, damage: str):
    sft = registry.resolve("sft@v2")
    if damage == "parent gone":
        sft.path.parent.rename(registry.root / "gone")
    else:
        file = (sft if damage == "parent damaged" else chain).path / "model.safetensors"
        file.chmod(0o644)
        file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(VerificationError):
        archive.export(registry, "ppo@v2", tmp_path / "x.tar")
    assert not list(tmp_path.glob("*x.tar*"))


def test_an_export_that_fails_leaves_nothing(registry: Registry, chain: Artifact, tmp_path: Path):
    with pytest.raises(AlignError, match=r"cannot be exported to .*No such file"):
        archive.export(registry, "ppo", tmp_path / "nowhere" / "x.tar")


# Hostile archives

Members = dict[str, tuple[tarfile.TarInfo, bytes]]


def _members(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return {info.name: (info, tar.extractfile(info).read()) for info in tar}  # type: ignore[union-attr]


def _written(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.USTAR_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as tar:
        for info, content in members:
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content + bytes(-len(content) % 512 + 1024))


WEIGHTS = "artifacts/ppo/v2/files/model.safetensors"
CONFIG = "artifacts/ppo/v2/files/config.json"


def _extra(name: str, type_: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type_, link
    return info, b"evil"


EXTRA = {
    "traversal": _extra("artifacts/ppo/v2/files/../../../../../evil.json"),
    "parent": _extra("../evil.json"),
    "absolute": _extra("/tmp/evil.json"),
    "symbolic link": _extra("artifacts/ppo/v2/files/evil.json", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": _extra("artifacts/ppo/v2/files/evil.json", tarfile.LNKTYPE, "/etc/passwd"),
    "character device": _extra("artifacts/ppo/v2/files/evil.json", tarfile.CHRTYPE),
    "block device": _extra("artifacts/ppo/v2/files/evil.json", tarfile.BLKTYPE),
    "fifo": _extra("artifacts/ppo/v2/files/evil.json", tarfile.FIFOTYPE),
    "directory": _extra("artifacts/ppo/v2/files/evil", tarfile.DIRTYPE),
    "contiguous file": _extra("artifacts/ppo/v2/files/evil.json", tarfile.CONTTYPE),
    "sparse file": _extra("artifacts/ppo/v2/files/evil.json", tarfile.GNUTYPE_SPARSE),
    "unlisted file": _extra("artifacts/ppo/v2/files/evil.json"),
    "another artifact": _extra("artifacts/evil/v1/files/evil.json"),
    "pickle": _extra("artifacts/ppo/v2/files/training_args.bin"),
    "file of the registry": _extra("registry.json"),
}


@pytest.fixture
def refused(other: Registry, tmp_path: Path) -> Callable[..., None]:
    """An archive is refused, and nothing is written, in the registry or outside."""

    def refused(path: Path, match: str | None = None, error: type[AlignError] = UsageError) -> None:
        before = everything_below(tmp_path)
        with pytest.raises(error, match=match):
            archive.import_(other, path)
        written = set(everything_below(tmp_path)) - set(before)
        assert written <= {"elsewhere/registry/registry.json"}
        assert other.artifacts() == []

    return refused


@pytest.mark.parametrize("kind", EXTRA)
@pytest.mark.parametrize("where", ["first", "last"])
def test_members_that_are_no_listed_files_are_refused(exported: Path, refused: Callable, kind: str, where: str):
    members = list(_members(exported).values())
    members.insert(0 if where == "first" else len(members), EXTRA[kind])
    _written(exported, members)
    refused(exported, "is not a plain file|is listed by no manifest")


def test_extended_headers_are_refused(exported: Path, refused: Callable):
    members = _members(exported)
    members[WEIGHTS][0].pax_headers = {"path": "../../evil"}
    _written(exported, list(members.values()), tarfile.PAX_FORMAT)
    refused(exported, "is not a plain file")


@pytest.mark.parametrize("name", [WEIGHTS, "archive.json", "artifacts/ppo/v2/manifest.json"])
def test_a_member_that_comes_twice_is_refused(exported: Path, refused: Callable, name: str):
    members = _members(exported)
    _written(exported, [*members.values(), members[name]])
    refused(exported, "appears twice")


@pytest.mark.parametrize("name", [WEIGHTS, "archive.json", "artifacts/sft/v2/manifest.sha256"])
def test_a_member_that_is_missing_is_noticed(exported: Path, refused: Callable, name: str):
    members = _members(exported)
    del members[name]
    _written(exported, list(members.values()))
    refused(exported, name)


def test_a_size_that_the_file_does_not_have_is_refused(exported: Path, refused: Callable):
    content = bytearray(exported.read_bytes())
    for size in (b"77777777777\0", b"\x80\0\0\0" + (10**18).to_bytes(8, "big"), b"\xff" * 12):
        info = tarfile.TarInfo("archive.json")
        info.size = 1
        header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
        header[124:136], header[148:156] = size, b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        exported.write_bytes(header + content[512:])
        refused(exported, "ends within 'archive.json'")


def test_every_way_of_cutting_or_growing_an_archive_is_noticed(exported: Path, refused: Callable):
    content = exported.read_bytes()
    for size in [*range(0, len(content), 512), len(content) - 1]:
        exported.write_bytes(content[:size])
        refused(exported)
    for more in (b"\0", b"\0" * 512, content):
        exported.write_bytes(content + more)
        refused(exported, "continues after its end")


def test_other_bytes_than_were_published_are_refused(exported: Path, refused: Callable):
    for name in (WEIGHTS, CONFIG, "artifacts/sft/v2/files/adapter/adapter_model.safetensors"):
        members = _members(exported)
        info, content = members[name]
        damaged = exported.with_name("damaged.tar")
        for wrong in (content[:-1] + bytes([content[-1] ^ 1]), content + b"x", content[:-1]):
            members[name] = info, wrong
            _written(damaged, list(members.values()))
            refused(damaged, "arrived with other bytes than were published", VerificationError)


def test_every_flipped_bit_of_a_manifest_is_refused(exported: Path, refused: Callable):
    content = bytearray(exported.read_bytes())
    with tarfile.open(exported) as tar:
        begin, size = next((one.offset_data, one.size) for one in tar if one.name.endswith("ppo/v2/manifest.json"))
    for place in range(begin, begin + size, 7):
        content[place] ^= 1
        exported.write_bytes(content)
        refused(exported, "was changed", VerificationError)
        content[place] ^= 1


@pytest.fixture
def forged(other: Registry, publish: Callable[..., Artifact], tmp_path: Path) -> Callable[..., Path]:
    """An archive that agrees with itself, of files that no registry would publish."""

    def forged(path: str, content: bytes, **changes: object) -> Path:
        import hashlib

        record = {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()} | changes
        manifest = publish().manifest.model_dump() | {"files": [record]}
        identity = {key: manifest[key] for key in ("name", "kind", "fingerprint", "config")}
        identity |= {"inputs": {}, "files": {path: record["sha256"]}}
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()
        manifest["digest"] = hashlib.sha256(canonical).hexdigest()
        text = json.dumps(manifest).encode()
        index = json.dumps({"format": 1, "artifacts": ["sft@v1"]}).encode()
        checksum = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n".encode()
        names = [
            "archive.json",
            *(f"artifacts/sft/v1/{n}" for n in ("manifest.json", "manifest.sha256", f"files/{path}")),
        ]
        members = [
            (tarfile.TarInfo(name), one) for name, one in zip(names, (index, text, checksum, content), strict=True)
        ]
        _written(tmp_path / "forged.tar", members)
        return tmp_path / "forged.tar"

    return forged


def test_a_forgery_is_possible_so_that_the_following_mean_something(forged: Callable, other: Registry):
    assert archive.import_(other, forged("fine.json", b"{}"))[0].reference == "sft@v1"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("training_args.bin", b"\x80\x04."),
        ("model.pt", b"\x80\x04."),
        ("modeling.py", b"import os"),
        ("model.safetensors", b"\x80\x04. a pickle by another name"),
        ("no_suffix", b""),
    ],
)
def test_files_that_may_not_be_published_do_not_arrive(forged: Callable, refused: Callable, path: str, content: bytes):
    refused(forged(path, content), "is refused", AlignError)


@pytest.mark.parametrize("path", ["../evil.json", "/evil.json", "a/../../evil.json", "a\\evil.json", "a\nb.json", "."])
def test_manifests_that_lead_elsewhere_are_refused(forged: Callable, refused: Callable, path: str):
    refused(forged(path, b"{}"), "is not a manifest", VerificationError)


def test_a_manifest_that_lies_about_a_size_is_refused(forged: Callable, refused: Callable):
    for size in (0, 1, 10**18):
        refused(forged("a.json", b"{}", size=size), "arrived with other bytes", VerificationError)


@pytest.mark.parametrize("index", [b"", b"[]", b"[" * 100_000, b'{"format": 2}', b'{"format": 1, "artifacts": []}', b'{"format": 1, "artifacts": ["../x"]}'])  # fmt: skip  # noqa: E501
def test_an_index_that_is_none_is_refused(exported: Path, refused: Callable, index: bytes):
    members = _members(exported)
    members["archive.json"] = members["archive.json"][0], index
    _written(exported, list(members.values()))
    refused(exported)


def test_other_files_are_no_archives(refused: Callable, exported: Path, tmp_path: Path):
    with tarfile.open(tmp_path / "compressed.tar.gz", "w:gz") as tar:
        tar.add(exported)
    (tmp_path / "text.tar").write_text("hello")
    (tmp_path / "empty.tar").write_bytes(b"")
    for name in ("compressed.tar.gz", "text.tar", "empty.tar"):
        refused(tmp_path / name, "is not an archive that `align registry export` wrote")
    refused(tmp_path / "nowhere.tar", "cannot be read: No such file")
    refused(tmp_path, "cannot be read")


def test_a_link_in_the_registry_leads_no_import_outside(exported: Path, other: Registry, tmp_path: Path):
    """Somebody with access to the registry's directory put a link where a version would stand."""
    (tmp_path / "target").mkdir()
    parent = other.prepared("artifacts", "ppo")
    (parent / "v2").symlink_to(tmp_path / "target")
    archive.import_(other, exported)
    assert list((tmp_path / "target").iterdir()) == []
