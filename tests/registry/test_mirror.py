"""Push and pull: a directory, memory, and S3 on loopback, through the clients that people use."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fsspec
import pytest

from align.errors import AlignError, UsageError, VerificationError
from align.registry import Artifact, InputRecord, Registry
from align.registry.mirror import Mirror


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """A server that knows one bucket; what a client has to know is in the environment."""
    with pytest.MonkeyPatch.context() as patch, _module(Path(__file__).with_name("s3.py")).S3() as server:
        for name, value in (
            ("AWS_ENDPOINT_URL", server.url),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ):
            patch.setenv(name, value)
        yield server


@pytest.fixture(params=["directory", "file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place of each kind."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    places = {
        "directory": str(tmp_path / "mirror"),
        "file": f"file://{tmp_path}/mirror",
        "memory": f"memory://{tmp_path.name}/mirror",
        "s3": f"s3://bucket/{tmp_path.name}/mirror",
    }
    return places[request.param]


@pytest.fixture
def chain(publish: Callable[..., Artifact]) -> Artifact:
    """`ppo@v1`, made from `sft@v2`."""
    publish(config={"older": 1})
    sft = publish()
    return publish(name="ppo", inputs={"policy": InputRecord(reference=sft.reference, digest=sft.digest)})


@pytest.fixture
def other(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "other")


def test_an_artifact_travels_with_its_lineage(registry: Registry, chain: Artifact, url: str, other: Registry):
    assert Mirror(url).push(registry, "ppo") == {"sft@v2": True, "ppo@v1": True}
    assert Mirror(url).push(registry, "ppo") == {"sft@v2": False, "ppo@v1": False}
    assert Mirror(url).push(registry, "sft@v1") == {"sft@v1": True}
    assert Mirror(url).versions("sft") == ["v1", "v2"]
    assert Mirror(url).pull(other, "ppo@latest").manifest == chain.manifest
    assert other.versions("sft") == ["v2"]
    assert Mirror(url).pull(other, "sft").reference == "sft@v2"
    assert Mirror(url).pull(other, "sft@v1").reference == "sft@v1"
    assert other.verify() == []
    assert all(node.problem is None for node in other.lineage("ppo").walk())


def test_what_is_not_there_is_said_to_be_missing(registry: Registry, chain: Artifact, url: str, other: Registry):
    empty = Mirror(url)
    with pytest.raises(UsageError, match="there is no mirror at"):
        empty.pull(other, "sft")
    Mirror(url).push(registry, "ppo")
    with pytest.raises(UsageError, match=r"has no sft@v1 .*There is: v2"):
        Mirror(url).pull(other, "sft@v1")
    with pytest.raises(UsageError, match="aliases are not mirrored"):
        empty.pull(other, "sft@best")
    assert other.artifacts() == []


def _rewrite(url: str, ending: str, content: bytes | None) -> None:
    """Replace, or remove, what lies there under a name with this ending."""
    from align.registry.mirror import _opened

    fs, root = _opened(url)
    (path,) = (one for one in fs.find(root) if one.endswith(ending))
    fs.pipe_file(path, content) if content is not None else fs.rm_file(path)


@pytest.mark.parametrize("content", [b"", b"{}", None])
@pytest.mark.parametrize("file", ["/model.safetensors", "ppo/v1/manifest.json", "sft/v2/manifest.json", "mirror.json"])
def test_damage_there_is_noticed_and_nothing_is_taken(
    registry: Registry, chain: Artifact, url: str, other: Registry, file: str, content: bytes | None
):
    if file == "/model.safetensors":
        registry = Registry(registry.root.with_name("single"))
        chain = registry.publish(chain.path, name="ppo", kind="ppo", fingerprint="f" * 64, inputs={}, config={}, metrics={}, environment={})  # fmt: skip  # noqa: E501
    Mirror(url).push(registry, "ppo")
    if file == "mirror.json" and content is None:
        return  # a mirror without its marker is a new one
    _rewrite(url, file, content)
    with pytest.raises(AlignError):
        Mirror(url).pull(other, "ppo")
    assert other.artifacts() == []
    assert not list(other.root.glob("staging/*"))


def test_a_push_that_was_cut_short_is_not_seen_and_done_again(
    registry: Registry, chain: Artifact, s3: Any, other: Registry
):
    url = "s3://bucket/short"
    for fail in ("PUT .*model.safetensors", r"PUT .*ppo/v1/manifest\.sha256", r"PUT .*ppo/v1/manifest\.json"):
        s3.fail = fail
        with pytest.raises(AlignError, match=r"s3://bucket/short: .*(?i:access.?denied)"):
            Mirror(url).push(registry, "ppo")
        s3.fail = ""
        with pytest.raises(AlignError, match="has no ppo"):
            Mirror(url).pull(other, "ppo")
    assert Mirror(url).push(registry, "ppo")["ppo@v1"]
    assert Mirror(url).pull(other, "ppo").digest == chain.digest


@pytest.mark.parametrize("content", [b"", b"cut short", None])
def test_a_push_repairs_what_is_damaged_there(
    registry: Registry, publish: Callable, url: str, other: Registry, content: bytes | None
):
    published = publish()
    Mirror(url).push(registry, "sft")
    _rewrite(url, "/model.safetensors", content)
    with pytest.raises(AlignError):
        Mirror(url).pull(other, "sft")
    assert Mirror(url).push(registry, "sft") == {"sft@v1": True}
    assert Mirror(url).push(registry, "sft") == {"sft@v1": False}
    assert Mirror(url).pull(other, "sft").digest == published.digest


def test_a_password_is_not_printed(registry: Registry, publish: Callable, monkeypatch: pytest.MonkeyPatch):
    publish()
    url = "memory://user:se@cret@host/mirror"
    with pytest.raises(UsageError, match=r"^there is no mirror at memory://host/mirror$") as missing:
        Mirror(url).pull(registry, "sft")

    def fail(*_: object) -> None:
        raise ValueError(f"cannot log in at {url}")

    mirror = Mirror(url)
    monkeypatch.setattr(mirror._fs, "pipe_file", fail)
    with pytest.raises(AlignError, match=r"^memory://host/mirror: cannot log in at memory://host") as failed:
        mirror.push(registry, "sft")
    with pytest.raises(UsageError, match=r"^nothing://host cannot be opened") as unknown:
        Mirror("nothing://user:se@cret@host")
    assert not any("cret" in str(error.value) for error in (missing, failed, unknown))


def test_two_registries_do_not_share_a_mirror(
    registry: Registry, chain: Artifact, url: str, source: Path, tmp_path: Path
):
    Mirror(url).push(registry, "ppo")
    rival = Registry(tmp_path / "rival")
    rival.publish(
        source, name="ppo", kind="ppo", fingerprint="a" * 64, inputs={}, config={}, metrics={}, environment={}
    )
    with pytest.raises(UsageError, match=r"has another ppo@v1 .*Push to a place of its own"):
        Mirror(url).push(rival, "ppo")
    assert Mirror(url).pull(Registry(tmp_path / "third"), "ppo").digest == chain.digest


def test_what_is_damaged_here_is_not_pushed(registry: Registry, chain: Artifact, tmp_path: Path):
    weights = chain.path / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(VerificationError):
        Mirror(str(tmp_path / "mirror")).push(registry, "ppo")
    assert not (tmp_path / "mirror").exists()


def test_a_large_file_travels_in_parts(registry: Registry, source: Path, publish: Callable, s3: Any, other: Registry):
    (source / "vocabulary.txt").write_bytes(os.urandom(1 << 20).hex().encode() * 12)
    publish()
    Mirror("s3://bucket/large").push(registry, "sft")
    assert any(request.startswith("POST") for request in s3.requests)
    assert Mirror("s3://bucket/large").pull(other, "sft").manifest == registry.resolve("sft").manifest


def test_places_that_cannot_be_opened(registry: Registry, chain: Artifact, monkeypatch: pytest.MonkeyPatch):
    for url in ("nothing://x", "gs://bucket/x"):
        with pytest.raises(UsageError, match=f"{url} cannot be opened"):
            Mirror(url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    fsspec.filesystem("memory")
    with pytest.raises(AlignError, match=r"s3://bucket/x: "):
        Mirror("s3://bucket/x").push(registry, "ppo")


def test_a_newer_mirror_is_refused(registry: Registry, chain: Artifact, url: str):
    Mirror(url).push(registry, "ppo")
    _rewrite(url, "mirror.json", b'{"format": 2}')
    with pytest.raises(UsageError, match="a format other than 1"):
        Mirror(url)
