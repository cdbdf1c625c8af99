"""PPO here and in TRL 1.12.0, the last release that had it, and both against the floor: time and memory of an update.

    pip install --no-deps --target .peers/trl-1.12.0 trl==1.12.0
    python benchmarks/ppo_vs_trl.py --peer trl_ppo_bench.py      # writes results/ppo_vs_trl.json

Each side is a process of its own, started in turn, round after round: peer, ours with the shared critic, ours with a
separate critic (what the peer does), and the floor. All train a random Llama of the same shape on the same prompt
lengths, with the same number of rollouts, epochs and optimizer steps. Memory is the peak above what is resident when
training begins, with all models loaded.

The peer calls `gc.collect` twice an update; its figures are given with and without the seconds spent in there. The
floor is what cannot be left out: bare cached generation, then per epoch one forward and backward pass of prompt and
response through the body, the head on response positions, and the optimizer step, with a constant reward. It is
compared with our engine under the same constant reward. Its passes go over four groups of like length, without which
padding would make it slower than the engine on the real shape.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SHAPES: dict[str, dict[str, Any]] = {
    "real": {"batch": 64, "min_prompt_len": 8, "prompt_len": 48, "stop": "eos", "mean_len": 24, "response_len": 64},
    "worst": {"batch": 64, "prompt_len": 64, "response_len": 48},
}
SHAPES["real 32k"] = {**SHAPES["real"], "vocab": 32_000}
OURS = ("shared", "separate", "constant reward")
SIDES = ("peer", *OURS, "floor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the script that times TRL's trainer and prints one line of JSON")
    parser.add_argument("--trl-path", type=Path, default=Path(".peers/trl-1.12.0"))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="timed updates in a process, after one to warm up")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "ppo_vs_trl.json")
    parser.add_argument("--side", help=argparse.SUPPRESS)  # this process measures one side
    parser.add_argument("--shape", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        measure = floor if args.side == "floor" else align
        print(json.dumps(measure(args.side, Shape(**args.shape), args.steps, args.device)))
        return
    if "peer" in args.sides and not (args.peer and args.peer.exists()):
        sys.exit("--peer: name the script that times TRL's trainer, or leave the peer out of --sides")
    if "peer" in args.sides and not args.trl_path.exists():
        sys.exit(f"{args.trl_path} is missing: pip install --no-deps --target {args.trl_path} trl==1.12.0")
    runs: list[dict[str, Any]] = []
    for turn in range(args.rounds):
        for name in args.shapes:
            for side in args.sides:
                figures = run_side(side, SHAPES[name], args)
                runs.append({"shape": name, "side": side, "round": turn, **figures})
                print(
                    f"{name:9} {side:16} {figures['seconds_per_update']:7.3f} s {figures['memory_mb']:7.0f} MB",
                    flush=True,
                )
    table = [row_of(name, side, runs) for name in args.shapes for side in args.sides]
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "device": args.device}
    args.out.write_text(
        json.dumps({"machine": machine, "table": table, "runs": runs}, indent=1) + "\n", encoding="utf-8"
    )
    print("\n" + markdown(table))


# What is compared


class Shape:
    """Sizes of the model and of an update; names as the peer's script has them."""

    def __init__(self, **sizes: Any) -> None:
        self.layers, self.hidden, self.heads, self.vocab = 4, 128, 4, 2000
        self.batch, self.prompt_len, self.response_len, self.ppo_epochs = 64, 64, 48, 4
        self.min_prompt_len, self.stop, self.mean_len, self.lr, self.seed = 0, "none", 0.0, 1e-4, 0
        self.architecture = "llama"
        self.__dict__.update(sizes)


def models(shape: Shape, device: str) -> tuple[Any, Any, Any, Any]:
    """Tokenizer, policy, reward model and value model, with random weights. A token is a word, so that the reward
    model, which reads text here, gets as many tokens as the peer's, which reads the policy's."""
    import torch
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(shape.seed)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {f"w{number}": number for number in range(4, shape.vocab)}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    sizes = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.hidden * 4,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "max_position_embeddings": shape.prompt_len + shape.response_len + 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
    }
    policy = t5(shape) if shape.architecture == "t5" else LlamaForCausalLM(LlamaConfig(**sizes))
    if shape.mean_len:  # random weights that end a response after about so many tokens
        bias = torch.zeros(shape.vocab, device=device)
        bias[2] = math.log((shape.vocab - 1) / (shape.mean_len - 1))
        policy.lm_head.register_forward_hook(lambda module, inputs, logits: logits + bias.to(logits))
    judges = [LlamaForSequenceClassification(LlamaConfig(**sizes, num_labels=1)) for _ in range(2)]
    return tokenizer, policy.to(device), *(judge.to(device) for judge in judges)


def t5(shape: Shape) -> Any:
    """An encoder-decoder of about the causal model's size: half of its layers on either side."""
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=shape.vocab,
            d_model=shape.hidden,
            d_kv=shape.hidden // shape.heads,
            d_ff=shape.hidden * 4,
            num_layers=shape.layers // 2,
            num_decoder_layers=shape.layers // 2,
            num_heads=shape.heads,
            feed_forward_proj="gated-silu",
            pad_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=0,
        )
    )


def prompts_of(shape: Shape, updates: int) -> list[list[int]]:
    """Random prompts, enough for every update."""
    import torch

    generator = torch.Generator().manual_seed(shape.seed)
    rows = shape.batch * updates
    prompts = torch.randint(4, min(shape.vocab, 2000), (rows, shape.prompt_len), generator=generator).tolist()
    if not shape.min_prompt_len:
        return prompts
    lengths = torch.randint(shape.min_prompt_len, shape.prompt_len + 1, (rows,), generator=generator).tolist()
    return [prompt[:length] for prompt, length in zip(prompts, lengths, strict=True)]


def constant(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward that costs nothing."""
    return [1.0] * len(responses)


# The sides


def align(side: str, shape: Shape, steps: int, device: str) -> dict[str, Any]:
    """Our engine, untouched, timed by a callback."""
    from transformers import TrainerCallback

    from align.ppo import PPOConfig, PPOTrainer

    tokenizer, policy, reward, value = models(shape, device)
    updates = steps + 1
    ends: list[float] = []
    figures: dict[str, float] = {}

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            figures["before_mb"] = resident_mb()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    trainer = PPOTrainer(
        PPOConfig(
            batch_size=shape.batch,
            total_episodes=shape.batch * updates,
            num_ppo_epochs=shape.ppo_epochs,
            response_length=shape.response_len,
            stop_token="eos" if shape.stop == "eos" else None,
            learning_rate=shape.lr,
            temperature=1.0,
            seed=shape.seed,
            use_cpu=device == "cpu",
            save_strategy="no",
            health={"min_score_std": None},  # a constant reward is meant
        ),
        tokenizer,
        policy,
        None,
        constant if side == "constant reward" else reward,
        [{"input_ids": prompt} for prompt in prompts_of(shape, updates)],
        value if side == "separate" else None,
        callbacks=[Clock()],
    )
    trainer.train()
    return {
        **report(ends, figures["before_mb"]),
        "optimizer_steps": updates * shape.ppo_epochs,
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
    }


def floor(side: str, shape: Shape, steps: int, device: str) -> dict[str, Any]:
    """The work that no PPO can leave out, as bare as it can be written. Finished responses fill up with padding."""
    import torch
    from transformers import DynamicCache

    _, policy, _, _ = models(shape, device)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=shape.lr)
    prompts = prompts_of(shape, steps + 1)
    ends: list[float] = []
    before = resident_mb()
    for update in range(steps + 1):
        rows = prompts[update * shape.batch : (update + 1) * shape.batch]
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        with torch.no_grad():
            cache, token, ended = DynamicCache(config=policy.config), ids, torch.zeros_like(ids[:, 0], dtype=torch.bool)
            response: list[Any] = []
            while len(response) < shape.response_len and not ended.all():
                positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -token.shape[1] :]
                hidden = policy.model(token, mask, positions, cache, use_cache=True).last_hidden_state[:, -1]
                token = policy.lm_head(hidden).softmax(-1).multinomial(1)
                response.append(token.masked_fill(ended.unsqueeze(1), 0))
                ended = ended | (token.squeeze(1) == 2) if shape.stop == "eos" else ended
                mask = torch.cat([mask, torch.ones_like(token)], 1)
        answers = torch.cat(response, 1)
        real = answers != 0
        padding = width - torch.tensor([len(row) for row in rows], device=device)
        length = width - padding + real.sum(1)
        for _ in range(shape.ppo_epochs):
            for some in length.argsort().chunk(4):  # of like length, so that there is little padding
                first, last = int(padding[some].min()), int(real[some].sum(1).max())
                whole = torch.cat([ids[some, first:], answers[some, :last]], 1)[:, :-1]
                attention = mask[some, first : width + last - 1] if bool((mask[some, first] == 0).any()) else None
                hidden = policy.model(whole, attention, use_cache=False).last_hidden_state[:, width - first - 1 :]
                log_probs = policy.lm_head(hidden).log_softmax(-1).gather(-1, answers[some, :last].unsqueeze(-1))
                (-(log_probs.squeeze(-1) * real[some, :last]).sum() / real.sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(time.perf_counter())
    return report(ends, before)


def run_side(side: str, shape: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """One side in a process of its own."""
    if side != "peer":
        command = [__file__, "--side", side, "--shape", json.dumps(shape)]
    else:
        command = [str(args.peer), "--quiet", "--trl-path", str(args.trl_path)]
        command += [part for name, size in shape.items() for part in (f"--{name}", str(size))]
    command += ["--steps", str(args.steps), "--device", args.device]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-4000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if side != "peer":
        return figures
    collecting = figures["detail_seconds"]["gc_collect"] / args.steps
    return {
        "seconds_per_update": figures["seconds_per_update_median"],
        "seconds_without_gc": figures["seconds_per_update_median"] - collecting,
        "memory_mb": figures["peak_rss_mb"] - figures["rss_before_train_mb"],
        "optimizer_steps": figures["optimizer_steps_all_updates"],
    }


# Figures


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def report(ends: list[float], before_mb: float) -> dict[str, Any]:
    """Figures of updates that ended at these times, of which the first was for warming up."""
    seconds = [end - start for start, end in itertools.pairwise(ends)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds_per_update": statistics.median(seconds), "all_seconds": seconds, "memory_mb": peak - before_mb}


def row_of(shape: str, side: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds, and the ratios: against the peer (with those of single rounds), and of the engine to the
    floor."""

    def rounds(of: str, figure: str) -> list[float]:
        return [run[figure] for run in runs if run["shape"] == shape and run["side"] == of and figure in run]

    def median(of: str, figure: str) -> float | None:
        found = rounds(of, figure)
        return statistics.median(found) if found else None

    seconds, memory = median(side, "seconds_per_update"), median(side, "memory_mb")
    assert seconds is not None
    assert memory is not None
    row: dict[str, Any] = {"shape": shape, "side": side, "seconds": round(seconds, 3), "memory_mb": round(memory)}
    if side in ("shared", "separate") and (peer := median("peer", "seconds_per_update")):
        row["times_the_peers_speed"] = round(peer / seconds, 2)
        both = zip(rounds("peer", "seconds_per_update"), rounds(side, "seconds_per_update"), strict=True)
        ratios = [theirs / ours for theirs, ours in both]
        row["in_single_rounds"] = f"{min(ratios):.2f} to {max(ratios):.2f}"
        row["without_its_gc"] = round((median("peer", "seconds_without_gc") or 0) / seconds, 2)
        row["of_its_memory"] = round(memory / (median("peer", "memory_mb") or math.nan), 2)
    if side == "constant reward" and (bare := median("floor", "seconds_per_update")):
        row["of_the_floor"] = round(seconds / bare, 2)
    return row


def markdown(table: list[dict[str, Any]]) -> str:
    """The table that benchmarks/ppo_vs_trl.md shows."""
    columns = list(dict.fromkeys(name for row in table for name in row))
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(str(row.get(column, "")) for column in columns) for row in table]
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    main()
