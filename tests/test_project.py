"""The project's own files agree with each other and with the code."""

from __future__ import annotations

import ast
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from align.configs import KINDS
from align.configs.base import DatasetConfig
from align.configs.tracking import TrackingConfig
from align.recipe import shipped

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTED_AS = {
    "huggingface-hub": "huggingface_hub",
    "pyyaml": "yaml",
    "rouge-score": "rouge_score",
    "scikit-learn": "sklearn",
}


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()  # type: ignore[index]


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.partition("==") for line in lines if not line.startswith("#")]
    return {_name(name): version for name, _, version in pinned}


def _imports() -> set[str]:
    """Top-level modules that the packages import anywhere, also inside functions."""
    found: set[str] = set()
    for package in ("align", "reward_models"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found


def test_dependencies_are_exactly_what_is_imported() -> None:
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["serve"]]
    declared = {IMPORTED_AS.get(_name(one), _name(one)) for one in asked}
    came_with_pydantic = {"pydantic_core"}
    imported = _imports() - set(sys.stdlib_module_names) - {"align", "reward_models"} - came_with_pydantic
    assert declared == imported


def test_constraints_pin_every_dependency_to_a_plain_version() -> None:
    pins = _pins()
    extras = [one for group in PROJECT["optional-dependencies"].values() for one in group]
    wanted = {_name(one) for one in [*PROJECT["dependencies"], *extras]} - {"align-rlhf"}
    assert wanted <= pins.keys()
    assert pins["torch"] == "2.13.0"
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins.values())


def test_the_changelog_knows_the_version() -> None:
    assert PROJECT["version"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_ci_runs_the_three_targets_and_each_stands_alone() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    commands = re.findall(r"^make .*$", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert commands == ["make test", "make check", "make quickstart"]
    for target in ("test", "check", "quickstart"):
        dry = subprocess.run(
            ["make", "--dry-run", target, "VENV=elsewhere"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert "-m venv elsewhere" in dry
        assert "--constraint constraints.txt" in dry


def test_shipped_recipes_travel_inside_align(tmp_path: Path) -> None:
    """The files of a wheel, as setuptools collects them."""
    places = ["build_py", "--build-lib", str(tmp_path), "egg_info", "--egg-base", str(tmp_path)]
    command = [sys.executable, "setup.py", "--quiet", *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in (tmp_path / "align" / "recipes").glob("*.yaml")} == shipped().keys()
    assert (tmp_path / "align" / "py.typed").is_file()
    assert (tmp_path / "reward_models" / "rules.py").is_file()
    assert not (tmp_path / "recipes").exists()


def _keys(model: type[BaseModel], seen: frozenset[type[BaseModel]] = frozenset()) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        for inner in _models(field.annotation):
            if inner not in seen:
                yield from _keys(inner, seen | {model, inner})


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


@pytest.mark.parametrize("model", [*KINDS.values(), DatasetConfig, TrackingConfig], ids=lambda model: model.__name__)
def test_every_key_of_a_recipe_is_in_the_docs(model: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    words = {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", code)}
    assert set(_keys(model)) <= words
