"""From a file to a `Recipe`: names of data sets filled in, every stage validated, every reference checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, Field, ValidationError

from align.configs import KINDS, StageConfig
from align.configs.base import Config, DatasetConfig, Seed
from align.configs.tracking import TrackingConfig
from align.errors import UsageError
from align.recipe import references
from align.recipe.document import Document, KeyPath, parse, suggest
from align.recipe.hints import explain

Model = TypeVar("Model", bound=BaseModel)

_FREE_KEYS = {"where", "names", "labels", *(key for keys in references.REWARD_KEYS.values() for key in keys)}
"""Mappings whose keys are the user's own."""


class _Header(Config):
    """What stands at the top of a recipe. Data sets and stages are validated one by one."""

    name: str = Field(min_length=1)
    description: str | None = None
    seed: Seed = 0
    registry: str | None = None
    tracking: TrackingConfig = TrackingConfig()
    datasets: dict[str, Any] = {}
    stages: dict[str, Any] = Field(min_length=1)


@dataclass(frozen=True)
class Recipe:
    """A valid recipe. Its stages stand in the order of the file; names of data sets have been filled in."""

    name: str
    path: Path
    stages: Mapping[str, StageConfig]
    seed: int = 0
    description: str | None = None
    registry: str | None = None
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    datasets: Mapping[str, DatasetConfig] = field(default_factory=dict)
    as_written: Mapping[str, str] = field(default_factory=dict)
    """From a value that came from the environment to the recipe's own words for it (`${env:ALIGN_DATA}/train.csv`)."""
    places: Mapping[KeyPath, str] = field(default_factory=dict, repr=False)

    def where(self, *path: str | int) -> str:
        """File and line of a key, or of the nearest one around it: `recipe.yaml:12`."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, str(self.path))


def shipped() -> dict[str, Path]:
    """The recipes that come with the package: name -> file."""
    package = Path(__file__).parents[1]  # in a wheel they lie inside it, in a clone beside it
    for directory in (package / "recipes", package.parent / "recipes"):
        files = sorted(directory.glob("*.yaml"))
        if files:
            return {file.stem: file for file in files}
    return {}


def find(recipe: str | Path) -> Path:
    """The file of a recipe, given as a path or as a shipped recipe's name.

    Raises:
        UsageError: there is no such file and no such name.
    """
    path, known = Path(recipe).expanduser(), shipped()
    if path.is_file():
        return path
    if str(recipe) in known:
        return known[str(recipe)]
    if path.is_dir():
        raise UsageError(f"{recipe} is a directory; a recipe is a YAML file")
    hint = suggest(path.stem, known) if len(path.parts) == 1 else ""
    raise UsageError(
        f"there is no recipe file {recipe}, and no shipped recipe of that name{hint}"
        f" (shipped: {', '.join(known) or 'none'})"
    )


def load(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        recipe: a path, or the name of a shipped recipe.
        overrides: `key.path=value` each, as `--set` takes them.

    Raises:
        UsageError: with every problem found, each as `file:line: key.path: what is wrong`.
    """
    path = find(recipe)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    document = parse(text, str(path), overrides)
    header = _validated(document, _Header, document.values, ())
    datasets = _datasets(document)
    stages = _stages(document, header.seed if header else 0)
    names = [str(name) for name in _mapping(document.values.get("stages"))]
    for place, problem in references.problems(stages, names):
        document.problem(place, problem)
    document.raise_problems()
    assert header is not None  # otherwise there were problems
    return Recipe(
        name=header.name,
        path=path,
        stages=stages,
        seed=header.seed,
        description=header.description,
        registry=header.registry,
        tracking=header.tracking,
        datasets=datasets,
        as_written=dict(document.as_written),
        places=dict(document.places),
    )


def _datasets(document: Document) -> dict[str, DatasetConfig]:
    definitions = _mapping(document.values.get("datasets"))
    valid: dict[str, DatasetConfig] = {}
    for name in definitions:
        filled, named = _with_datasets(document, definitions[name], ("datasets", name), definitions)
        config = _validated(document, DatasetConfig, filled, ("datasets", name), ignore=named)
        if config:
            valid[name] = config
    return valid


def _stages(document: Document, seed: int) -> dict[str, StageConfig]:
    """The stages of a known kind. Where the document has problems, some of them are not valid."""
    definitions = _mapping(document.values.get("datasets"))
    stages: dict[str, StageConfig] = {}
    for name, given in _mapping(document.values.get("stages")).items():
        place: KeyPath = ("stages", name)
        if not references.NAME.fullmatch(name):
            document.problem(
                place, "a stage's name is its artifact's: at most 64 lowercase letters, digits, `.`, `_` and `-`"
            )
        if not isinstance(given, dict):
            document.problem(place, "should be a mapping of keys, with kind: first")
            continue
        kind = given.get("kind")
        if kind not in KINDS:
            said = "kind is missing" if kind is None else f"there is no kind {kind!r}{suggest(str(kind), KINDS)}"
            document.problem((*place, "kind") if "kind" in given else place, f"{said} (kinds: {', '.join(KINDS)})")
            continue
        filled, named = _with_datasets(document, given, place, definitions)
        config = _validated(document, KINDS[kind], {"seed": seed, **filled}, place, ignore=named)
        stages[name] = config or _unvalidated(KINDS[kind], filled)
    return stages


def _unvalidated(model: type[StageConfig], given: Mapping[str, Any]) -> StageConfig:
    """Enough of a stage with problems for its references to be checked as well."""
    text = {key: value for key, value in given.items() if isinstance(value, str) and key in model.model_fields}
    unset = dict.fromkeys(model.model_fields)
    return cast(StageConfig, cast(Any, model).model_construct(**{**unset, "after": [], **text}))


def _with_datasets(
    document: Document, value: Any, place: KeyPath, definitions: Mapping[str, Any], inside: tuple[str, ...] = ()
) -> tuple[Any, list[KeyPath]]:
    """A copy of `value` in which `dataset: name` and `exclude: name` are the definitions of those data sets.

    Returns:
        The copy, and the places that were filled in: what is wrong there was or will be said of the definition.
    """
    named: list[KeyPath] = []

    def fill(value: Any, place: KeyPath, inside: tuple[str, ...]) -> Any:
        if isinstance(value, list):
            return [fill(item, (*place, index), inside) for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        filled = {}
        for key, item in value.items():
            here = (*place, key)
            free = _FREE_KEYS & set(place[2:])
            if key not in ("dataset", "exclude") or not isinstance(item, str) or free:
                filled[key] = fill(item, here, inside)
                continue
            named.append(here)
            if item in inside or place == ("datasets", item):
                document.problem(here, f"data set {item!r} excludes itself")
            elif item not in definitions:
                known = ", ".join(definitions) or "none"
                document.problem(here, f"no data set is called {item!r}{suggest(item, definitions)} (known: {known})")
            else:
                filled[key] = fill(definitions[item], here, (*inside, item))
                continue
            filled[key] = {}
        return filled

    return fill(value, place, inside), named


def _validated(
    document: Document, model: type[Model], values: Any, place: KeyPath, ignore: Iterable[KeyPath] = ()
) -> Model | None:
    """An instance of `model`, or None with the problems noted in the document."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
    raw = {path[len(place) :]: text for path, text in document.raw_overrides.items() if path[: len(place)] == place}
    wants_text = [
        item["loc"] for item in found if item["type"] in ("string_type", "literal_error") and item["loc"] in raw
    ]
    if wants_text:  # `--set stages.base.revision=1234567` means the text
        for location in wants_text:
            values = _replaced(values, location, raw.pop(location))
            del document.raw_overrides[(*place, *location)]
        return _validated(document, model, values, place, ignore)
    for item in found:
        path, message = explain(item, model, values)
        whole = (*place, *path)
        misplaced = item["type"] == "extra_forbidden"
        if not any(whole[: len(known)] == known and not (misplaced and whole == known) for known in ignore):
            document.problem(whole, message)
    return None


def _replaced(values: Any, path: KeyPath, value: Any) -> Any:
    if not path:
        return value
    copy = values.copy()
    copy[path[0]] = _replaced(values[path[0]], path[1:], value)
    return copy


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
