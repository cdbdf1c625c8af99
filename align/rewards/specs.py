"""From what a command line says of a reward model to the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import reward_models
from align.errors import UsageError
from align.recipe.references import parse_reference
from align.registry import Registry
from reward_models import CheckedModel, RewardError, nesting

_YAML = (".yaml", ".yml")


def load(text: str, registry: Registry, **options: Any) -> CheckedModel:
    """The reward model that `text` means: all that a recipe's `reward:` may say, or a YAML file that holds it.

    A name is an artifact of the registry (`toxicity`, `toxicity@v2`), a built-in reward (`rules`) or a directory.

    Raises:
        UsageError: there is no such model, or it cannot be loaded.
        VerificationError: its artifact is damaged.
    """
    spec = parse(text)
    directories = {place: path for place in places(spec) if (path := _artifact(place, registry)) is not None}
    try:
        return reward_models.load(reward_models.located(spec, directories), **options)
    except RewardError as error:
        raise UsageError(str(error)) from error


def parse(text: str) -> str | dict[str, Any]:
    """A spec as a recipe would hold it: `{model: …}` and the content of a YAML file are mappings, all else is a name.

    Raises:
        UsageError: not YAML, or neither a name nor a mapping.
    """
    source, content = "MODEL", text
    if text.endswith(_YAML):
        source = text
        try:
            content = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{text}: cannot be read: {error}") from error
    elif not text.lstrip().startswith("{"):
        return text
    try:
        spec = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise UsageError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(spec, str | dict) or not spec:
        raise UsageError(f"{source} must hold a reward, as in {{model: rules, repetition: {{}}}}")
    return spec


def places(spec: object) -> Iterator[str]:
    """Every name, reference or address in a spec."""
    return (inner for _, inner in nesting.walk(spec) if isinstance(inner, str))


def _artifact(place: str, registry: Registry) -> Path | None:
    """The files of the artifact that `place` refers to; None where it is no artifact."""
    reference = parse_reference(place)
    if reference.kind == "registry":
        return _verified(f"{reference.name}@{reference.version or 'latest'}", registry)
    if reference.kind == "stage" and not (place in reward_models.builtin_names() or _is_model(place)):
        if "/" in place:
            raise UsageError(f"there is no directory {place}; a model of the Hugging Face Hub is written hub:{place}")
        return _verified(place, registry)
    return None


def _is_model(place: str) -> bool:
    """Whether this is a directory that is meant; an empty one does not hide an artifact of its name."""
    directory = Path(place).expanduser()
    return directory.is_dir() and ("/" in place or not place.strip(".") or (directory / "config.json").is_file())


def _verified(reference: str, registry: Registry) -> Path:
    artifact = registry.resolve(reference)
    registry.check(artifact)
    return artifact.path


@dataclass(frozen=True)
class Available:
    """Something that can stand where a reward model is asked for."""

    name: str
    source: str
    """`built-in`, `plugin` or `artifact`."""
    detail: str


def available(registry: Registry) -> list[Available]:
    """Built-in rewards, installed plugins (entry points in the group `align.reward_models`) and reward artifacts."""
    builtin, plugins = reward_models.BUILTIN, reward_models.plugins()
    found = [Available(name, "built-in", f"{{model: {name}, …}}") for name in sorted(builtin)]
    found += [Available(name, "plugin", entry.value) for name, entry in plugins.items() if name not in builtin]
    for artifact in registry.artifacts():
        if artifact.manifest.kind == "reward":
            found.append(Available(artifact.reference, "artifact", f"made {artifact.manifest.created}"))
    return found
