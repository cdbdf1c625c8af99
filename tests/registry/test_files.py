"""What may be published and what may not, and files replaced in one step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from align.errors import UsageError
from align.registry import files


def refusal(source: Path, *private: Path) -> str:
    (reason,) = files.refusals(source, private)
    return reason


def test_what_stages_write_is_accepted(source: Path):
    assert files.refusals(source, {source}) == []


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "model.pkl", "run.py", "noname", "a.json.gz"])
def test_other_kinds_of_file_are_refused(source: Path, name: str):
    (source / "adapter" / name).write_bytes(b"\x80\x04")
    assert f"adapter/{name}" in refusal(source)
    assert "not among what may be published" in refusal(source)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04\x95" + b"\0" * 50, b"\xff" * 8 + b"{}", b"\x02" + b"\0" * 7 + b"{"]
)
def test_a_pickle_called_safetensors_is_refused(source: Path, content: bytes):
    (source / "model.safetensors").write_bytes(content)
    assert "is not a safetensors file" in refusal(source)


@pytest.mark.parametrize("header", [b"{", b"[]", b'{"w": 3}', b'{"w": {}}', b"{" * 9, b'{"w": {"dtype": "F32"}}'])
def test_a_safetensors_header_that_is_none_is_said_to_be(tmp_path: Path, header: bytes):
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UsageError, match=r"w\.safetensors is not a safetensors file, or was cut short"):
        files.safetensors_header(tmp_path / "w.safetensors")


def test_a_safetensors_header_cut_anywhere_is_said_to_be(source: Path):
    path = source / "model.safetensors"
    content = path.read_bytes()
    assert files.safetensors_header(path).keys() == {"w"}
    for length in range(len(content) - 64):
        path.write_bytes(content[:length])
        with pytest.raises(UsageError, match="cut short"):
            files.safetensors_header(path)


def test_links_and_special_files_are_refused(source: Path, tmp_path: Path):
    (source / "link.json").symlink_to(source / "config.json")
    (source / "directory").symlink_to(tmp_path)
    os.mkfifo(source / "pipe.json")
    reasons = files.refusals(source, ())
    assert len(reasons) == 3
    assert all("is a link or a special file" in reason for reason in reasons)


def test_names_that_cannot_be_shown_are_refused(source: Path):
    (source / "a\nb.json").write_text("{}")
    assert "cannot be printed" in refusal(source)


def test_an_empty_directory_is_refused(tmp_path: Path):
    (tmp_path / "source" / "empty").mkdir(parents=True)
    assert refusal(tmp_path / "source") == "it holds no file"


def test_a_path_of_this_machine_is_refused_with_its_line(source: Path, tmp_path: Path):
    (source / "config.json").write_text(f'{{\n"_name_or_path": "{tmp_path}/registry/artifacts/base/v1/files"}}')
    assert refusal(source, tmp_path / "registry").startswith("config.json: line 2 contains a path from this machine")
    assert files.refusals(source, {tmp_path / "registry2", tmp_path / "reg"}) == []


def test_a_short_path_counts_only_with_what_the_registry_keeps_there(source: Path):
    text = source / "samples.jsonl"
    text.write_text("we went to /data and/data/\n")
    assert files.refusals(source, {Path("/data")}) == []
    text.write_text("/data/artifacts/base/v1")
    assert "line 1" in refusal(source, Path("/data"))


def test_replace_keeps_the_old_content_if_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files.replace(tmp_path / "new" / "a.json", "old")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.replace(tmp_path / "new" / "a.json", "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]
    assert (tmp_path / "new" / "a.json").read_text() == "old"
