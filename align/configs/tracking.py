"""Where metrics are mirrored to."""

from __future__ import annotations

from typing import Literal

from align.configs.base import Config


class WandbConfig(Config):
    """Weights & Biases. What is not set here is left to the usual `WANDB_*` variables."""

    project: str | None = None
    entity: str | None = None
    mode: Literal["online", "offline", "disabled"] | None = None
    tags: list[str] = []


class TrackingConfig(Config):
    """The registry keeps every metric in any case; this is the mirror."""

    wandb: WandbConfig | None = None
