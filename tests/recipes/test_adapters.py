"""Adapters published alone go from stage to stage, each on the base that it was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

LORA = [f"stages.{stage}.{key}" for stage in ("sft", "ppo") for key in ("method=lora", "lora={r: 4, alpha: 8}")]
SHORT = ["stages.ppo.ppo.total_episodes=16", "stages.sft.train.max_steps=6"]


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


def _planned(run: Any, arguments: list[str]) -> Any:
    return json.loads(run.align("plan", "--json", *arguments).stdout)
