"""Adapters published alone go from stage to stage, each on the base that it was trained on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LORA = [f"stages.{stage}.{key}" for stage in ("sft", "ppo") for key in ("method=lora", "lora={r: 4, alpha: 8}")]
SHORT = ["stages.ppo.ppo.total_episodes=16", "stages.sft.train.max_steps=6"]

LOADS = """
import sys
sys.modules["align"] = sys.modules["reward_models"] = None  # importing them is an error
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, *pairs = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base)
for alone, merged in zip(pairs[::2], pairs[1::2]):
    ids = AutoTokenizer.from_pretrained(alone)("Summarize: soup", return_tensors="pt")["input_ids"]
    expected = AutoModelForCausalLM.from_pretrained(merged)(input_ids=ids).logits
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), f"{merged}/adapter")
    model = PeftModel.from_pretrained(model, alone)
    found = [model(input_ids=ids).logits, beside(input_ids=ids).logits]
    for logits in found if alone == pairs[0] else found[:1]:  # the second adapter belongs onto the first one's result
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    model = model.merge_and_unload()
"""


def test_later_stages_load_adapters_with_their_bases(new_run: Callable[[str], Any]) -> None:
    """Policy and evaluation take an adapter of an adapter, and everything comes out as if merged weights were kept."""
    run = new_run("quickstart")
    samples = {}
    for publish in ("adapter", "merged"):
        keys = [*LORA, *SHORT, *(f"stages.{stage}.publish={publish}" for stage in ("sft", "ppo"))]
        arguments = [part for key in keys for part in ("--set", key)]
        result = run.align("run", "--wandb", "disabled", *arguments)
        assert result.exit_code == 0, result.stderr
        sizes = {step["stage"]: step["trainable_parameters"] for step in _planned(run, arguments)}
        measured = {
            name: run.registry.resolve(name).manifest.metrics["trainable_parameters"] for name in ("sft", "ppo")
        }
        assert measured == {name: sizes[name] for name in measured}
        samples[publish] = run.registry.resolve("evaluation").path.joinpath("samples.jsonl").read_text(encoding="utf-8")
    assert samples["adapter"] == samples["merged"]
    sft, ppo = (run.registry.resolve(f"{name}@v1") for name in ("sft", "ppo"))
    assert not (ppo.path / "config.json").exists()
    base = run.registry.resolve("base@v1")
    assert sft.manifest.contract["base"] == {"reference": "base@v1", "digest": base.digest}
    assert ppo.manifest.contract["base"] == {"reference": "sft@v1", "digest": sft.digest}
    assert json.loads((ppo.path / "adapter_config.json").read_text())["base_model_name_or_path"] == ""
    merged = run.registry.resolve("ppo@v2").manifest.contract
    assert merged["base"]["reference"] == "sft@v2"
    assert merged["tokenizer"] == base.manifest.contract["tokenizer"]
    assert run.registry.verify() == []
    assert not list((run.registry.root / "workspaces").glob("*/inputs"))
    _load_without_align(
        base.path, sft.path, run.registry.resolve("sft@v2").path, ppo.path, run.registry.resolve("ppo@v2").path
    )


def _load_without_align(*paths: Path) -> None:
    """Adapters with plain peft, alone and beside merged weights: they give what the merged weights give."""
    done = subprocess.run([sys.executable, "-c", LOADS, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def _planned(run: Any, arguments: list[str]) -> Any:
    return json.loads(run.align("plan", "--json", *arguments).stdout)


def test_a_reward_trained_by_adapters_is_published_merged(new_run: Callable[[str], Any]) -> None:
    run = new_run("quickstart")
    lora = ("stages.toxicity.method=lora", "stages.toxicity.require_auc=null", "stages.toxicity.train.max_steps=2")
    result = run.align("run", "toxicity", "--wandb", "disabled", *(part for key in lora for part in ("--set", key)))
    assert result.exit_code == 0, result.stderr
    published = run.registry.resolve("toxicity")
    assert (published.path / "model.safetensors").is_file()
    assert (published.path / "adapter" / "adapter_model.safetensors").is_file()
    base = run.registry.resolve("base@v1")
    assert published.manifest.contract["base"] == {"reference": "base@v1", "digest": base.digest}
