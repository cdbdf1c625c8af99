"""The README's commands and code, run in its order at tiny size. (`make quickstart` itself runs in `.ci/run`.)"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from align.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TINY = (ROOT / "tests" / "recipes" / "tiny" / "quickstart.txt").read_text(encoding="utf-8").splitlines()
TINIER = ["stages.sft.train.max_steps=8", "stages.ppo.ppo.total_episodes=16", "stages.evaluation.metrics=[toxicity]"]
ON_THE_HUB = "hub:facebook/roberta-hate-speech-dynabench-r4-target"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _commands() -> list[list[str]]:
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word_tokenizer: Any) -> Path:
    """A working directory with the files that the README tells to write, and a classifier in place of the Hub's."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALIGN_REGISTRY", raising=False)
    for block in _blocks("yaml"):
        (tmp_path / f"{re.match('name: (.*)', block)[1]}.yaml").write_text(block, encoding="utf-8")  # type: ignore[index]
    for block in _blocks("python"):
        if name := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / name[1]).write_text(block, encoding="utf-8")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = {"id2label": {0: "nothate", 1: "hate"}, "label2id": {"nothate": 0, "hate": 1}}
    config = RobertaConfig(vocab_size=50, pad_token_id=0, max_position_embeddings=130, **shape, **labels)
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "roberta")
    word_tokenizer.save_pretrained(tmp_path / "roberta")
    return tmp_path


def test_the_commands_and_the_code_do_what_the_readme_says(here: Path) -> None:
    said: dict[str, str] = {}
    for command in _commands():
        if command[0] != "align":
            assert command[:2] in (["git", "clone"], ["make", "quickstart"])
            continue
        arguments = [argument.replace(ON_THE_HUB, "path:./roberta") for argument in command[1:]]
        if "quickstart" in arguments:  # what the README sets comes last, and so holds
            small = [part for line in [*TINY, *TINIER] if not line.startswith("#") for part in ("--set", line)]
            arguments = [arguments[0], "quickstart", *small, *arguments[2:]]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (command, result.output)
        said[" ".join(command)] = result.stdout
    assert "mine.yaml is fine: base -> sft -> toxicity -> ppo -> evaluation" in said["align check mine.yaml"]
    (planned,) = (text for command, text in said.items() if command.startswith("align plan quickstart"))
    actions = {line.split()[0]: line.split()[2] for line in planned.splitlines()[2:]}
    assert actions == {"base": "cached", "sft": "cached", "toxicity": "cached", "ppo": "run", "evaluation": "run"}
    assert "ppo@v5" in said["align registry ls"]  # the recipe's own, another kl_coef, and three other rewards
    for block in _blocks("python"):
        if not block.startswith("#"):
            names: dict[str, Any] = {}
            exec(block, names)
            assert names["model"].config.vocab_size == len(names["tokenizer"])


def test_what_the_readme_links_to_is_there() -> None:
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{document.name}: {target}"
