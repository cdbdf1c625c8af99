from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from align import interrupt
from align.configs.pretrain import PretrainConfig
from align.data import examples
from align.errors import AlignError, Interrupted, UsageError
from align.modeling import training
from align.modeling.load import load_tokenizer
from align.stages import pretrain
from align.tracking import EventLog, NullTracker
from align.workspace import Workspace

Config = Callable[..., PretrainConfig]


def digests(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("architecture", ["llama", "t5", "modernbert"])
def test_same_seed_gives_the_same_files_also_when_interrupted(
    architecture: str,
    pretrain_config: Config,
    tiny_models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in the second epoch, away from any regular checkpoint, and run again."""
    config = pretrain_config(architecture)
    workspace = Workspace(tmp_path)

    class SignalInSecondEpoch(NullTracker):
        def log(self, metrics: Any, step: int) -> None:
            if metrics["train/epoch"] > 1:
                monkeypatch.setattr(interrupt, "_received", 15)

    with pytest.raises(Interrupted, match="a checkpoint of step 21 was saved"):
        pretrain.run(config, {}, workspace, SignalInSecondEpoch())
    assert not workspace.output.exists()
    monkeypatch.setattr(interrupt, "_received", None)
    pretrain.run(config, {}, workspace, EventLog(workspace.events))
    assert digests(workspace.output) == digests(tiny_models[architecture])


@pytest.mark.parametrize("architecture", ["llama", "t5", "modernbert"])
def test_compiled_and_with_other_attention_it_learns_the_same(
    architecture: str,
    pretrain_config: Config,
    tiny_models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = pretrain_config(architecture, torch_compile=True)
    config = config.model_copy(update={"attn_implementation": "eager"})
    monkeypatch.setattr(
        pretrain, "training_arguments", partial(training.training_arguments, torch_compile_backend="eager")
    )
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    workspace = Workspace(tmp_path)
    pretrain.run(config, {}, workspace, NullTracker())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    plain = tiny_models[architecture]
    expected = load_file(plain / "model.safetensors")
    for name, weight in load_file(workspace.output / "model.safetensors").items():
        torch.testing.assert_close(weight, expected[name], atol=1e-4, rtol=0)
    assert (workspace.output / "config.json").read_text() == (plain / "config.json").read_text()


def test_what_cannot_be_compiled_trains_as_it_is(
    pretrain_config: Config, tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._dynamo.config, "suppress_errors", False)
    absent = partial(training.training_arguments, torch_compile_backend="tvm")
    monkeypatch.setattr(pretrain, "training_arguments", absent)
    torch._dynamo.reset()
    workspace = Workspace(tmp_path)
    pretrain.run(pretrain_config("llama", torch_compile=True), {}, workspace, NullTracker())
    assert digests(workspace.output) == digests(tiny_models["llama"])


def test_attention_that_transformers_lacks(pretrain_config: Config, tmp_path: Path) -> None:
    config = pretrain_config("llama").model_copy(update={"attn_implementation": "nonsense"})
    with pytest.raises(UsageError, match=r"attn_implementation: .*nonsense.* is not supported"):
        pretrain.run(config, {}, Workspace(tmp_path), NullTracker())


def test_metrics_and_events(pretrain_config: Config, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    config = pretrain_config("llama", num_train_epochs=1)
    metrics = pretrain.run(config, {}, workspace, EventLog(workspace.events))
    assert set(metrics) == {"loss", "perplexity", "train_loss", "parameters", "tokens"}
    assert isinstance(metrics["loss"], float)
    assert isinstance(metrics["perplexity"], float)
    assert 1 < metrics["perplexity"] < 400
    assert '"train/loss"' in workspace.events.read_text()


def test_llama_loads_plainly(tiny_models: dict[str, Path]) -> None:
    directory = tiny_models["llama"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    text = "Grüße, 世界!  two spaces\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_t5_loads_plainly_and_its_tokenizer_ends_texts(tiny_models: dict[str, Path]) -> None:
    directory = tiny_models["t5"]
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    assert tokenizer("red cat")["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer("red<extra_id_31>")["input_ids"][-2] == tokenizer.convert_tokens_to_ids("<extra_id_31>")
    assert torch.isfinite(model(**tokenizer("red", return_tensors="pt"), labels=torch.tensor([[5, 1]])).loss)


def test_an_encoder_fills_in_masked_tokens(tiny_models: dict[str, Path]) -> None:
    directory = tiny_models["modernbert"]
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    assert tokenizer("red cat")["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.mask_token_id == tokenizer("<mask>")["input_ids"][0]
    assert model(**tokenizer("red <mask>", return_tensors="pt")).logits.shape[-1] == len(tokenizer)


def test_masking_tells_what_stood_there() -> None:
    class Special:
        mask_token_id = 3

        def __len__(self) -> int:
            return 50

    tokens = np.arange(10, 50).repeat(25)
    rows = pretrain.Masking([tokens], Special(), seed=0)  # type: ignore[arg-type]
    shown, labels, causal = rows[0]
    assert not causal
    chosen = labels != -100
    assert chosen.mean() == pytest.approx(0.3, abs=0.05)
    assert (labels[chosen] == tokens[chosen]).all()
    assert (shown[~chosen] == tokens[~chosen]).all()
    assert (shown[chosen] == 3).mean() == pytest.approx(0.8, abs=0.05)
    assert (rows[0][0] == shown).all()
    rows.epoch = 1
    assert (rows[0][0] != shown).any()


def test_a_share_of_blocks_is_read_from_left_to_right(pretrain_config: Config, tmp_path: Path) -> None:
    config = pretrain_config("modernbert").model_copy(update={"causal_share": 0.5})
    tokenizer = pretrain.train_tokenizer(["red cat"] * 5, config)
    rows = pretrain.Masking([np.arange(10, 30)] * 40, tokenizer, seed=0, causal_share=0.5)
    causal = [row for row in rows if row.causal]
    assert 10 < len(causal) < 30
    assert all((row.labels[:-1] == row.shown[1:]).all() and row.labels[-1] == -100 for row in causal)
    assert all(((row.labels == -100) | (row.labels == np.arange(10, 30))).all() for row in rows if not row.causal)

    mixed = [causal[0], next(row for row in rows if not row.causal), causal[0]._replace(shown=np.arange(10, 25))]
    batch = pretrain.MaskCollator(tokenizer.pad_token_id)(mixed)
    model = pretrain.new_model("modernbert", config.size, tokenizer).eval()
    model.set_attn_implementation("eager")
    later = batch | {"input_ids": batch["input_ids"].clone()}
    later["input_ids"][:2, 12:] = 5
    later["input_ids"][2, 15:] = 5  # of the short one, only what pads it
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            before, after = (model(**{**one, "labels": None}).logits for one in (batch, later))
        torch.testing.assert_close(before[0, :12], after[0, :12])
        torch.testing.assert_close(before[2, :15], after[2, :15])
        assert (before[1, :12] - after[1, :12]).abs().max() > 1e-4

    metrics = pretrain.run(config, {}, Workspace(tmp_path), NullTracker())
    assert metrics["loss"] < math.log(len(load_tokenizer(tmp_path / "output")))


def test_only_an_encoder_is_read_in_two_ways(pretrain_config: Config) -> None:
    llama = pretrain_config("llama").model_dump()
    with pytest.raises(ValidationError, match="causal_share is of encoders: a llama reads in one way"):
        PretrainConfig.model_validate({**llama, "causal_share": 0.5})


def test_lower_case_makes_one_word_of_two(pretrain_config: Config) -> None:
    config = pretrain_config("modernbert")
    config = config.model_copy(update={"tokenizer": config.tokenizer.model_copy(update={"lowercase": True})})
    tokenizer = pretrain.train_tokenizer(["Red red"] * 5, config)
    assert tokenizer("RED")["input_ids"] == tokenizer("red")["input_ids"]


def test_nothing_of_the_published_files_is_a_path_or_a_pickle(tiny_models: dict[str, Path]) -> None:
    directory = tiny_models["llama"]
    assert sorted(path.name for path in directory.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for path in directory.iterdir():
        assert str(directory.parent).encode() not in path.read_bytes()


def test_corrupted_text_and_spans_make_up_the_block() -> None:
    tokens = np.arange(100, 164)
    text, target = pretrain.corrupt(tokens, list(range(10, 42)), 1, np.random.default_rng(0))
    assert text[-1] == target[-1] == 1
    spans: dict[int, list[int]] = {}
    for token in target[:-1].tolist():
        if token < 100:
            spans[token] = []
        else:
            spans[list(spans)[-1]].append(token)
    assert list(spans) == [10, 11, 12]
    assert sum(map(len, spans.values())) == 10
    whole = [part for token in text[:-1].tolist() for part in (spans[token] if token < 100 else [token])]
    assert whole == tokens.tolist()


@pytest.mark.parametrize("length", range(1, 9))
def test_short_blocks_can_be_corrupted(length: int) -> None:
    text, target = pretrain.corrupt(np.arange(100, 100 + length), [10, 11], 1, np.random.default_rng(0))
    assert len(text) + len(target) == length + 2 * (target == 10).sum() + 2 * (target == 11).sum() + 2


def test_padding_of_the_last_block_is_not_in_the_loss() -> None:
    batch = pretrain.BlockCollator(0)([np.array([5, 6, 7]), np.array([8])])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, -100, -100]]


def test_too_little_text(pretrain_config: Config, tmp_path: Path) -> None:
    huge = pretrain_config("t5").model_copy(update={"max_length": 100_000})
    with pytest.raises(UsageError, match=r"make only \d+ tokens: too few for two blocks"):
        pretrain.run(huge, {}, Workspace(tmp_path), NullTracker())


def test_a_remainder_is_not_all_that_is_measured_on(pretrain_config: Config, tmp_path: Path) -> None:
    config = pretrain_config("llama", max_steps=1)
    texts = examples.texts(config.data)
    tokens = sum(map(len, pretrain.pack(texts, pretrain.train_tokenizer(texts, config), 100)))
    short = config.model_copy(update={"max_length": (tokens - 1) // 4})  # four blocks and 1 to 4 tokens
    metrics = pretrain.run(short, {}, Workspace(tmp_path), NullTracker())
    assert metrics["tokens"] == 3 * short.max_length
    assert metrics["perplexity"] == pytest.approx(len(load_tokenizer(tmp_path / "output")), rel=0.3)


def test_a_loss_gone_wrong_stops_the_stage(
    pretrain_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = pretrain_config("llama", learning_rate=1e30, max_grad_norm=0)
    with caplog.at_level(logging.ERROR), pytest.raises(AlignError, match="the gradient is no longer finite at step"):
        pretrain.run(config, {}, Workspace(tmp_path), NullTracker())
