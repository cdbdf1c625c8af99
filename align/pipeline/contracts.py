"""What can be known of a model from its files, before it is loaded: the contract that others have to agree with."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from align.registry import Artifact, files
from reward_models.options import renamed

TRAINED_FROM = {"sft": "model", "reward": "model", "ppo": "policy"}
"""By kind of stage, the input that its adapter belongs to."""
CLASSIFIER = "ForSequenceClassification"
"""How the names of classes end that give logits of labels."""
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
    is_encoder_decoder: bool = False
    """Prompts and responses have positions of their own."""
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
        is_encoder_decoder=bool(config.get("is_encoder_decoder")),
        vocabulary=config.get("vocab_size"),
        **_tokenizer(directory),
        labels=tuple(named[index] for index in sorted(named)) if is_classifier(architecture) else None,
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


def is_classifier(architecture: str | None) -> bool:
    """Whether the class of that name gives logits of labels."""
    return bool(architecture and architecture.endswith(CLASSIFIER))


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
