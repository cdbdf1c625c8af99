"""Bad input to a real recipe: one clear message, exit code 2, nothing published, no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stages.sft.trian={}"], "stages.sft.trian: unknown key; did you mean `train`?"),
        (
            ["datasets.dialogues={path: nothing.jsonl}"],
            "recipes/quickstart.yaml:{line}: stages.base.data.0: data file nothing.jsonl does not exist",
        ),
        (["stages.ppo.policy=ppo"], "stages.ppo.policy: a stage cannot take itself as input"),
        (
            ["stages.toxicity.labels.positive=polite"],
            "stages.toxicity.labels.positive: 'polite' is not among the labels of the data: nontoxic (60 rows), toxic",
        ),
        (
            ["datasets.dialogues={path: empty.jsonl}"],
            "stages.base.data.0: empty.jsonl: none of 0 rows left; loosen the filters or fill the file (the same at ",
        ),
        (
            ["datasets.sentences={path: kind.jsonl}"],
            "stages.toxicity.data: all rows have one label, nontoxic (20 rows)",
        ),
        (
            [
                "datasets.same={path: equal.jsonl}",
                "stages.toxicity={kind: reward, model: base, pairs: [{dataset: same, chosen: '{a}', rejected: '{b}'}]}",
            ],
            "stages.toxicity.pairs.0: equal.jsonl: in 20 of 20 pairs the chosen and the rejected response are equal",
        ),
        (["registry=file"], "/file is not a directory"),
        (["stages.base.max_length=1024"], "stages.base: max_length 1024 is more than size.max_position_embeddings 512"),
        (["datasets.dialogues={path: empty.jsonl, split: test}"], "datasets.dialogues: `split` does not apply to"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_bad_input_is_refused_before_anything_runs(
    new_run: Callable[[str], Any], command: str, overrides: list[str], said: str
) -> None:
    run = new_run("quickstart")
    for file in ("empty.jsonl", "file"):
        (run.directory / file).write_text("", encoding="utf-8")
    for file, row in (("kind", {"text": "Thanks", "label": "nontoxic"}), ("equal", {"a": "Yes.", "b": "Yes."})):
        (run.directory / f"{file}.jsonl").write_text(f"{json.dumps(row)}\n" * 20, encoding="utf-8")
    result = run.align(command, *(part for override in overrides for part in ("--set", override)))
    assert result.exit_code == 2
    place, _, problem = said.partition("{line}")
    assert place in result.stderr
    assert problem in result.stderr
    assert "Traceback" not in result.stderr
    assert "pydantic" not in result.stderr
    assert not (run.directory / "registry").exists()
    assert not (run.directory / "wandb").exists()
