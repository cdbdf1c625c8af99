"""Run by the tests as a process of its own: PPO killed while it saves, and elsewhere, then resumed, then compared.

python killed.py DIRECTORY ARCHITECTURE KILLS   prints one JSON object per kill
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from align.ppo import PPOConfig, PPOTrainer

FILE_EVENTS = ("open", "os.", "shutil.")
WORDS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {f"w{number}": number for number in range(4, 50)}
TOKENS = {"vocab_size": 50, "pad_token_id": 0, "eos_token_id": 2}


def tokenizer() -> Any:
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def model(architecture: str) -> Any:
    torch.manual_seed(0)
    if architecture == "llama":
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        return LlamaForCausalLM(LlamaConfig(**shape, **TOKENS, max_position_embeddings=64, initializer_range=0.3))
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    t5 = T5ForConditionalGeneration(T5Config(**shape, **TOKENS, decoder_start_token_id=0, dropout_rate=0.1))
    return get_peft_model(t5, LoraConfig(r=2, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM"))


def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """The share of odd words."""
    return [sum(word[-1] in "13579" for word in response.split()) / 6 for response in responses]


def train(directory: Path, architecture: str) -> None:
    """Six updates with everything that has a memory: schedule, adaptive KL, reward moments, best policy, mini-batches;
    leaves the last checkpoint and the best policy in the directory."""
    ppo = PPOTrainer(
        PPOConfig(
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            total_episodes=48,
            batch_size=8,
            num_ppo_epochs=2,
            num_mini_batches=2,
            response_length=6,
            temperature=1.0,
            kl_target=0.5,
            reward_scaling=True,
            critic="shared" if architecture == "llama" else "adapter",
            eval_steps=2,
            save_steps=1,
        ),
        tokenizer(),
        model(architecture),
        reward_model=score,
        train_dataset=[{"prompt": f"w{first} w{second}"} for first in range(4, 12) for second in range(4, 6)],
        eval_dataset=[{"prompt": f"w{first} w9"} for first in range(4, 8)],
        checkpoint_dir=directory / "checkpoints",
    )
    ppo.train()
    ppo.save_model(directory / "policy")


def child(directory: Path, architecture: str, fatal: int, *, saving: bool, count_to: Path | None = None) -> int:
    """Status of a process that is killed at its file event number `fatal`, of all or of those in saving."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event.startswith(FILE_EVENTS) and (not saving or "checkpoint-" in str(arguments)):
            seen += 1
            if seen == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    try:
        train(directory, architecture)
        if count_to is not None:
            count_to.write_text(str(seen))
        os._exit(0)
    finally:
        os._exit(1)


def left_by(directory: Path) -> dict[str, Any]:
    """Sizes and hashes of all that a run ends with: weights, best weights, optimizer, schedule, state, policy."""
    complete = json.loads((directory / "checkpoints" / "checkpoint-6" / "COMPLETE.json").read_text())
    return complete | {"policy": next((directory / "policy").glob("*.safetensors")).read_bytes()}


def main(root: Path, architecture: str, kills: int) -> None:
    torch.set_num_threads(1)
    draw = random.Random(architecture)
    counts = {}
    for saving in (True, False):
        whole = root / f"whole-{saving}"
        assert child(whole, architecture, 0, saving=saving, count_to=root / "count") == 0
        counts[saving] = int((root / "count").read_text())
    for number in range(kills):
        saving = number % 3 != 2
        fatal = 1 + int((number + draw.random()) / kills * counts[saving])
        place = root / str(number)
        status = child(place, architecture, fatal, saving=saving)
        partial = sorted(path.name for path in (place / "checkpoints").glob("partial-*"))
        again = child(place, architecture, 0, saving=saving)
        equal = again == 0 and left_by(place) == left_by(root / "whole-True") == left_by(root / "whole-False")
        report = {"fatal": fatal, "of": counts[saving], "saving": saving, "status": status, "partial": partial}
        print(json.dumps({**report, "again": again, "equal": equal}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
