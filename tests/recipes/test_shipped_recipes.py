"""Every shipped recipe goes through its real stages at tiny size, and leaves what it promises."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align.recipe import shipped
from align.recipe.loading import load

Finished = Callable[[str], Any]

LOADS = """
import sys
sys.modules["align"] = sys.modules["reward_models"] = None  # importing them is an error
import transformers
for path in sys.argv[1:]:
    config = transformers.AutoConfig.from_pretrained(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model, report = getattr(transformers, config.architectures[0]).from_pretrained(path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], (path, report)
    ids = tokenizer("Hello there", return_tensors="pt")["input_ids"]
    extra = {"decoder_input_ids": ids} if config.is_encoder_decoder else {}
    assert model(input_ids=ids, **extra).logits.isfinite().all(), path
"""
NEVER_TORCH = """
import atexit, os, sys
atexit.register(lambda: os._exit(99) if {"torch", "transformers", "wandb"} & set(sys.modules) else None)
from align.cli import main
main()
"""

every_recipe = pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in shipped()]
)


@every_recipe
def test_every_stage_is_published_and_says_where(finished: Finished, recipe: str) -> None:
    run = finished(recipe)
    stages = _stages(run)
    assert {artifact.name for artifact in run.registry.artifacts()} == stages.keys()
    assert run.registry.verify() == []
    said = (run.directory / "stdout.txt").read_text(encoding="utf-8")
    for stage, config in stages.items():
        assert f"registry/artifacts/{stage}/v1/files" in said
        if config.kind == "evaluate":
            assert f"all samples of {stage}: registry/artifacts/{stage}/v1/files/samples.jsonl" in said
    if "evaluation" in stages:
        assert re.search(r"ppo against sft: .*toxicity \d\.\d+ -> \d\.\d+", said)


@every_recipe
def test_nothing_published_bears_a_path_of_this_machine(finished: Finished, recipe: str) -> None:
    run = finished(recipe)
    for path in (run.directory / "registry" / "artifacts").rglob("*"):
        if path.is_file():
            assert str(run.directory).encode() not in path.read_bytes(), path


@every_recipe
def test_models_load_with_plain_transformers_in_a_new_process(finished: Finished, recipe: str, tmp_path: Path) -> None:
    run = finished(recipe)
    models = [a.path for a in run.registry.artifacts() if a.manifest.kind != "evaluate"]
    assert len(models) >= 4
    command = [sys.executable, "-P", "-c", LOADS, *map(str, models)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@every_recipe
def test_evaluations_hold_intervals_and_samples(finished: Finished, recipe: str) -> None:
    run = finished(recipe)
    for stage, config in _stages(run).items():
        if config.kind != "evaluate":
            continue
        files = run.registry.resolve(stage).path
        models = json.loads((files / "metrics.json").read_text(encoding="utf-8"))["models"]
        assert list(models) == config.models
        for found in models.values():
            assert {"reward"} <= found.keys() or "reward" not in config.metrics
            assert {"toxicity", "length_tokens"} <= found.keys() or "toxicity" not in config.metrics
            assert {"rouge_l", "kl"} <= found.keys() or stage != "evaluation"
            for interval in found.values():
                assert interval.keys() == {"value", "low", "high", "n"}
                assert all(math.isfinite(number) for number in interval.values())
                assert interval["low"] <= interval["value"] <= interval["high"]
        samples = [json.loads(line) for line in (files / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
        assert samples
        for sample in samples:
            assert sample.keys() == {"prompt", "reference", "responses", "scores"}
            assert sample["responses"].keys() == sample["scores"].keys() == models.keys()


@every_recipe
def test_a_second_run_is_all_cached_and_loads_no_torch(finished: Finished, recipe: str) -> None:
    run = finished(recipe)
    planned = json.loads(run.align("plan", "--json").stdout)
    assert {step["action"] for step in planned} == {"cached"}
    before = run.digests
    again = subprocess.run(
        [sys.executable, "-c", NEVER_TORCH, "run", recipe, *run.arguments],
        cwd=run.directory,
        env=run.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    first = (run.directory / "stdout.txt").read_text(encoding="utf-8")
    assert again.stdout.split("\n\n", 1)[1] == first.split("\n\n", 1)[1]  # all that follows the plan
    assert run.digests == before


@every_recipe
def test_the_plan_knows_how_large_models_are(finished: Finished, recipe: str) -> None:
    run = finished(recipe)
    sizes = {step["stage"]: step["parameters"] for step in json.loads(run.align("plan", "--json").stdout)}
    for artifact in run.registry.artifacts():
        if artifact.manifest.kind in ("base", "pretrain", "sft"):
            assert sizes[artifact.name] == artifact.manifest.metrics["parameters"]


@every_recipe
def test_every_stage_is_an_offline_wandb_run_of_one_group(finished: Finished, recipe: str) -> None:
    run = finished(recipe)
    recorded = [path.read_bytes() for path in (run.directory / "wandb").glob("offline-run-*/run-*.wandb")]
    stages = list(_stages(run))
    assert len(recorded) == len(stages)
    name = recipe.replace("_", "-").encode()
    (group,) = {match for one in recorded for match in re.findall(name + rb"-[0-9a-f]{8}", one)}
    for stage in stages:
        # In W&B's protocol buffer of a run, field 6 is the group, field 7 the job type: tag, length, text.
        wanted = b"2%c%s:%c%s" % (len(group), group, len(stage), stage.encode())
        assert sum(wanted in one for one in recorded) == 1, stage


def _stages(run: Any) -> dict[str, Any]:
    """The configurations of a run's stages, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_DATA", str(run.directory))
        return dict(load(run.recipe, run.overrides).stages)
