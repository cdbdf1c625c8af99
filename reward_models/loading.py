"""From what a recipe says of a reward model to the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from reward_models.base import CheckedModel, RewardError, checked

Spec = str | Path | Mapping[str, Any]
"""A directory, `path:./dir`, `hub:org/name@revision`, `module:attribute`, `http://host:port`, the name of a built-in,
`{model: any of these, …its options}`, or `{combine: minimum, of: [spec, …], weights: […]}`."""

_BUILTIN = {"rules": ("reward_models.rules", "Rules")}


def builtin_names() -> frozenset[str]:
    """The names that stand for a reward model of this package rather than for a directory."""
    return frozenset(_BUILTIN)


def load(spec: Spec, **options: Any) -> CheckedModel:
    """The reward model that `spec` describes, with its scores checked.

    Args:
        spec: see `Spec`.
        options: what the kind of model takes, before those that stand in `spec` itself; every kind takes `name`.
            A classifier: `label`, `names`, `transform`, `sign`, `input`, `max_length`, `append_eos`, `batch_tokens`,
            `device`. An address: `allow_remote`, `timeout`, `retries`, `batch_size`. `rules`: each rule's settings.

    Raises:
        RewardError: nothing can be loaded from `spec`; the message says why.
    """
    if isinstance(spec, Mapping):
        return _load_mapping({**options, **spec})
    name = options.pop("name", None)
    place = str(spec)
    if place in _BUILTIN:
        module, attribute = _BUILTIN[place]
        return checked(_made(place, getattr(import_module(module), attribute), options), name)
    if place.startswith(("http://", "https://")):
        from reward_models.remote import Remote

        return checked(_made(place, Remote, {"address": place, **options}), name)
    if place.startswith("hub:"):
        repository, _, revision = place.removeprefix("hub:").partition("@")
        return _classifier(repository, {"revision": revision or None, **options}, name or place)
    directory = Path(place.removeprefix("path:")).expanduser()
    if directory.is_dir():
        return _classifier(str(directory), options, name or directory.name)
    if ":" in place and not place.startswith("path:"):
        from reward_models.function import load_attribute

        return checked(load_attribute(place, **options), name)
    raise RewardError(
        f"no reward model at {place!r}: it is no directory here, no module:attribute and none of the built-in ones "
        f"({', '.join(sorted(_BUILTIN))}). A model of the Hugging Face Hub is written hub:{place.removeprefix('path:')}"
    )


def located(spec: Spec, directories: Mapping[str, Path]) -> Spec:
    """`spec` with every name that stands in `directories` replaced by the directory, its own name kept for logs."""
    if isinstance(spec, Mapping):
        result = dict(spec)
        if isinstance(spec.get("model"), str) and spec["model"] in directories:
            result = {"name": _shown(spec["model"]), **spec, "model": directories[spec["model"]]}
        if isinstance(spec.get("of"), list):
            result["of"] = [located(member, directories) for member in spec["of"]]
        return result
    if str(spec) in directories:
        return {"name": _shown(str(spec)), "model": directories[str(spec)]}
    return spec


def _shown(name: str) -> str:
    """A name for logs and reports, without the directories that only this machine has."""
    return Path(name).name if name.startswith("path:") else name


def _load_mapping(spec: dict[str, Any]) -> CheckedModel:
    if ("model" in spec) == ("combine" in spec):
        raise RewardError(f"a reward model is given by `model:` or by `combine:`, but this has {sorted(spec)}")
    if "model" in spec:
        model = spec.pop("model")
        if not isinstance(model, str | Path | Mapping):
            raise RewardError(f"`model:` of a reward must be a name or an address, not {model!r}")
        return load(model, **spec)
    from reward_models.combined import Combined

    if not isinstance(spec.get("of"), list):
        raise RewardError(f"combine: {spec['combine']} needs a list of reward models under `of:`")
    members = [load(member) for member in spec.pop("of")]
    return checked(_made("combine", Combined, {"members": members, **spec}))


def _classifier(source: str, options: dict[str, Any], name: str) -> CheckedModel:
    from reward_models.classifier import Classifier

    return checked(_made(name, Classifier.load, {"source": source, "name": name, **options}))


def _made(what: str, make: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise RewardError(f"reward model {what}: {error}") from error
    return make(**options)
