"""From what a recipe says of a reward model to the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from reward_models.base import CheckedModel, RewardError, RewardModel, checked
from reward_models.calling import Scorer
from reward_models.endpoint import Endpoint
from reward_models.nesting import rebuilt

Spec = str | Path | Mapping[str, Any] | Scorer | RewardModel
"""A directory, `path:./dir`, `hub:org/name@revision`, `module:attribute`, `http://host:port`, the name of a built-in or
installed one, a reward model or function itself, `{model: a name or mapping, …its options}`, or
`{combine: minimum, of: [spec, …], weights: […]}`."""

BUILTIN = {
    "rules": ("reward_models.rules", "Rules"),
    "overlap": ("reward_models.overlap", "Overlap"),
    "llm": ("reward_models.llm", "LLM"),
}
"""Where the reward models of this package are."""
ENTRY_POINTS = "align.reward_models"
"""The group under which an installed package offers reward models by name."""


def plugins() -> dict[str, metadata.EntryPoint]:
    """The reward models that installed packages offer, by name; of two that share a name, the one found first."""
    return {entry.name: entry for entry in reversed([*metadata.entry_points(group=ENTRY_POINTS)])}


def builtin_names() -> frozenset[str]:
    """The names that stand for a reward model of this package, or of an installed one, rather than for a directory."""
    return frozenset([*BUILTIN, *plugins()])


def load(spec: Spec, /, **options: Any) -> CheckedModel:
    """The reward model that `spec` describes, with its scores checked.

    Args:
        spec: see `Spec`.
        options: what the kind of model takes, before those that stand in `spec` itself. Every kind takes `name`,
            `probes` (pairs: better response, worse response) and `normalize` (see `normalized`).
            A classifier: `label`, `names`, `transform`, `sign`, `input`, `max_length`, `append_eos`, `batch_tokens`,
            `device`, `torch_compile`. An address: `allow_remote`, `key`, `timeout`, `retries`, `batch_size`. `rules`:
            its rules.

    Raises:
        RewardError: nothing can be loaded from `spec`; the message says why.
    """
    if isinstance(spec, Mapping):
        if strange := [key for key in spec if not isinstance(key, str)]:
            raise RewardError(f"options of a reward model must have text as names: put {strange[0]!r} in quotes")
        return _load_mapping({**options, **spec})
    if not isinstance(spec, str | Path):
        return _finished(options, lambda rest, name: checked(_made(str(spec), lambda: spec, rest)))
    return _finished(options, lambda rest, name: _load_named(str(spec), rest, name))


def located(spec: Spec, directories: Mapping[str, Path]) -> Spec:
    """`spec` with every name that stands in `directories` replaced by the directory, its own name kept for logs."""
    if isinstance(spec, Mapping):
        if isinstance(spec.get("model"), str) and spec["model"] in directories:
            return {"name": _shown(spec["model"]), **spec, "model": directories[spec["model"]]}
        return rebuilt(spec, lambda inner: located(inner, directories))
    if isinstance(spec, str) and spec in directories:
        return {"name": _shown(spec), "model": directories[spec]}
    return spec


def _load_mapping(spec: dict[str, Any]) -> CheckedModel:
    if ("model" in spec) == ("combine" in spec):
        raise RewardError(f"a reward model is given by `model:` or by `combine:`, but this has {sorted(spec)}")
    if "model" in spec:
        model = spec.pop("model")
        if isinstance(model, Mapping):  # options of its own; around it stands what every kind takes
            return _finished(spec, lambda rest, name: _made("model", lambda: load(model), rest))
        if not isinstance(model, str | Path):
            raise RewardError(f"`model:` of a reward must be a name or an address, not {model!r}")
        return load(model, **spec)
    from reward_models.combined import Combined

    if not isinstance(spec.get("of"), list):
        raise RewardError(f"combine: {spec['combine']} needs a list of reward models under `of:`")
    for member in spec["of"]:
        if not (isinstance(member, str | Path | Mapping) or callable(member) or hasattr(member, "score")):
            raise RewardError(f"`of:` must list reward models, each by a name, an address or a mapping, not {member!r}")
    members = [load(member) for member in spec.pop("of")]
    return _finished(spec, lambda rest, name: _made("combine", Combined, {"members": members, "name": name, **rest}))


def _finished(options: dict[str, Any], make: Callable[[dict[str, Any], str | None], Any]) -> CheckedModel:
    """What `make` gives for the options of its own kind and a name, with what every kind takes put around it."""
    rest = dict(options)
    name, probes, normalize = (rest.pop(option, None) for option in ("name", "probes", "normalize"))
    model = checked(make(rest, name), name, probes)
    if normalize is None:
        return model
    from reward_models.normalized import Normalized

    return checked(Normalized(model, normalize))


def _load_named(place: str, options: dict[str, Any], name: str | None) -> Any:
    if not place.removeprefix("path:"):
        raise RewardError("a reward model's name is empty; the working directory is written '.'")
    if place in BUILTIN:
        module, attribute = BUILTIN[place]
        return _made(place, getattr(import_module(module), attribute), options)
    if place.lower().startswith(("http://", "https://")):
        from reward_models.endpoint import shown_address
        from reward_models.remote import Remote

        _refuse(options, "address", place)
        return _made(shown_address(place), Remote, {"address": place, **options})
    if place.startswith("hub:"):
        repository, _, revision = place.removeprefix("hub:").partition("@")
        if revision:
            _refuse(options, "revision", place)
        return _trained(repository, {"revision": revision or None, **options}, name or place)
    if entry := plugins().get(place):
        from reward_models.function import load_entry_point

        return load_entry_point(entry, **options)
    directory = Path(place.removeprefix("path:")).expanduser()
    if _is_dir(directory):
        if not (directory / "config.json").is_file():
            raise RewardError(f"no reward model at {place!r}: that directory holds no config.json")
        return _trained(str(directory), options, name or directory.name)
    if ":" in place and not place.startswith("path:"):
        from reward_models.function import load_attribute

        return load_attribute(place, **options)
    raise RewardError(
        f"no reward model at {place!r}: it is not a directory here, not a module:attribute and not one of "
        f"{', '.join(sorted(builtin_names()))}. A model of the Hugging Face Hub is written "
        f"hub:{place.removeprefix('path:')}"
    )


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name longer than the file system has
        return False


def _shown(name: str) -> str:
    """A name for logs and reports, without the directories that only this machine has."""
    return Path(name.removeprefix("path:")).name if name.startswith("path:") else name


def _refuse(options: Mapping[str, Any], taken: str, place: str) -> None:
    if taken in options:
        raise RewardError(f"reward model {_shown(place)}: `{taken}:` is said by its name already; remove it")


def _trained(source: str, options: dict[str, Any], name: str) -> Any:
    from reward_models.classifier import Classifier, declaration
    from reward_models.preference import Preference, is_preference
    from reward_models.pretrained import configuration

    _refuse(options, "source", name)
    revision = options.get("revision")
    given = {key: value for key, value in options.items() if value is not None}
    said = {**declaration(source, name, revision), **given}
    # A lone logit that is given a name tells that of a response, unless its prompt is asked for too.
    of_response = said.get("names") and said.get("input", "response") == "response"
    kind = Preference if not of_response and is_preference(configuration(source, name, revision)) else Classifier
    return _made(name, kind.load, {"source": source, "name": name, **options})


def _made(what: str, make: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    signature = inspect.signature(make)
    handed_on = inspect.signature(Endpoint) if "options" in signature.parameters else None
    try:
        beyond = signature.bind(**options).arguments.get("options", {})
        if handed_on:
            handed_on.bind_partial(**beyond)
    except TypeError as error:
        known = [*signature.parameters, *(handed_on.parameters if handed_on else ())]
        taken = [name for name in dict.fromkeys(known) if name not in ("source", "members", "options")]
        raise RewardError(f"reward model {what}: {error}; it takes {', '.join(taken) or 'no options'}") from error
    try:
        return make(**options)
    except TypeError as error:  # an option of a wrong type
        raise RewardError(f"reward model {what}: {error}") from error
