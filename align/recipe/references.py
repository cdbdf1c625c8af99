"""References: what a stage takes, and from where. A bare name is a stage of the same recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import reward_models
from align.configs import StageConfig
from align.recipe.document import KeyPath, suggest
from reward_models import nesting

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""What stages, and so artifacts, may be called."""
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
_LANGUAGE_MODELS = ("base", "pretrain", "sft", "ppo")
_CLASSIFIERS = ("reward", "base")
REWARD_KEYS = {"ppo": ("reward", "judge"), "evaluate": ("reward",)}
"""By kind of stage: the keys that take a reward model, which may be more than an artifact."""
ELSEWHERE = "registry:name@v1, hub:org/name@revision or path:./directory say where else"


@dataclass(frozen=True)
class Reference:
    """A parsed reference."""

    kind: Literal["stage", "registry", "hub", "path", "other"]
    """`other`: `module:attribute` or an http(s) address, which only a reward may be."""
    name: str
    """The stage, the artifact, the Hub repository, the directory, or the whole text."""
    version: str | None = None
    """`v2` or an alias of an artifact, the revision of a Hub repository."""


def parse_reference(text: str) -> Reference:
    """`sft`, `registry:sft@v2`, `hub:org/name@revision`, `path:./dir`, `module:attribute`, `http://...`."""
    scheme, colon, rest = text.partition(":")
    if not colon:
        return Reference("stage", text)
    if scheme == "path":
        return Reference("path", rest)
    if scheme == "registry" or scheme == "hub":
        name, _, version = rest.partition("@")
        return Reference("registry" if scheme == "registry" else "hub", name, version or None)
    return Reference("other", text)


def stage_inputs(config: StageConfig, stages: Mapping[str, object]) -> list[str]:
    """The stages whose artifacts this one takes, each once, in the order of its keys."""
    named = [parse_reference(text) for text in config.references().values()]
    return list(dict.fromkeys(ref.name for ref in named if ref.kind == "stage" and ref.name in stages))


def needs(config: StageConfig, stages: Mapping[str, object]) -> list[str]:
    """The stages that have to be done before this one."""
    return list(dict.fromkeys([*stage_inputs(config, stages), *config.after]))


def problems(stages: Mapping[str, StageConfig], names: Sequence[str]) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with the references of these stages: `(key path, message)` each.

    Args:
        stages: those of a known kind.
        names: all stages of the recipe, so that one of an unknown kind is not taken for an unknown stage.
    """
    for stage, config in stages.items():
        for place, text in config.references().items():
            message = _problem(stage, config.kind, place, text, stages, names)
            if message:
                yield ("stages", stage, *(int(key) if key.isdigit() else key for key in place.split("."))), message
        for key in REWARD_KEYS.get(config.kind, ()):
            for keys, spec in nesting.walk(getattr(config, key)):
                if (spec is not None or keys) and (message := _shape_problem(spec)):
                    yield ("stages", stage, key, *keys), message
        for index, name in enumerate(config.after):
            if name == stage or name not in names:
                reason = "a stage cannot come after itself" if name == stage else _unknown(name, names)
                yield ("stages", stage, "after", index), reason
    circle = _circle({name: [n for n in needs(config, stages) if n != name] for name, config in stages.items()})
    if circle:
        yield ("stages", circle[0]), f"these stages wait for each other: {' -> '.join(circle)}; remove one of the links"


def _problem(
    stage: str, kind: str, place: str, text: str, stages: Mapping[str, StageConfig], names: Sequence[str]
) -> str | None:
    allowed: tuple[str, ...]
    reference, for_reward = parse_reference(text), place.partition(".")[0] in REWARD_KEYS.get(kind, ())
    match reference.kind:
        case "stage" if reference.name == stage:
            return "a stage cannot take itself as input"
        case "stage" if reference.name in stages:
            if place.endswith(".artifact"):
                allowed, what = ("evaluate",), "an evaluation, whose samples are the rows"
            elif for_reward or place in ("judge.model", "critic_from"):
                allowed, what = _CLASSIFIERS, "a classifier"
            elif kind == "reward" and place == "model":
                allowed, what = (*_LANGUAGE_MODELS, "reward"), "a model"
            else:
                allowed, what = _LANGUAGE_MODELS, "a language model"
            return _wrong_kind(allowed, what, reference.name, stages[reference.name].kind)
        case "stage" if reference.name in names or (for_reward and reference.name in reward_models.builtin_names()):
            return None
        case "stage":
            return _unknown(reference.name, names, sorted(reward_models.builtin_names()) if for_reward else ())
        case "registry" if not NAME.fullmatch(reference.name):
            return f"{text!r} names no artifact: write registry:name@v1"
        case "hub" if not _REPOSITORY.fullmatch(reference.name):
            return f"{text!r} names no Hub repository: write hub:org/name@revision"
        case "path" if not reference.name:
            return "path: needs a directory: write path:./directory"
        case "other" if not for_reward:
            return f"{text!r} is not a reference: a bare name is a stage, and {ELSEWHERE}"
    return None


def _shape_problem(spec: object) -> str | None:
    """What is wrong with the shape of a reward: a mapping has `model:`, or `combine:` and a list `of:` more."""
    if isinstance(spec, str):
        return None
    if not isinstance(spec, dict):
        return f"a reward is a name or a mapping, not {spec!r}"
    if ("model" in spec) == ("combine" in spec):
        near = next((hint for key in spec if (hint := suggest(key, ("model", "combine")))), "")
        return f"a reward is given by `model:` or by `combine:`, but this has {', '.join(spec) or 'nothing'}{near}"
    if "combine" in spec and not (isinstance(spec.get("of"), list) and spec["of"]):
        return "`combine:` needs `of:`, a list of rewards"
    return None


def _wrong_kind(allowed: Sequence[str], what: str, name: str, given: str) -> str | None:
    if given in allowed:
        return None
    return f"takes {what} (a stage of kind {', '.join(allowed)}), but {name!r} is of kind {given}"


def _unknown(name: str, names: Sequence[str], builtin: Sequence[str] = ()) -> str:
    if name.startswith((".", "/", "~")):
        return f"no stage is called {name!r}; for a directory write path:{name}"
    if "/" in name:
        return f"no stage is called {name!r}; for the Hugging Face Hub write hub:{name}"
    known = f"stages: {', '.join(names)}" + (f"; reward models: {', '.join(builtin)}" if builtin else "")
    return f"no stage is called {name!r}{suggest(name, [*names, *builtin])} ({known}; {ELSEWHERE})"


def _circle(links: Mapping[str, Sequence[str]]) -> list[str] | None:
    """The first circle found, its first stage again at the end: `[a, b, a]`."""
    done: set[str] = set()

    def search(name: str, trail: list[str]) -> list[str] | None:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return None
        for other in links.get(name, ()):
            found = search(other, [*trail, name])
            if found:
                return found
        done.add(name)
        return None

    return next((circle for circle in (search(name, []) for name in links) if circle), None)
