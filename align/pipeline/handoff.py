"""What stages that hand models to each other have to agree on, compared before a stage starts: seconds, not hours.

Read from a model's files without importing what loads it, kept in its manifest as `contract`, and foreseen from the
recipe where the model does not exist yet. What is not known is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
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
from align.pipeline.contracts import CLASSIFIER, TRAINED_FROM, Contract, is_classifier, of_artifact, of_directory
from align.recipe import Recipe, parse_reference
from align.recipe.document import suggest
from align.registry import Artifact, Registry
from reward_models import nesting
from reward_models.options import renamed

_TRAINABLE = {"F32", "BF16", "F16"}
_ENCODER = re.compile(r"ForMaskedLM$|ForPreTraining$|(?<!LMHead)(?<!MT)(?<!EncoderDecoder)Model$")
"""Also a body alone; but not what writes and is called so as well: `GPT2LMHeadModel`, `MarianMTModel`, a pair."""


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
            return Contract("ModernBertForMaskedLM", "F32", config.size.max_position_embeddings)
        case PretrainConfig():
            return Contract("T5ForConditionalGeneration", "F32", is_encoder_decoder=True)
        case SftConfig() | PPOStageConfig():
            given = foreseen(recipe, registry, config.model if isinstance(config, SftConfig) else config.policy)
            return replace(given, dtype="F32", adapter=config.publish == "adapter", base=None)
        case RewardConfig():
            given = foreseen(recipe, registry, config.model)
            labels_of = _labels_of(config) if labels else None
            return replace(given, architecture=CLASSIFIER, dtype="F32", labels=labels_of, base=None)
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
                policy = given.get("normalize.policy")
                longest = _positions(policy, 1, config.normalize.generation.max_new_tokens)
                yield from _too_long("normalize.generation.max_new_tokens", longest, policy)
        case PPOStageConfig():
            policy, response_length = given.get("policy"), config.ppo.response_length
            yield from _too_long("ppo.response_length", _positions(policy, 1, response_length), policy)
            if "max_prompt_length" in config.model_fields_set:
                longest = _positions(policy, config.max_prompt_length, response_length)
                yield from _too_long("max_prompt_length", longest, policy, " with ppo.response_length")
            yield from _not_readable_so("reward", config.reward, given)
            yield from _not_readable_so("judge", config.judge, given)
            yield from _another_tokenizer("critic_from", "policy", given)
        case EvaluateConfig():
            for place in (place for place in given if place.startswith("models.")):
                longest = _positions(given[place], 1, config.generation.max_new_tokens)
                yield from _too_long("generation.max_new_tokens", longest, given[place])
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
    if writes and is_classifier(model.architecture):
        yield f"{place}: is a classifier (labels {', '.join(model.labels or ())}), not a language model"
    if writes and _ENCODER.search(model.architecture or ""):
        yield (
            f"{place}: is a {model.architecture}, an encoder or a body without its head, which cannot generate text; "
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
    elif model.architecture is not None and not is_classifier(model.architecture):
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


def _positions(model: Contract | None, prompt: int, response: int) -> int:
    """That the model needs for so many tokens of each, which an encoder-decoder has apart."""
    return max(prompt, response) if model and model.is_encoder_decoder else prompt + response


def _too_long(key: str, length: int, model: Contract | None, together: str = "") -> Iterator[str]:
    if model and model.context_length and length > model.context_length:
        yield f"{key}: {length} tokens{together} are more than the {model.context_length} positions of the model"


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
