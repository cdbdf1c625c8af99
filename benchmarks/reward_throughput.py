"""How many texts a second a classifier scores here, and in transformers' text-classification pipeline.

    python benchmarks/reward_throughput.py          # writes results/reward_throughput.json

Texts of mixed length from the embedded corpus, none of them cut, and with `--data` those of real data sets; classifiers
of two sizes with random weights, which cost what trained ones cost, and with `--classifier` one that was trained, which
scores the real texts that it need not cut. The pipeline is given the same model and tokenizer,
once at its defaults (a text at a time) and once at each of several batch sizes, of which the fastest counts, one text
at a time among them. All take turns, round after round, in one process. Before timing, all scores are compared.

On one thread, CPU seconds of the process are counted: other work on the machine hardly changes them. With more threads,
which wait for each other busily, it is the clock's seconds, and the machine should be quiet.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    pipeline,
)

import reward_models
from align.data.dialogues import generate

RESULTS = Path(__file__).parent / "results" / "reward_throughput.json"
SIZES = {
    "3 layers, 192 wide": {"hidden_size": 192, "num_hidden_layers": 3, "intermediate_size": 768},
    "6 layers, 384 wide": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
}
BATCH_SIZES = (8, 32, 128)
LONGEST_TEXTS = (16, 64, 200)
"""Words, of three mixtures: lengths are log-uniform from 1 up to these."""
LABELS = {0: "nontoxic", 1: "toxic"}
LONGEST = 512
TOLERANCE = 1e-5
MEASURED_MEMORY = ("align", "pipeline, defaults", "pipeline, batch size 128")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES))
    parser.add_argument("--data", type=Path, help="a directory with dynahate/ and realtoxicityprompts/")
    parser.add_argument("--classifier", type=Path, help="a directory with a trained one, for the texts of --data")
    parser.add_argument("--torch-compile", action="store_true", help="the classifier here with `torch_compile: true`")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--memory", type=json.loads, help=argparse.SUPPRESS)  # this process measures its peak
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        print(_memory_rises_here(*args.memory))
        return
    clock = time.process_time if args.threads == 1 else time.perf_counter
    mixtures = {f"1 to {longest}": mixed_texts(args.texts, longest) for longest in LONGEST_TEXTS}
    tokenizers = dict.fromkeys(mixtures, trained_tokenizer([text for texts in mixtures.values() for text in texts]))
    if args.data:
        real = real_texts(args.data)
        of_real = trained_tokenizer([text for texts in real.values() for text in texts], vocabulary=16_000)
        for name, texts in real.items():
            mixtures[name], tokenizers[name] = random.Random(0).sample(texts, args.texts), of_real
    runs: list[dict[str, Any]] = []

    def measure(model: str, directory: Path, words: str, texts: list[str]) -> None:
        runs.append(
            {"model": model, "words": words, **measured(directory, texts, args.rounds, clock, args.torch_compile)}
        )
        print({key: value for key, value in runs[-1].items() if key != "seconds"}, flush=True)

    for name in args.sizes:
        for words, texts in mixtures.items():
            with tempfile.TemporaryDirectory() as directory:
                save_random_classifier(name, tokenizers[words], Path(directory))
                measure(name, Path(directory), words, texts)
    if args.classifier:
        for words, texts in real_texts(args.data).items():
            fitting = texts_that_fit(args.classifier, random.Random(0).sample(texts, 2 * args.texts))
            measure(args.classifier.name, args.classifier, words, fitting[: args.texts])
    result = {
        "texts": args.texts,
        "threads": args.threads,
        "cores": os.cpu_count(),
        "rounds": args.rounds,
        "runs": runs,
    }
    result["gigaflops_of_a_product"] = {size: gigaflops_of_a_product(size, clock) for size in args.sizes}
    result["peak_memory_rises_mb"] = {
        size: {name: memory_rises(size, name, args.texts) for name in MEASURED_MEMORY} for size in args.sizes
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def mixed_texts(count: int, longest: int, seed: int = 0) -> list[str]:
    """Pieces of the embedded dialogues, their lengths log-uniform between 1 and so many words."""
    rng = random.Random(seed)
    words = " ".join(row["dialogue"] for row in generate("dialogues", "train", 2000, seed)).split()
    lengths = [round(longest ** rng.random()) for _ in range(count)]
    starts = [rng.randrange(len(words) - length) for length in lengths]
    return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def real_texts(directory: Path) -> dict[str, list[str]]:
    """What a toxicity reward reads: posts, and continuations by a language model."""
    with (directory / "dynahate" / "dev.csv").open(encoding="utf-8", newline="") as file:
        posts = [row["text"] for row in csv.DictReader(file)]
    lines = (directory / "realtoxicityprompts" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    continuations = [json.loads(line)["continuation"]["text"] for line in lines]
    return {"DynaHate dev": posts, "RealToxicityPrompts, continuations": continuations}


def trained_tokenizer(texts: list[str], vocabulary: int = 2000) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet)
    )
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=LONGEST
    )


def texts_that_fit(classifier: Path, texts: list[str]) -> list[str]:
    """Those that a classifier reads to their end: here and in the pipeline they are then the same tokens."""
    longest = reward_models.load(str(classifier), device="cpu").describe()["max_length"]
    lengths = map(len, AutoTokenizer.from_pretrained(classifier)(texts)["input_ids"])
    return [text for text, length in zip(texts, lengths, strict=True) if length <= longest]


def save_random_classifier(size: str, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    shape = SIZES[size]
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=shape["hidden_size"] // 32,
        max_position_embeddings=LONGEST + 2,
        pad_token_id=1,
        id2label=LABELS,
        label2id={label: index for index, label in LABELS.items()},
        **shape,
    )
    RobertaForSequenceClassification(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "reward_model.json").write_text('{"label": "nontoxic"}', encoding="utf-8")


def contestants(directory: Path, texts: list[str], torch_compile: bool = False) -> dict[str, Callable[[], list[float]]]:
    """What scores all texts with one classifier, by name."""
    reward = reward_models.load(str(directory), transform="probability", device="cpu", torch_compile=torch_compile)
    classify = pipeline("text-classification", str(directory), device="cpu", dtype=torch.float32)
    label = reward.describe()["label"]

    def ours() -> list[float]:
        return reward.score([""] * len(texts), texts)

    def theirs(**batch_size: int) -> list[float]:
        answers = classify(texts, top_k=None, **batch_size)
        return [next(one["score"] for one in answer if one["label"] == label) for answer in answers]

    competitors: dict[str, Callable[[], list[float]]] = {"align": ours, "pipeline, defaults": theirs}
    for size in BATCH_SIZES:
        competitors[f"pipeline, batch size {size}"] = lambda size=size: theirs(batch_size=size)
    return competitors


def measured(
    directory: Path, texts: list[str], rounds: int, clock: Callable[[], float], torch_compile: bool = False
) -> dict[str, Any]:
    """Figures of one model on one mixture."""
    competitors = contestants(directory, texts, torch_compile)
    reference = competitors["align"]()
    apart = {
        name: max(abs(a - b) for a, b in zip(reference, score(), strict=True)) for name, score in competitors.items()
    }
    assert max(apart.values()) < TOLERANCE, apart
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for _ in range(rounds):
        for name, score in competitors.items():
            started = clock()
            score()
            seconds[name].append(clock() - started)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    best = min(median for name, median in medians.items() if name != "align")
    lengths = sorted(len(ids) for ids in AutoTokenizer.from_pretrained(directory)(texts)["input_ids"])
    return {
        "parameters": AutoModelForSequenceClassification.from_pretrained(directory).num_parameters(),
        "tokens": {
            "median": lengths[len(lengths) // 2],
            "mean": round(sum(lengths) / len(lengths), 1),
            "most": lengths[-1],
        },
        "texts_per_second": {name: round(len(texts) / median, 1) for name, median in medians.items()},
        "times_faster_than_defaults": round(medians["pipeline, defaults"] / medians["align"], 2),
        "times_faster_than_best_batch_size": round(best / medians["align"], 2),
        "largest_difference_of_scores": max(apart.values()),
        "seconds": {name: [round(one, 3) for one in taken] for name, taken in seconds.items()},
    }


def gigaflops_of_a_product(size: str, clock: Callable[[], float], rows: int = 1_024, times: int = 200) -> float:
    """10⁹ operations a second in the largest linear layer of a model, on a full batch: what no scoring can pass."""
    wide, wider = SIZES[size]["hidden_size"], SIZES[size]["intermediate_size"]
    layer, inputs = torch.nn.Linear(wide, wider), torch.randn(rows, wide)
    seconds = []
    with torch.inference_mode():
        for _ in range(times):
            started = clock()
            layer(inputs)
            seconds.append(clock() - started)
    return round(2 * rows * wide * wider / statistics.median(seconds) / 1e9, 1)


def memory_rises(size: str, name: str, count: int) -> int:
    """MB by which the peak of a new process rises when one contestant scores the longest mixture for the first time."""
    asked = json.dumps([size, name, count])
    command = [sys.executable, __file__, "--memory", asked]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return int(done.stdout.strip().splitlines()[-1])


def _memory_rises_here(size: str, name: str, count: int) -> int:
    texts = mixed_texts(count, LONGEST_TEXTS[-1])
    with tempfile.TemporaryDirectory() as directory:
        save_random_classifier(size, trained_tokenizer(texts), Path(directory))
        score = contestants(Path(directory), texts)[name]
    before = _peak_kb()
    score()
    return round((_peak_kb() - before) / 2**10)


def _peak_kb() -> int:
    """Of this program alone: what `getrusage` says begins with the peak of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    main()
