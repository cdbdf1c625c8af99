"""What stages that hand models to each other have to agree on, compared before a stage starts: seconds, not hours.

Read from a model's files without importing what loads it, kept in its manifest as `contract`, and foreseen from the
recipe where the model does not exist yet. What is not known is not compared.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from align.configs import StageConfig
from align.configs.base_model import BaseModelConfig
from align.configs.evaluate import EvaluateConfig
from align.configs.ppo import PPOStageConfig
from align.configs.pretrain import PretrainConfig
from align.configs.reward import RewardConfig
from align.configs.sft import SftConfig
from align.data import examples
from align.errors import UsageError
from align.recipe import Recipe, parse_reference
from align.recipe.document import suggest
from align.registry import Artifact, Registry, files
from reward_models import nesting
from reward_models.options import renamed

TRAINED_FROM = {"sft": "model", "reward": "model", "ppo": "policy"}
"""By kind of stage, the input that its adapter belongs to."""
_TRAINABLE = {"F32", "BF16", "F16"}
_CLASSIFIER, _ENCODER = "ForSequenceClassification", "ForMaskedLM"
_NO_PART_OF_A_TOKENIZER = ("post_processor", "padding", "truncation")
"""Of `tokenizer.json`: which marks close a text, and how it was called last. What tokens there are is all the rest."""


@dataclass(frozen=True)
class Contract:
    """What can be known of a model before it is loaded. None: not known, or it has none."""

    architecture: str | None = None
    """The class that loads it."""
    dtype: str | None = None
    """Of its weights, as safetensors names it; the most frequent, where there are several."""
    context_length: int | None = None
    """Positions that it has."""
    vocabulary: int | None = None
    """Rows of its embedding."""
    tokens: int | None = None
    """Of its tokenizer."""
    tokenizer: str | None = None
    """Sha256 of what the tokenizer does to text."""
    chat_template: str | None = None
    """Sha256."""
    labels: tuple[str, ...] | None = None
    """Of a classifier, in the order of its outputs."""
    adapter: bool = False
    """An adapter alone, without the model that it changes."""
    base: Mapping[str, str] | None = None
    """`reference` and `digest` of the model that its adapter was trained on."""

    def to_manifest(self) -> dict[str, Any]:
        """What is known, as a manifest keeps it."""
        return {key: value for key, value in asdict(self).items() if value not in (None, False)}

    @classmethod
    def from_manifest(cls, content: Mapping[str, Any]) -> Contract:
        """What `to_manifest` wrote; of a newer version, what is known here."""
        known = {key: value for key, value in content.items() if key in cls.__dataclass_fields__}
        return cls(**{**known, "labels": tuple(known["labels"]) if "labels" in known else None})


def of_directory(directory: Path) -> Contract:
    """What the files of a model say. Nothing of a directory that holds no model.

    Raises:
        UsageError: its weights were cut short, or are something else.
    """
    config, adapter = _json(directory / "config.json"), (directory / "adapter_config.json").is_file()
    architecture = next(iter(config.get("architectures") or []), None)
    declared = _json(directory / "reward_model.json").get("names")
    labels = {int(index): str(name) for index, name in (config.get("id2label") or {}).items()}
    named = renamed(labels, declared if isinstance(declared, dict) else {})
    return Contract(
        architecture=architecture,
        dtype=_dtype(directory),
        context_length=_positions(config),
        vocabulary=config.get("vocab_size"),
        **_tokenizer(directory),
        labels=tuple(named[index] for index in sorted(named)) if _is_classifier(architecture) else None,
        adapter=adapter and not config,
    )


def of_artifact(artifact: Artifact) -> Contract:
    """What its manifest says; of one without a contract, what its files say."""
    kept = artifact.manifest.contract
    if kept:
        return Contract.from_manifest(kept)
    place = TRAINED_FROM.get(artifact.manifest.kind, "")
    base = artifact.manifest.inputs.get(place)
    return replace(of_directory(artifact.path), base=base.model_dump() if base else None)


def foreseen(recipe: Recipe, registry: Registry, reference: str, *, labels: bool = False) -> Contract:
    """What is known now of what a reference will stand for; the labels of a classifier yet to be trained if asked to.

    An artifact that does not exist is nothing that is known: that it is missing is said elsewhere.
    """
    parsed = parse_reference(reference)
    if parsed.kind == "registry":
        with suppress(UsageError):
            return of_artifact(registry.resolve(reference.removeprefix("registry:")))
        return Contract()
    if parsed.kind == "path":
        return of_directory(Path(parsed.name).expanduser())
    if parsed.kind != "stage" or parsed.name not in recipe.stages:
        return Contract()
    config = recipe.stages[parsed.name]
    match config:
        case BaseModelConfig():
            return of_directory(Path(config.model).expanduser())
        case PretrainConfig(architecture="llama"):
            return Contract("LlamaForCausalLM", "F32", config.size.max_position_embeddings)
        case PretrainConfig(architecture="modernbert"):
            return Contract("ModernBert" + _ENCODER, "F32", config.size.max_position_embeddings)
        case PretrainConfig():
            return Contract("T5ForConditionalGeneration", "F32")
        case SftConfig() | PPOStageConfig():
            given = foreseen(recipe, registry, config.model if isinstance(config, SftConfig) else config.policy)
            return replace(given, dtype="F32", adapter=config.publish == "adapter", base=None)
        case RewardConfig():
            given = foreseen(recipe, registry, config.model)
            labels_of = _labels_of(config) if labels else None
            return replace(given, architecture=_CLASSIFIER, dtype="F32", labels=labels_of, base=None)
    return Contract()


def disagreements(config: StageConfig, given: Mapping[str, Contract]) -> Iterator[str]:
    """Why a stage would fail with these models, each problem after its place in the configuration: `policy: ...`.

    Args:
        config: the stage's.
        given: its inputs by their place.
    """
    for place, model in given.items():
        if place in ("model", "policy", "baseline", "normalize.policy") or place.startswith("models."):
            yield from _not_a_language_model(config, place, model)
        elif not place.endswith(".artifact"):  # of a data set: an evaluation, whose samples are rows
            yield from _not_a_classifier(place, model)
    match config:
        case SftConfig():
            yield from _too_long("max_length", config.max_length, given.get("model"))
        case RewardConfig():
            yield from _too_long("max_length", config.max_length, given.get("model"))
            if config.normalize:
                longest = config.normalize.generation.max_new_tokens + 1
                yield from _too_long("normalize.generation.max_new_tokens", longest, given.get("normalize.policy"))
        case PPOStageConfig():
            yield from _too_long("ppo.response_length", config.ppo.response_length + 1, given.get("policy"))
            if "max_prompt_length" in config.model_fields_set:
                longest = config.max_prompt_length + config.ppo.response_length
                yield from _too_long("max_prompt_length", longest, given.get("policy"), " with ppo.response_length")
            yield from _not_readable_so("reward", config.reward, given)
            yield from _not_readable_so("judge", config.judge, given)
            yield from _another_tokenizer("critic_from", "policy", given)
        case EvaluateConfig():
            for place in (place for place in given if place.startswith("models.")):
                yield from _too_long("generation.max_new_tokens", config.generation.max_new_tokens + 1, given[place])
            if config.judge and config.judge.model:
                yield from _not_readable_so("judge", config.judge.model_dump(), given)
            yield from _not_readable_so("reward", config.reward, given)


def problems(recipe: Recipe, registry: Registry, stage: str) -> list[str]:
    """The same of a stage before anything runs, as far as it can be foreseen, and adapters whose base cannot be had."""
    config = recipe.stages[stage]
    label_asked = '"label":' in config.model_dump_json(include={"reward", "judge"}, exclude_none=True)
    given: dict[str, Contract] = {}
    found = []
    for place, reference in config.references().items():
        try:
            given[place] = foreseen(recipe, registry, reference, labels=label_asked and place.endswith(".model"))
        except UsageError as error:
            found.append(f"{place}: {error}")
    found += disagreements(config, given)
    for place, reference in config.references().items() if not found else ():
        if given[place].adapter and (problem := _without_base(recipe, registry, reference)):
            found.append(f"{place}: {problem}")
    return found


def _without_base(recipe: Recipe, registry: Registry, reference: str) -> str | None:
    """Why an adapter alone cannot be completed, if it cannot."""
    parsed = parse_reference(reference)
    if parsed.kind == "registry":
        try:
            base_of(registry.resolve(reference.removeprefix("registry:")), registry)
        except UsageError as error:
            return str(error)
        return None
    if parsed.kind == "stage":
        maker = recipe.stages[parsed.name]
        place = TRAINED_FROM.get(maker.kind)
        if place and parse_reference(maker.references()[place]).kind != "path":
            return None
    return (
        f"{reference} is only an adapter, and where its base lies is not recorded: publish it with "
        "`publish: merged`, or take its base in by a stage of `kind: base`"
    )


def unlike_its_base(adapter: Contract, base: Contract) -> str | None:
    """What an adapter and the model that it is to be put on do not agree on."""
    for what in ("tokenizer", "chat_template"):
        ours, theirs = getattr(adapter, what), getattr(base, what)
        if ours != theirs and ((ours and theirs) or what == "chat_template"):
            return f"its {what.replace('_', ' ')} is not that of its base"
    return None


def base_of(artifact: Artifact, registry: Registry) -> Artifact | str:
    """The artifact that an adapter was trained on, byte for byte; or what it was trained on outside the registry.

    Raises:
        UsageError: it is not there any more, or is another model now.
    """
    base = of_artifact(artifact).base or {"reference": "an unrecorded base", "digest": ""}
    reference, digest = base["reference"], base["digest"]
    if reference.startswith("hub:"):
        return reference
    now = "not in this registry"
    with suppress(UsageError):  # what has no name of the registry, such as a path, is not in it
        if found := registry.with_digest(reference.partition("@")[0], digest):
            return found
        now = f"now another model (digest {registry.resolve(reference).digest[:12]})"
    raise UsageError(
        f"{artifact.reference} is only an adapter, for {reference} (digest {digest[:12]}), which is {now}. An adapter "
        "changes no other model the way it should: import its base, or publish it with `publish: merged`"
    )


def _not_a_language_model(config: StageConfig, place: str, model: Contract) -> Iterator[str]:
    writes = not (isinstance(config, RewardConfig) and place == "model")
    if writes and _is_classifier(model.architecture):
        yield f"{place}: is a classifier (labels {', '.join(model.labels or ())}), not a language model"
    if writes and (model.architecture or "").endswith(_ENCODER):
        yield (
            f"{place}: is a {model.architecture}, an encoder, which cannot generate text; "
            "it can be the body of a classifier"
        )
    if model.adapter and getattr(config, "method", "") == "qlora":
        yield (
            f"{place}: is only an adapter, which cannot be merged into a 4-bit base: publish it with `publish: merged`"
        )
    if model.adapter and isinstance(config, RewardConfig):
        yield f"{place}: is only an adapter, and a classifier needs a whole model: publish it with `publish: merged`"
    if model.dtype is not None and model.dtype not in _TRAINABLE:
        yield (
            f"{place}: its weights are stored as {model.dtype}, which cannot be trained or compared; "
            f"take the model as {', '.join(sorted(_TRAINABLE))}"
        )
    if model.tokens and model.vocabulary and model.tokens > model.vocabulary:
        yield (
            f"{place}: its tokenizer has {model.tokens} tokens, but the model embeds only {model.vocabulary}: "
            "they do not belong together"
        )


def _not_a_classifier(place: str, model: Contract) -> Iterator[str]:
    if model.adapter:
        yield f"{place}: is only an adapter, and scores need a whole classifier"
    elif model.architecture is not None and not _is_classifier(model.architecture):
        yield f"{place}: is a {model.architecture}, not a classifier: it has no labels to score"


def _not_readable_so(place: str, reward: Any, given: Mapping[str, Contract]) -> Iterator[str]:
    """What a classifier, wherever in a reward's description, cannot be asked for: a label that it lacks, a label of
    several without names, more tokens than it has positions."""
    for keys, spec in nesting.walk(reward):
        inner = ".".join([place, *map(str, keys)])
        if isinstance(spec, Mapping):
            yield from _not_readable_as(inner, spec, given.get(f"{inner}.model"))
        elif not keys or keys[-1] != "model":  # a name alone; that of a mapping is read as the mapping says
            yield from _not_readable_as(inner, {"model": spec}, given.get(inner))


def _not_readable_as(place: str, spec: Mapping[str, Any], model: Contract | None) -> Iterator[str]:
    if type(longest := spec.get("max_length")) is int:
        yield from _too_long(f"{place}.max_length", longest, model)
    if not model or not model.labels or len(model.labels) == 1:
        return
    label, said = spec.get("label"), spec.get("names")
    names, known = said if isinstance(said, Mapping) else {}, dict(enumerate(model.labels))
    if not {str(key) for key in names} <= {*map(str, known), *model.labels}:
        return  # they rename what the model's own declaration has renamed already
    labels = list(renamed(known, names).values())
    if all(re.fullmatch(r"LABEL_\d+", one) for one in labels):
        yield (
            f"{place}: the labels of {spec['model']} have no names ({', '.join(labels)}). Say what they mean, from the "
            "model's card: {model: ..., names: {LABEL_0: nontoxic, LABEL_1: toxic}, label: nontoxic}"
        )
    elif label is not None and str(label).casefold() not in {one.casefold() for one in labels}:
        hint = suggest(str(label), labels)
        yield f"{place}.label: {spec['model']} has no label {label!r}{hint} (it has {', '.join(labels)})"


def _another_tokenizer(place: str, other: str, given: Mapping[str, Contract]) -> Iterator[str]:
    one, two = given.get(place, Contract()), given.get(other, Contract())
    if one.tokenizer and two.tokenizer and one.tokenizer != two.tokenizer:
        yield f"{place}: its tokenizer is not that of `{other}`, whose tokens it would have to read"


def _too_long(key: str, length: int, model: Contract | None, together: str = "") -> Iterator[str]:
    if model and model.context_length and length > model.context_length:
        yield f"{key}: {length} tokens{together} are more than the {model.context_length} positions of the model"


def _is_classifier(architecture: str | None) -> bool:
    return bool(architecture and architecture.endswith(_CLASSIFIER))


def _labels_of(config: RewardConfig) -> tuple[str, ...] | None:
    """The labels of its data."""
    if config.pairs:
        return None
    if names := {name for one in config.data for name in one.labels}:
        return tuple(sorted(names))
    try:
        return tuple(sorted({row.label for row in examples.labelled(config.data)})) or None
    except UsageError:
        return None  # said where data is checked


def _positions(config: Mapping[str, Any]) -> int | None:
    """Positions of a model that has a table or a rotation of them. RoBERTa's table begins after the pad token."""
    found = config.get("max_position_embeddings") or config.get("n_positions")
    if not isinstance(found, int) or config.get("model_type") in ("t5", "mt5", "umt5"):
        return None
    offset = "roberta" in str(config.get("model_type")) or config.get("model_type") == "camembert"
    return found - (config.get("pad_token_id") or 0) - 1 if offset else found


def _tokenizer(directory: Path) -> dict[str, Any]:
    content, settings = _json(directory / "tokenizer.json"), _json(directory / "tokenizer_config.json")
    template = settings.get("chat_template")
    if (file := directory / "chat_template.jinja").is_file():
        template = file.read_text(encoding="utf-8")
    found: dict[str, Any] = {"chat_template": _sha256(template) if template else None}
    if content:
        kept = {key: value for key, value in content.items() if key not in _NO_PART_OF_A_TOKENIZER}
        vocabulary = content.get("model", {}).get("vocab") or ()
        added = [token["id"] for token in content.get("added_tokens") or ()]
        found |= {"tokenizer": _sha256(kept), "tokens": max([len(vocabulary), *(place + 1 for place in added)])}
    return found


def _dtype(directory: Path) -> str | None:
    """The most frequent type of the tensors in the first safetensors file, from its header alone."""
    first = min(directory.glob("*.safetensors"), default=None)
    header = files.safetensors_header(first) if first else {}
    counts = Counter(str(tensor["dtype"]) for tensor in header.values())
    return max(counts, key=counts.__getitem__, default=None)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
