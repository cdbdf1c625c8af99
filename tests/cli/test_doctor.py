"""`align doctor`: every fault that it is for, planted; and no secret in what it says."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

Align = Callable[..., Result]

SECRET = "0123456789secret"


@pytest.fixture(autouse=True)
def no_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)


def findings(result: Result) -> dict[str, dict[str, Any]]:
    return {found["check"]: found for found in json.loads(result.stdout)}


def test_all_is_well(finished: Path, run_align: Align) -> None:
    result = run_align("doctor", "tiny.yaml", "--json")
    assert result.exit_code == 0, result.output
    found = findings(result)
    assert list(found) == ["python", "align", "libraries", "accelerator", "registry", "disk", "wandb"]
    assert {one["state"] for one in found.values()} == {"ok"}
    assert found["registry"]["message"].startswith("3 artifacts, ")
    assert "tiny needs at most 0 B" in found["disk"]["message"]
    assert "torch 2" in found["libraries"]["message"]
    table = run_align("doctor", "tiny.yaml")
    assert table.exit_code == 0
    assert [line.split()[1] for line in table.stdout.splitlines() if not line.startswith(" ")] == ["ok"] * 7


def test_nothing_there_is_no_problem_and_nothing_is_made(here: Path, run_align: Align) -> None:
    found = findings(run_align("doctor", "--json"))
    assert found["registry"]["message"].endswith("is not there yet; the first run makes it")
    assert not (here / "registry").exists()


def test_a_damaged_artifact_is_named_with_exit_code_3(finished: Path, run_align: Align) -> None:
    path = finished / "registry" / "artifacts" / "sft" / "v1" / "files" / "config.json"
    path.chmod(0o644)
    path.write_text("longer than before, which sizes tell")
    result = run_align("doctor", "--json")
    assert result.exit_code == 3
    assert "sft@v1: files/config.json has 36 bytes" in findings(result)["registry"]["message"]
    assert path.exists()  # it only looks


def test_what_is_left_over_is_told(finished: Path, run_align: Align) -> None:
    for left in ("quarantine/sft", "staging/sft-123", "workspaces/ppo-123/checkpoints/checkpoint-5"):
        (finished / "registry" / left).mkdir(parents=True)
    result = run_align("doctor", "--json")
    assert result.exit_code == 0
    found = findings(result)
    assert {found[name]["state"] for name in ("quarantine", "staging", "workspaces")} == {"note"}
    assert "unfinished, and can be resumed: ppo-123" in found["workspaces"]["message"]


def test_too_little_room(here: Path, run_align: Align, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = (here / "tiny.yaml").read_text(encoding="utf-8")
    made = "base: {kind: pretrain, data: [{dataset: rows, text: '{answer}'}]}"
    (here / "tiny.yaml").write_text(recipe.replace("base: {kind: base, model: ./model}", made), encoding="utf-8")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**12, 10**12, 10**6))
    result = run_align("doctor", "tiny.yaml", "--json")
    assert result.exit_code == 1
    disk = findings(result)["disk"]
    assert disk["state"] == "problem"
    assert disk["message"].startswith("1 MB free at ")
    assert "tiny needs at most 88.7 MB" in disk["message"]  # twice 40 bytes for each of 1,109,120 parameters


def test_a_place_that_cannot_be_written_to(run_align: Align) -> None:
    disk = findings(run_align("doctor", "--registry", "/proc/registry", "--json"))["disk"]
    assert disk["state"] == "problem"
    assert disk["message"] == "/proc cannot be written to: choose another place by --registry"


def test_a_library_that_is_too_old(run_align: Align, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0" if name == "transformers" else real(name))
    result = run_align("doctor", "--json")
    assert result.exit_code == 1
    assert "transformers is 1.0, not >=" in findings(result)["libraries"]["message"]


def test_a_recipe_that_is_not_in_order(here: Path, run_align: Align) -> None:
    assert run_align("doctor", "nothing.yaml").exit_code == 2
    shutil.rmtree(here / "model")
    result = run_align("doctor", "tiny.yaml", "--json")
    assert result.exit_code == 2
    assert "there is no directory ./model" in findings(result)["plan"]["message"]


def test_wandb_reached_and_not(here: Path, run_align: Align, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("WANDB_BASE_URL", f"http://user:{SECRET}@127.0.0.1:{port}")
        result = run_align("doctor", "--json")
        assert result.exit_code == 1
        assert "but there is no key" in findings(result)["wandb"]["message"]
        monkeypatch.setenv("WANDB_API_KEY", SECRET)
        result = run_align("doctor", "--json")
        assert result.exit_code == 0
        assert findings(result)["wandb"]["message"] == f"127.0.0.1:{port} answers; a key is set"
        assert SECRET not in result.output
    result = run_align("doctor", "--json")
    assert result.exit_code == 1
    assert "cannot be reached (Connection refused); use --wandb offline" in findings(result)["wandb"]["message"]
    assert SECRET not in result.output
    monkeypatch.delenv("WANDB_MODE")
    assert findings(run_align("doctor", "--json"))["wandb"]["state"] == "note"


def test_a_host_that_never_answers_is_not_waited_for(
    here: Path, run_align: Align, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: (time.sleep(1), socket.socket())[1])
    monkeypatch.setattr("align.cli.doctor._SECONDS_TO_CONNECT", 0.2)
    began = time.monotonic()
    assert "no answer" in findings(run_align("doctor", "--json"))["wandb"]["message"]
    assert time.monotonic() - began < 5


def test_it_takes_a_few_seconds(here: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "align", "doctor", "tiny.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 20  # two on a quiet machine
