from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from align import interrupt
from align.configs.sft import SftConfig
from align.data.examples import Instruction
from align.errors import Interrupted, UsageError
from align.modeling.load import load_causal_or_seq2seq, load_tokenizer, parameter_count
from align.modeling.training import completion_loss
from align.stages import sft
from align.tracking import NullTracker
from align.workspace import Workspace


@pytest.fixture
def configured(rows: Path) -> Any:
    def config(**settings: Any) -> SftConfig:
        data = {"dataset": {"path": str(rows)}, "prompt": "{prompt}\nFirst:", "completion": " {completion}"}
        train = {"num_train_epochs": 3, "learning_rate": 5e-3, **settings.pop("train", {})}
        return SftConfig.model_validate(
            {"kind": "sft", "model": "base", "seed": 5, "data": [data], "max_length": 100, "train": train, **settings}
        )

    return config


def weights(directory: Path) -> str:
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()


def test_only_completion_and_end_are_in_the_loss(tiny_models: dict[str, Path]) -> None:
    tokenizer, model = load_tokenizer(tiny_models["llama"]), load_causal_or_seq2seq(tiny_models["llama"])
    [row], left_out = sft.tokenise([Instruction("red cat:", " blue")], tokenizer, model, 100)
    assert left_out == 0
    assert tokenizer.decode(row["input_ids"]) == "red cat: blue</s>"
    labels = [label for label in row["labels"] if label != -100]
    assert tokenizer.decode(labels) == " blue</s>"
    assert row["input_ids"][-len(labels) :] == labels


def test_encoder_decoder_rows_end_on_both_sides(tiny_models: dict[str, Path]) -> None:
    tokenizer, model = load_tokenizer(tiny_models["t5"]), load_causal_or_seq2seq(tiny_models["t5"])
    [row], _ = sft.tokenise([Instruction("red cat:", "blue")], tokenizer, model, 100)
    assert tokenizer.decode(row["input_ids"]) == "red cat:</s>"
    assert tokenizer.decode(row["labels"]) == "blue</s>"


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_neither_padding_nor_the_batch_changes_the_loss(architecture: str, tiny_models: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tiny_models[architecture])
    model = load_causal_or_seq2seq(tiny_models[architecture])
    pairs = [("red", " cat"), ("red blue cat dog house tree", " runs sees runs"), ("a" * 40, " b")]
    rows, _ = sft.tokenise([Instruction(*pair) for pair in pairs], tokenizer, model, 100)
    collate = sft.Collator(model, tokenizer.pad_token_id)
    together, tokens = completion_loss(model, rows, collate, batch_size=3)
    alone = [completion_loss(model, [row], collate, batch_size=1) for row in rows]
    assert tokens == sum(count for _, count in alone)
    assert together == pytest.approx(sum(loss * count for loss, count in alone) / tokens, abs=1e-5)
    assert together != pytest.approx(sum(loss for loss, _ in alone) / 3, abs=1e-3)


def test_leaving_out_prompt_logits_changes_nothing(tiny_models: dict[str, Path]) -> None:
    tokenizer, model = load_tokenizer(tiny_models["llama"]), load_causal_or_seq2seq(tiny_models["llama"])
    rows, _ = sft.tokenise(
        [Instruction("red blue cat", " dog"), Instruction("tree house red", " dog runs")], tokenizer, model, 100
    )
    few = sft.Collator(model, tokenizer.pad_token_id)
    every = sft.Collator(model, tokenizer.pad_token_id)
    every.only_last_logits = False
    assert few(rows)["labels"].shape[1] < every(rows)["labels"].shape[1]
    torch.testing.assert_close(model(**few(rows)).loss, model(**every(rows)).loss)


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_full_tuning_learns_the_completion(
    architecture: str, tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    config = configured(train={"num_train_epochs": 6})
    config = config.model_copy(update={"evaluation_data": config.data})
    before = configured(train={"max_steps": 1, "learning_rate": 1e-9}).model_copy(
        update={"evaluation_data": config.data}
    )
    inputs = {"base": tiny_models[architecture]}
    untrained = sft.run(before, inputs, Workspace(tmp_path / "before"), NullTracker())
    metrics = sft.run(config, inputs, Workspace(tmp_path / "after"), NullTracker())
    assert metrics["loss"] < 0.7 * untrained["loss"]  # type: ignore[operator]
    assert metrics["trainable_parameters"] == metrics["parameters"]
    assert metrics["rows"] == 80
    output = tmp_path / "after" / "output"
    auto = AutoModelForSeq2SeqLM if architecture == "t5" else AutoModelForCausalLM
    assert auto.from_pretrained(output).generation_config.eos_token_id == 1
    assert AutoTokenizer.from_pretrained(output).eos_token == "</s>"


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_merged_weights_are_base_and_adapter(
    architecture: str, tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    config = configured(method="lora", lora={"r": 4, "alpha": 8, "dropout": 0.1})
    metrics = sft.run(config, {"base": tiny_models[architecture]}, Workspace(tmp_path), NullTracker())
    base = load_causal_or_seq2seq(tiny_models[architecture])
    assert metrics["parameters"] == sum(part.numel() for part in base.parameters())
    assert metrics["trainable_parameters"] < metrics["parameters"]  # type: ignore[operator]
    merged = load_causal_or_seq2seq(tmp_path / "output")
    batch = {"input_ids": torch.tensor([[5, 60, 7]]), "labels": torch.tensor([[5, 60, 7]])}
    untouched = base(**batch).logits
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "output" / "adapter")).eval()
    torch.testing.assert_close(merged(**batch).logits, adapted(**batch).logits, atol=1e-5, rtol=1e-4)
    assert (merged(**batch).logits - untouched).abs().max() > 1e-3
    for path in (tmp_path / "output").rglob("*.json"):
        assert str(tiny_models[architecture]) not in path.read_text()


def test_adapter_alone_is_loaded_onto_its_base(tiny_models: dict[str, Path], tmp_path: Path, configured: Any) -> None:
    config = configured(method="lora", train={"max_steps": 4})
    sft.run(config, {"base": tiny_models["llama"]}, Workspace(tmp_path / "merged"), NullTracker())
    alone = config.model_copy(update={"publish": "adapter"})
    sft.run(alone, {"base": tiny_models["llama"]}, Workspace(tmp_path / "alone"), NullTracker())
    output = tmp_path / "alone" / "output"
    assert not (output / "config.json").exists()
    model = load_causal_or_seq2seq(output, base=tiny_models["llama"])
    expected = load_causal_or_seq2seq(tmp_path / "merged" / "output").state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    with pytest.raises(UsageError, match="only an adapter"):
        load_causal_or_seq2seq(output)
    files = [
        (path.name, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in (output, tmp_path / "merged" / "output" / "adapter")
        for path in sorted(path.glob("adapter*"))
    ]
    assert files[:2] == files[2:]


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_qlora_publishes_what_it_trained_in_full_precision(
    architecture: str, wide_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    config = configured(method="qlora", train={"learning_rate": 1e-2})
    inputs = {"base": wide_models[architecture]}
    metrics = sft.run(config, inputs, Workspace(tmp_path), NullTracker())
    published = load_causal_or_seq2seq(tmp_path / "output")
    assert metrics["parameters"] == parameter_count(published)
    four_bits = load_causal_or_seq2seq(wide_models[architecture], four_bits=True)
    ids = torch.tensor([[5, 6, 7, 8]])
    batch = {"input_ids": ids} | ({"decoder_input_ids": ids} if architecture == "t5" else {})
    untuned = four_bits(**batch).logits
    trained = PeftModel.from_pretrained(four_bits, tmp_path / "output" / "adapter")
    torch.testing.assert_close(published(**batch).logits, trained(**batch).logits, atol=1e-4, rtol=0)
    assert (published(**batch).logits - untuned).abs().max() > 0.5
    assert "quantization_config" not in json.loads((tmp_path / "output" / "config.json").read_text())
    ppo_start = load_causal_or_seq2seq(tmp_path / "output", four_bits=True)
    assert {parameter.dtype for parameter in ppo_start.parameters()} == {torch.float32, torch.uint8}


def test_qlora_without_bitsandbytes_says_what_to_install(
    tiny_models: dict[str, Path], tmp_path: Path, configured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("align.modeling.load.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'align-rlhf\[quantization\]'"):
        sft.run(configured(method="qlora"), {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_resumed_run_gives_the_same_weights(
    method: str, tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    """With dropout, accumulation and grouping by length; killed after a checkpoint that is then damaged."""
    lora = {} if method == "full" else {"lora": {"dropout": 0.2}}
    train = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "save_steps": 6, "logging_steps": 4}
    config = configured(method=method, train=train, **lora)
    inputs = {"base": tiny_models["llama"]}

    class Killed(NullTracker):
        def log(self, metrics: Any, step: int) -> None:
            if step == 20:
                raise KeyboardInterrupt

    sft.run(config, inputs, Workspace(tmp_path / "whole"), NullTracker())
    workspace = Workspace(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        sft.run(config, inputs, workspace, Killed())
    assert sorted(path.name for path in workspace.checkpoints.iterdir()) == ["checkpoint-12", "checkpoint-18"]
    (workspace.checkpoints / "checkpoint-18" / "optimizer.pt").unlink()
    metrics = sft.run(config, inputs, workspace, NullTracker())
    assert (workspace.checkpoints / "damaged-checkpoint-18").is_dir()
    assert weights(workspace.output) == weights(tmp_path / "whole" / "output")
    again = sft.run(config, inputs, workspace, NullTracker())
    assert weights(workspace.output) == weights(tmp_path / "whole" / "output")
    assert again["train_loss"] == metrics["train_loss"]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_killed_after_its_last_step_it_takes_no_other(
    method: str, tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    """The last step lies within an epoch, where a trainer that resumes would go on."""
    config = configured(method=method, train={"max_steps": 7, "save_steps": 3, "per_device_train_batch_size": 4})
    workspace = Workspace(tmp_path)
    metrics = sft.run(config, {"base": tiny_models["llama"]}, workspace, NullTracker())
    before = weights(workspace.output)
    shutil.rmtree(workspace.output)
    assert sft.run(config, {"base": tiny_models["llama"]}, workspace, NullTracker()) == metrics
    assert weights(workspace.output) == before


def test_a_signal_stops_after_a_checkpoint(
    tiny_models: dict[str, Path], tmp_path: Path, configured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupt, "_received", 2)
    with pytest.raises(Interrupted, match="interrupted by SIGINT; a checkpoint of step 1 was saved") as raised:
        sft.run(configured(), {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())
    assert raised.value.exit_code == 130
    assert (tmp_path / "checkpoints" / "checkpoint-1" / "COMPLETE.json").is_file()


def test_long_rows_are_left_out_and_counted(
    tiny_models: dict[str, Path], tmp_path: Path, configured: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(max_length=18, train={"max_steps": 1})
    with caplog.at_level(logging.WARNING):
        metrics = sft.run(config, {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())
    assert 0 < metrics["rows_left_out"] < 80  # type: ignore[operator]
    assert metrics["rows"] + metrics["rows_left_out"] == 80  # type: ignore[operator]
    assert "are longer than max_length 18: left out" in caplog.text
    held_out = configured(
        max_length=18, train={"max_steps": 1}, evaluation_data=[data.model_dump() for data in config.data]
    )
    sft.run(held_out, {"base": tiny_models["llama"]}, Workspace(tmp_path / "held_out"), NullTracker())
    assert "rows of evaluation_data are longer than max_length 18: left out" in caplog.text
    with pytest.raises(UsageError, match="every row is longer than max_length 3 tokens"):
        sft.run(configured(max_length=3), {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())


def test_label_smoothing_works_for_both(tiny_models: dict[str, Path], tmp_path: Path, configured: Any) -> None:
    config = configured(train={"max_steps": 2, "label_smoothing_factor": 0.1})
    for architecture in ("llama", "t5"):
        metrics = sft.run(
            config, {"base": tiny_models[architecture]}, Workspace(tmp_path / architecture), NullTracker()
        )
        assert metrics["train_loss"] > 0  # type: ignore[operator]
