"""A YAML file as plain values that know their lines, with `${env:NAME}` filled in and `--set` overrides applied.

Only what `yaml.safe_load` allows is read. Beyond it: a key given twice is refused, keys are always text (`0: no` is the
key "0"), `1e-4` is a number, and a date is text.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

from align.errors import UsageError

KeyPath = tuple[str | int, ...]

_ENVIRONMENT_VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_MOST_VALUES = 100_000
"""Aliases can make a small file mean a huge one."""


@dataclass
class Document:
    """The values of a recipe and where each was written. Problems are collected, not raised, so that all are shown."""

    source: str
    """The file, as people call it."""
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    """Where a value was written: `recipe.yaml:12`, or `--set stages.sft.seed=3`."""
    raw_overrides: dict[KeyPath, str] = field(default_factory=dict)
    """The text of each overridden value, for fields that want text where YAML reads a number."""
    as_written: dict[str, str] = field(default_factory=dict)
    """From a value with its environment variables filled in to what the recipe says."""
    problems: list[str] = field(default_factory=list)

    def where(self, path: KeyPath) -> str:
        """The place of the value at `path`, or of the nearest value around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, f"{self.source}:1")

    def problem(self, path: KeyPath, message: str) -> None:
        """Note something wrong with the value at `path`."""
        key = dotted(path)
        self.problems.append(f"{self.where(path)}: {key}: {message}" if key else f"{self.where(path)}: {message}")

    def raise_problems(self) -> None:
        """Raise everything that was found, once each, in the order of the file.

        Raises:
            UsageError: there are problems.
        """
        if self.problems:
            raise UsageError("\n".join(sorted(dict.fromkeys(self.problems), key=_by_line)))


def dotted(path: Iterable[str | int]) -> str:
    """A key path as overrides spell it: `stages.sft.data.0.limit`."""
    return ".".join(map(str, path))


def suggest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A did-you-mean sentence, or nothing."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean `{matches[0]}`?" if matches else ""


def parse(text: str, source: str, overrides: Sequence[str] = ()) -> Document:
    """Read YAML text and apply overrides to it.

    Raises:
        UsageError: the text is not YAML, or is no mapping of keys. Everything else is left in `problems`.
    """
    document = Document(source)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(f"{source}:1: a recipe is a mapping of keys (name:, stages:, ...), and this is not one")
        document.values = _Reader(loader, document).mapping(node, (), ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UsageError(f"{source}:{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{source}: not valid YAML: {error}") from None
    for override in overrides:
        _apply(document, override)
    _fill_in_environment(document)
    return document


class _Loader(yaml.SafeLoader):
    """`yaml.safe_load`, but `1e-4` is a number and `2026-01-31` is text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class _Reader:
    """Turns nodes into values, noting the line of each."""

    def __init__(self, loader: _Loader, document: Document) -> None:
        self._loader, self._document = loader, document
        self._checked: set[yaml.Node] = set()

    def value(self, node: yaml.Node, path: KeyPath, around: tuple[yaml.Node, ...]) -> Any:
        if node in around:
            raise UsageError(f"{self._place(node)}: {dotted(path)}: this alias contains itself")
        if len(self._document.places) > _MOST_VALUES:
            raise UsageError(f"{self._document.source}: more than {_MOST_VALUES} values; is an alias repeated?")
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self.mapping(node, path, around)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            items = []
            for index, item in enumerate(node.value):
                self._document.places[(*path, index)] = self._place(item)
                items.append(self.value(item, (*path, index), (*around, node)))
            return items
        if isinstance(node, yaml.ScalarNode):
            try:
                return self._loader.construct_object(node)
            except yaml.constructor.ConstructorError:
                pass  # a tag of Python objects, or an unknown one
        self._document.problem(path, f"the tag {node.tag} is not allowed in a recipe")
        return None

    def mapping(self, node: yaml.MappingNode, path: KeyPath, around: tuple[yaml.Node, ...]) -> dict[str, Any]:
        if node not in self._checked:  # once: an alias leads here again, after merge keys have been resolved
            self._checked.add(node)
            self._refuse_duplicates(node, path)
            self._loader.flatten_mapping(node)  # `<<: *defaults`
        values: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(f"{self._place(key)}: {dotted(path)}: a key has to be plain text")
            self._document.places[(*path, key.value)] = self._place(key)
            values[key.value] = self.value(item, (*path, key.value), (*around, node))
        return values

    def _refuse_duplicates(self, node: yaml.MappingNode, path: KeyPath) -> None:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                self._document.problems.append(
                    f"{self._place(key)}: {dotted((*path, key.value))}: this key was already given in line"
                    f" {lines[key.value]}; remove one of the two"
                )
            elif isinstance(key, yaml.ScalarNode):
                lines[key.value] = key.start_mark.line + 1

    def _place(self, node: yaml.Node) -> str:
        return f"{self._document.source}:{node.start_mark.line + 1}"


def _apply(document: Document, override: str) -> None:
    """Set one `a.b.0.c=value`. Missing mappings on the way are made, but no stage or data set by way of its keys."""
    name, equals, text = override.partition("=")
    place = f"--set {override}"
    if not equals or not name.strip():
        document.problems.append(f"{place}: an override is key.path=value, for example stages.sft.train.max_steps=10")
        return
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError:
        value = text
    path: KeyPath = ()
    parts, target = name.strip().split("."), cast(Any, document.values)
    while parts:
        key: str | int
        key, taken = _next_key(target, parts)
        path, parts = (*path, key), parts[taken:]
        problem = _cannot_enter(target, key, path, last=not parts)
        if problem:
            document.problems.append(f"{place}: {dotted(path)}: {problem}")
            return
        if not parts:
            target[key] = value
        elif isinstance(target, dict) and target.get(key) is None:
            target[key] = {}
        target = target[key]
        if path not in document.places or not parts:
            document.places[path] = place
    for known in [known for known in document.places if known[: len(path)] == path and known != path]:
        del document.places[known]
    document.raw_overrides[path] = text


def _next_key(target: Any, parts: Sequence[str]) -> tuple[str | int, int]:
    """The next key and how many dot-separated parts it takes: a stage may be called `sft.small`."""
    if isinstance(target, list):
        return (int(parts[0]) if parts[0].isdigit() else parts[0]), 1
    if isinstance(target, dict):
        for taken in range(len(parts), 0, -1):
            if ".".join(parts[:taken]) in target:
                return ".".join(parts[:taken]), taken
    return parts[0], 1


def _cannot_enter(target: Any, key: str | int, path: KeyPath, *, last: bool) -> str | None:
    if isinstance(target, list):
        if not isinstance(key, int) or key >= len(target):
            return f"a list of {len(target)} takes an index from 0 to {len(target) - 1}, not {key!r}"
        return None
    if not isinstance(target, dict):
        around = path[:-1]
        if around[-1] in ("dataset", "exclude"):
            return f"{dotted(around)} is the name of a data set: set datasets.{target}.{key} instead"
        return f"{dotted(around)} is {target!r}, not a mapping, and has no keys to set"
    if len(path) == 2 and path[0] in ("stages", "datasets") and key not in target and not last:
        what = "stage" if path[0] == "stages" else "data set"
        known = ", ".join(target) or "none"
        return f"no {what} is called {key!r}{suggest(str(key), target)} (known: {known})"
    return None


def _fill_in_environment(document: Document) -> None:
    def filled(value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: filled(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [filled(item, (*path, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${env:" not in value:
            return value
        for variable in _ENVIRONMENT_VARIABLE.findall(value):
            if not os.environ.get(variable):  # an empty one would make `/train.csv` of `${env:DATA}/train.csv`
                document.problem(
                    path, f"environment variable {variable} is not set; set it first: export {variable}=..."
                )
        result = _ENVIRONMENT_VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), value)
        if result != value:
            document.as_written[result] = value
        return result

    document.values = filled(document.values, ())


def _by_line(problem: str) -> tuple[int, int]:
    match = re.match(r".*?:(\d+): ", problem)
    return (1, 0) if problem.startswith("--set") or not match else (0, int(match[1]))
