"""Started by test_ranks.py, on one process or by torchrun: trains a tiny policy and writes what came of it."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from conftest import tiny_model, word_tokenizer
from safetensors.torch import save_file
from test_trainer import PROMPTS, Recorder, settings, share_of_w7

from align.ppo import PPOTrainer
from align.ppo.actor_critic import weights
from align.ppo.ranks import rank

directory, fails = Path(sys.argv[1]), "fails" in sys.argv
directory.mkdir(exist_ok=True)
calls = iter(range(3))  # an evaluation, an update, an evaluation; then comes the second update


def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    if fails and rank() == 1 and next(calls, None) is None:
        raise RuntimeError("power cut")
    return share_of_w7(prompts, responses)


recorder = Recorder()
trainer = PPOTrainer(
    args=settings(total_episodes=32, num_mini_batches=2, use_cpu=True, eval_steps=1),
    processing_class=word_tokenizer.__wrapped__(),
    model=tiny_model.__wrapped__()("llama"),
    reward_model=reward,
    train_dataset=PROMPTS,
    eval_dataset=PROMPTS[:7],
    tracker=recorder,
    checkpoint_dir=directory / "checkpoints",
)
trainer.train()
if rank() == 0:
    save_file(weights(trainer.actor_critic), directory / "weights.safetensors")
    torch.save([recorder.figures, recorder.evaluations], directory / "figures.pt")
