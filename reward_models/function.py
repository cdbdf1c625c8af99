"""A reward model that is your own code: `module:attribute`, or an installed package's entry point."""

from __future__ import annotations

import importlib
import inspect
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from reward_models.base import CheckedModel, RewardError, checked
from reward_models.isolation import contained


def load_attribute(place: str, /, **options: Any) -> CheckedModel:
    """The function, class or object at `module:attribute`; a class is called with `options`.

    Modules of the current directory are found too, as with `python -m`.
    """
    module_name, _, attribute = place.partition(":")
    target: Any = _module(module_name, place)
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise RewardError(f"{place}: {getattr(target, '__name__', target)} has no {part!r}")
        target = getattr(target, part)
    return _ready(target, place, options)


def load_entry_point(entry: EntryPoint, /, **options: Any) -> CheckedModel:
    """What an installed package offers under a name."""
    package = entry.dist.name if entry.dist else "an installed package"
    try:
        with contained(f"reward model {entry.name} of {package}"):
            target = entry.load()
    except (Exception, SystemExit) as error:
        raise RewardError(
            f"reward model {entry.name} of {package} does not import: {entry.value}: {type(error).__name__}: {error}"
        ) from error
    return _ready(target, entry.name, options)


def _ready(target: Any, place: str, options: dict[str, Any]) -> CheckedModel:
    if inspect.isclass(target):
        try:
            with contained(f"reward model {place}"):
                target = target(**options)
        except (Exception, SystemExit) as error:
            raise RewardError(f"{place} could not be made: {type(error).__name__}: {error}") from error
    elif options:
        raise RewardError(f"{place} is not a class, so it takes no options; it was given {', '.join(options)}")
    return checked(target, name=getattr(target, "name", None) or place)


def _module(name: str, place: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        with contained(f"reward model {place}"):
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise RewardError(f"{place}: cannot import {name}: {type(error).__name__}: {error}") from error
