"""PPO for language models, decoder-only and encoder-decoder, on one trunk."""

from align.ppo.arguments import PPOConfig
from align.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]
