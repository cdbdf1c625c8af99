"""`kind: base`: take a model that exists."""

from __future__ import annotations

from typing import Literal

from align.configs.base import StageConfig


class BaseModelConfig(StageConfig):
    """A model from the Hugging Face Hub at a revision, or from a local directory."""

    kind: Literal["base"]
    model: str
    """A Hub id (`google/flan-t5-base`) or a directory that `from_pretrained` loads."""
    revision: str | None = None
    """A commit, tag or branch of the Hub repository (default: the main branch)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the weights are stored as. Training in anything but float32 needs hardware for it."""
