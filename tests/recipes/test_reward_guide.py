"""What docs/reward_models.md says: its code is loaded, its commands are run, at tiny size and in its order."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import reward_models
from align.cli import app

GUIDE = (Path(__file__).parents[2] / "docs" / "reward_models.md").read_text(encoding="utf-8")
TWO_UPDATES = ("--set", "stages.ppo.ppo.total_episodes=16", "--wandb", "disabled")

pytestmark = pytest.mark.xdist_group("quickstart")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def quickstart(finished: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The finished quickstart, and the guide's own reward beside it."""
    directory = tmp_path_factory.mktemp("guide")
    shutil.copytree(finished("quickstart").directory / "registry", directory / "registry")
    (block,) = _blocks("python")
    (directory / "brief.py").write_text(block)
    return type(finished("quickstart"))("quickstart", directory)


def _commands() -> list[list[str]]:
    return [shlex.split(line, comments=True)[1:] for block in _blocks("sh") for line in block.splitlines()]


def test_rewards_swap_and_combine(quickstart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(quickstart.directory))
    runs = [arguments for arguments in _commands() if arguments[0] == "run" and "8123" not in str(arguments)]
    assert len(runs) == 4
    for command, recipe, *more in runs:
        result = quickstart.align(command, *more, *TWO_UPDATES)
        assert (recipe, result.exit_code) == ("quickstart", 0), result.output


def test_a_reward_is_checked_and_served(quickstart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("align.cli.reward")
    monkeypatch.syspath_prepend(str(quickstart.directory))
    monkeypatch.chdir(quickstart.directory)
    (checked,) = (arguments for arguments in _commands() if arguments[:2] == ["reward", "check"])
    result = CliRunner().invoke(app, checked)
    assert result.exit_code == 0, result.output
    served, asked = _commands()[-2:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "align", *(argument.replace("8123", str(port)) for argument in served)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not _listens(port):
            assert server.poll() is None, server.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        command, _, *more = (argument.replace("8123", str(port)) for argument in asked)
        result = quickstart.align(command, *more, *TWO_UPDATES)
        assert result.exit_code == 0, result.output
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)


def test_what_the_guide_writes_down_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    (block,) = _blocks("yaml")
    assert reward_models.load(yaml.safe_load(block)).describe()["range"] == [1.0, 5.0]
    rules = re.findall(r"^\| `(\w+: \{.*?\})` \|", GUIDE, re.MULTILINE)
    described = {}
    for rule in rules:
        described |= reward_models.load({"model": "rules", **yaml.safe_load(rule)}).describe()["rules"]
    from reward_models.rules import FORMS, RULES

    assert described.keys() == RULES.keys()
    assert all(f"`{form}`" in GUIDE for form in FORMS)
    (languages,) = re.findall(r"this language \(`(.*?)`\)", GUIDE)
    from reward_models.language import LANGUAGES

    assert languages.split() == list(LANGUAGES)
    assert reward_models.builtin_names() <= set(re.findall(r"model: (\w+)", GUIDE))


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
