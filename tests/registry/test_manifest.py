"""The digest names the content and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from align.errors import AlignError
from align.registry.manifest import FileRecord, InputRecord, Manifest, plain
from align.workspace import Interval

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
CONFIG = st.dictionaries(st.text(), JSON, max_size=4)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
FILES = st.dictionaries(st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5})?\.json", fullmatch=True), HASHES, max_size=4)


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "sft",
        "version": "v1",
        "kind": "sft",
        "created": "2026-01-01T00:00:00+00:00",
        "fingerprint": "f" * 64,
        "digest": "",
        "files": [FileRecord(path="config.json", size=1, sha256="a" * 64)],
        "inputs": {"model": InputRecord(reference="base@v1", digest="b" * 64)},
        "config": {"seed": 1},
        "metrics": {},
        "environment": {},
    }
    return Manifest(**(fields | changes))


@given(config=CONFIG, hashes=FILES, metrics=CONFIG)
def test_digest_survives_json_and_ignores_order_and_provenance(config: dict, hashes: dict, metrics: dict):
    files = [FileRecord(path=path, size=1, sha256=digest) for path, digest in hashes.items()]
    first = manifest(config=plain(config, "config"), files=files)
    read_back = Manifest.model_validate(json.loads(first.to_json()))
    assert read_back.identity() == first.identity()
    turned = dict(reversed(first.config.items()))
    moved = {"model": InputRecord(reference="base@v7", digest="b" * 64)}
    same = {"created": "1970", "metrics": metrics, "environment": metrics, "version": "v9", "inputs": moved}
    assert first.model_copy(update={"config": turned, "files": files[::-1], **same}).identity() == first.identity()


@given(one=CONFIG, other=CONFIG)
def test_digests_are_equal_only_for_equal_configurations(one: dict, other: dict):
    equal = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (manifest(config=one).identity() == manifest(config=other).identity()) == equal


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"kind": "reward"},
        {"fingerprint": "e" * 64},
        {"config": {"seed": 2}},
        {"inputs": {"model": {"reference": "base@v1", "digest": "c" * 64}}},
        {"files": [FileRecord(path="config.json", size=1, sha256="c" * 64)]},
        {"files": [FileRecord(path="other.json", size=1, sha256="a" * 64)]},
    ],
)
def test_everything_of_the_identity_changes_the_digest(change: dict):
    assert manifest(**change).identity() != manifest().identity()


@pytest.mark.parametrize("path", ["/etc/passwd", "../up.json", "a/../../b.json", "a//b.json", "./a.json", "", "."])
def test_paths_that_lead_outside_are_refused(path: str):
    with pytest.raises(ValidationError):
        FileRecord(path=path, size=0, sha256="a" * 64)


@pytest.mark.parametrize("name", ["Sft", "", "../sft", "sft\n", "-sft", "a" * 65])
def test_a_manifest_of_a_bad_name_is_refused(name: str):
    with pytest.raises(ValidationError):
        manifest(name=name)


def test_plain_writes_intervals_as_objects():
    values = {"rouge": Interval(0.5, 0.4, 0.6, 10), "labels": ("a", "b")}
    expected = {"rouge": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}, "labels": ["a", "b"]}
    assert plain(values, "metrics") == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_plain_names_the_number_that_is_none(value: float):
    with pytest.raises(AlignError, match=r"metrics\.eval\.0\.loss"):
        plain({"eval": [{"loss": value}]}, "metrics")


def test_plain_refuses_what_json_cannot_hold():
    with pytest.raises(AlignError, match="config cannot be written as JSON"):
        plain({"model": object()}, "config")
