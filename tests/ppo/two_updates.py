"""Started by test_ranks.py, on one process or by torchrun: trains a tiny policy and writes what came of it."""

import sys
from pathlib import Path

import torch
from conftest import tiny_model, word_tokenizer
from safetensors.torch import save_file
from test_trainer import PROMPTS, Recorder, settings, share_of_w7

from align.ppo import PPOTrainer
from align.ppo.actor_critic import weights
from align.ppo.ranks import rank

recorder = Recorder()
trainer = PPOTrainer(
    args=settings(total_episodes=32, num_mini_batches=2, use_cpu=True, eval_steps=1),
    processing_class=word_tokenizer.__wrapped__(),
    model=tiny_model.__wrapped__()("llama"),
    reward_model=share_of_w7,
    train_dataset=PROMPTS,
    eval_dataset=PROMPTS[:7],
    tracker=recorder,
    checkpoint_dir=Path(sys.argv[1]) / "checkpoints",
)
trainer.train()
if rank() == 0:
    save_file(weights(trainer.actor_critic), Path(sys.argv[1]) / "weights.safetensors")
    torch.save([recorder.figures, recorder.evaluations], Path(sys.argv[1]) / "figures.pt")
