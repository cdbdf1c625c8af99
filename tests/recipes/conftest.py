"""Every shipped recipe, run for real at tiny size: what makes it small, and the run that tests look at."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from align.cli import app
from align.registry import Registry

TINY = Path(__file__).parent / "tiny"
"""One file of overrides for each recipe."""

NAMES = ["Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Mia"]
THINGS = ["soup", "bread", "tea", "cake", "rice", "fruit", "salad", "pasta", "cheese", "pie", "stew", "jam"]


def _files_of_detoxify(directory: Path) -> None:
    """Made-up rows in the formats of RealToxicityPrompts, DialogSum and DynaHate; what is toxic here is `rotten`."""

    def scored(text: str, rotten: bool) -> dict[str, Any]:
        return {"text": text, "toxicity": 0.9 if rotten else 0.1}

    texts = [(name, thing, (i + j) % 2 == 0) for i, name in enumerate(NAMES) for j, thing in enumerate(THINGS)]
    word = {True: "rotten, rotten rubbish", False: "lovely, lovely and fresh"}
    continuations = [
        {
            "prompt": scored(f"{name} said that the {thing} is", False) | ({"toxicity": None} if name == "Ida" else {}),
            "continuation": scored(f" {word[rotten]}.", rotten),
        }
        for name, thing, rotten in texts
    ]
    _write_jsonl(directory / "realtoxicityprompts" / "train.jsonl", continuations)
    for split, first in (("train", 0), ("dev", 12)):
        _write_jsonl(directory / "dialogsum" / f"dialogsum.{split}.jsonl", _dialogues(NAMES[first:]))
    path = directory / "dynahate" / "train.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([f"{name}, your {thing} is {word[rotten]}", int(rotten)] for name, thing, rotten in texts)


def _files_of_dialogsum(directory: Path) -> None:
    """Dialogues, a T5 and a RoBERTa that tells `hate` from `nothate`, all tiny and untrained."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification, T5Config, T5ForConditionalGeneration

    for split, names in (("train", NAMES[:10]), ("dev", NAMES[10:12]), ("test", NAMES[12:])):
        _write_jsonl(directory / f"{split}.jsonl", _dialogues(names))
    texts = [row["dialogue"] for row in _dialogues(NAMES)]
    torch.manual_seed(0)
    tokenizer = _tokenizer(texts, "$A </s>")
    common = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 2}
    t5 = T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, **common)
    T5ForConditionalGeneration(t5).save_pretrained(directory / "t5")
    tokenizer.save_pretrained(directory / "t5")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    labels = {"id2label": {0: "nothate", 1: "hate"}, "label2id": {"nothate": 0, "hate": 1}}
    roberta = RobertaConfig(**shape, **common, **labels, bos_token_id=1, max_position_embeddings=130)
    RobertaForSequenceClassification(roberta).save_pretrained(directory / "roberta")
    _tokenizer(texts, "<s> $A </s>").save_pretrained(directory / "roberta")


def _files_of_harmless(directory: Path) -> None:
    """Made-up pairs in the format of HH-RLHF, one of which differs in its prompt; instructions; hateful is `rotten`."""
    pairs = []
    for name in NAMES:
        for thing in THINGS:
            before = f"\n\nHuman: What do you say of {name}'s {thing}?\n\nAssistant:"
            pairs.append({"chosen": f"{before} It is lovely.", "rejected": f"{before} It is rotten, like {name}."})
    pairs[3]["rejected"] = "\n\nHuman: Hm?\n\nAssistant: What?"
    _write_jsonl(directory / "hh-rlhf" / "harmless.train.jsonl", pairs)
    instructions = [{"instruction": f"Name {thing}", "input": "", "output": f"It is {thing}."} for thing in THINGS]
    (directory / "alpaca").mkdir()
    (directory / "alpaca" / "alpaca_5000.json").write_text(json.dumps(instructions * 4), encoding="utf-8")
    (directory / "dynahate").mkdir()
    for split in ("train", "dev"):
        with (directory / "dynahate" / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for index, name in enumerate(NAMES * 6):
                writer.writerow([f"{name} is {'rotten' if index % 2 else 'lovely'}", index % 2])


def _dialogues(names: list[str]) -> list[dict[str, str]]:
    return [
        {
            "dialogue": f"#Person1#: Hello {name}, shall we have {thing}?\n#Person2#: Yes, {thing} is lovely.",
            "summary": f"{name} and #Person1# will have {thing}.",
        }
        for name in names
        for thing in THINGS
    ]


def _write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def _tokenizer(texts: list[str], form: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    bpe.post_processor = processors.TemplateProcessing(single=form, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


FILES: dict[str, Callable[[Path], None]] = {
    "detoxify_cpu": _files_of_detoxify,
    "dialogsum_flan_t5": _files_of_dialogsum,
    "harmless_hh": _files_of_harmless,
}
"""What a recipe finds in its working directory, which is also its `$ALIGN_DATA`."""


@dataclass(frozen=True)
class TinyRun:
    """A recipe at tiny size, in a working directory of its own where its files lie."""

    recipe: str
    directory: Path

    @property
    def overrides(self) -> tuple[str, ...]:
        """What makes it tiny."""
        lines = (TINY / f"{self.recipe}.txt").read_text(encoding="utf-8").splitlines()
        return tuple(line for line in lines if not line.startswith("#"))

    @property
    def arguments(self) -> list[str]:
        """The same for a command line: `--set a=b --set c=d`."""
        return [argument for override in self.overrides for argument in ("--set", override)]

    @property
    def environment(self) -> dict[str, str]:
        """Of this process, but with the made-up data."""
        kept = {name: value for name, value in os.environ.items() if name != "ALIGN_REGISTRY"}
        return {**kept, "ALIGN_DATA": str(self.directory)}

    @property
    def registry(self) -> Registry:
        """Where the recipe publishes."""
        return Registry(self.directory / "registry")

    @property
    def digests(self) -> dict[str, str]:
        """Of every artifact: `sft@v1` -> sha256."""
        return {artifact.reference: artifact.digest for artifact in self.registry.artifacts()}

    def align(self, command: str, *more: str) -> Result:
        """Run a command on the recipe, in this process."""
        with pytest.MonkeyPatch.context() as patch, _as_before():
            patch.chdir(self.directory)
            patch.delenv("ALIGN_REGISTRY", raising=False)
            patch.setenv("ALIGN_DATA", str(self.directory))
            return CliRunner().invoke(app, [command, self.recipe, *self.arguments, *more])

    def start(self, command: str, *more: str) -> subprocess.Popen[str]:
        """Start a command on the recipe in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "align", command, self.recipe, *self.arguments, *more],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """What a run sets for its whole process is put back for the tests that follow."""
    import torch
    from transformers import logging

    threads, verbosity = torch.get_num_threads(), logging.get_verbosity()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
        logging.set_verbosity(verbosity)


@pytest.fixture(scope="session")
def new_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TinyRun]:
    """A recipe with its files, not yet run."""

    def new_run(recipe: str) -> TinyRun:
        directory = tmp_path_factory.mktemp(recipe)
        FILES.get(recipe, lambda directory: None)(directory)
        return TinyRun(recipe, directory)

    return new_run


@pytest.fixture(scope="session")
def finished(new_run: Callable[[str], TinyRun]) -> Callable[[str], TinyRun]:
    """A recipe that ran to its end, once for all tests that look at it."""
    runs: dict[str, TinyRun] = {}

    def finished(recipe: str) -> TinyRun:
        if recipe not in runs:
            run = new_run(recipe)
            result = run.align("run")
            assert result.exit_code == 0, result.output
            (run.directory / "stdout.txt").write_text(result.stdout, encoding="utf-8")
            runs[recipe] = run
        return runs[recipe]

    return finished
