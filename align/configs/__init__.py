"""What a recipe may say, one file per kind of stage. No torch is imported here."""

from align.configs.base import StageConfig
from align.configs.base_model import BaseModelConfig
from align.configs.evaluate import EvaluateConfig
from align.configs.ppo import PPOStageConfig
from align.configs.pretrain import PretrainConfig
from align.configs.reward import RewardConfig
from align.configs.sft import SftConfig

KINDS: dict[str, type[StageConfig]] = {
    "base": BaseModelConfig,
    "pretrain": PretrainConfig,
    "sft": SftConfig,
    "reward": RewardConfig,
    "ppo": PPOStageConfig,
    "evaluate": EvaluateConfig,
}
"""The kinds of stage, and what each may be told."""

FORMAT_VERSIONS: dict[str, int] = {
    **dict.fromkeys(KINDS, 1),
    "base": 2,
    "pretrain": 3,
    "sft": 2,
    "reward": 7,
    "ppo": 2,
    "evaluate": 3,
}
"""Raised when a kind of stage computes something else from the same configuration, so that it runs again."""

__all__ = ["FORMAT_VERSIONS", "KINDS", "StageConfig"]
