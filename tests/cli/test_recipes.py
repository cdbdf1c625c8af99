"""`align recipes`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from align.recipe import shipped

Align = Callable[..., Result]


def test_recipes_are_listed(run_align: Align) -> None:
    assert "quickstart" in run_align("recipes", "ls").stdout
    listed = {row["name"]: row for row in json.loads(run_align("recipes", "ls", "--json").stdout)}
    assert listed.keys() == shipped().keys()
    assert listed["quickstart"]["stages"] == ["base", "sft", "toxicity", "ppo", "evaluation"]


def test_a_recipe_is_shown_as_it_is(run_align: Align) -> None:
    assert run_align("recipes", "show", "quickstart").stdout == shipped()["quickstart"].read_text(encoding="utf-8")
    result = run_align("recipes", "show", "quikstart")
    assert result.exit_code == 2
    assert "did you mean `quickstart`?" in result.stderr


def test_a_recipe_is_copied_but_never_over_another_file(here: Path, run_align: Align) -> None:
    assert run_align("recipes", "copy", "quickstart", "mine.yaml").exit_code == 0
    assert (here / "mine.yaml").read_bytes() == shipped()["quickstart"].read_bytes()
    again = run_align("recipes", "copy", "quickstart", "mine.yaml")
    assert again.exit_code == 2
    assert "mine.yaml exists already" in again.stderr
    assert run_align("recipes", "copy", "quickstart", ".").exit_code == 0
    assert (here / "quickstart.yaml").is_file()
    assert run_align("recipes", "copy", "quickstart", "no/such/x.yaml").exit_code == 2
