"""Models that do not belong together are refused before anything runs. Each fault is planted, and said by name."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import align
from align import pipeline
from align.errors import UsageError
from align.pipeline import contracts, handoff
from align.recipe import load
from align.registry import InputRecord, Registry

RECIPE = """\
name: tiny
datasets: {rows: {path: rows.jsonl}}
stages:
  base: {kind: base, model: ./model}
  sft:
    kind: sft
    model: base
    data: [{dataset: rows, prompt: "{prompt}", completion: " {answer}"}]
  toxicity:
    kind: reward
    model: base
    data: [{dataset: rows, text: "{answer}", label: {column: label}}]
    labels: {positive: nontoxic}
  ppo: {kind: ppo, policy: sft, reward: toxicity, prompts: [{dataset: rows, prompt: "{prompt}"}]}
  evaluation:
    kind: evaluate
    models: [sft, ppo]
    judge: {model: toxicity, label: toxic}
    data: [{dataset: rows, prompt: "{prompt}"}]
"""


def write_model(
    directory: Path,
    *,
    tokens: int = 20,
    dtype: Any = np.float32,
    template: str = "",
    labels: tuple[str, ...] = (),
    adapter: bool = False,
    **config: Any,
) -> Path:
    """Files that say what a model's files say, and hold no weights worth the name."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = {"architectures": ["LlamaForCausalLM"], "vocab_size": 20, "max_position_embeddings": 600, **config}
    if labels:
        settings |= {"architectures": ["LlamaForSequenceClassification"], "id2label": dict(enumerate(labels))}
    name = "adapter_config.json" if adapter else "config.json"
    (directory / name).write_text(json.dumps({} if adapter else settings))
    vocabulary = {"model": {"vocab": {f"w{number}": number for number in range(tokens)}}, "post_processor": str(labels)}
    (directory / "tokenizer.json").write_text(json.dumps(vocabulary))
    (directory / "tokenizer_config.json").write_text("{}")
    if template:
        (directory / "chat_template.jinja").write_text(template)
    weights = "adapter_model.safetensors" if adapter else "model.safetensors"
    save_file({"weights": np.ones((2, 2), dtype)}, directory / weights)
    return directory


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [{"prompt": c, "answer": c * 2, "label": ("toxic", "nontoxic")[c in "ab"]} for c in "abcd"]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    write_model(tmp_path / "model")
    write_model(tmp_path / "classifier", labels=("nothate", "hate"))
    write_model(tmp_path / "unnamed", labels=("LABEL_0", "LABEL_1"))
    write_model(tmp_path / "encoder", architectures=["BertForMaskedLM"])
    write_model(tmp_path / "body", architectures=["BertModel"])
    write_model(tmp_path / "translator", architectures=["MarianMTModel"], is_encoder_decoder=True)
    write_model(tmp_path / "adapter", adapter=True)
    write_model(tmp_path / "other_tokens", tokens=19, labels=("toxic", "nontoxic"))
    write_model(tmp_path / "too_many_tokens", tokens=21)
    write_model(tmp_path / "small", max_position_embeddings=40)
    write_model(tmp_path / "apart", max_position_embeddings=600, is_encoder_decoder=True)
    write_model(tmp_path / "roberta", model_type="roberta", max_position_embeddings=514, pad_token_id=1)
    write_model(tmp_path / "eight_bits", dtype=np.int8)
    os.truncate(write_model(tmp_path / "cut_short") / "model.safetensors", 5)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALIGN_REGISTRY", raising=False)
    return tmp_path


def problems(*overrides: str) -> list[str]:
    recipe = load("tiny.yaml", overrides)
    return pipeline.check(recipe, pipeline.open_registry(recipe))


def test_an_encoder_decoder_has_positions_for_prompt_and_response_each(here: Path) -> None:
    assert problems("stages.ppo.policy=path:apart", "stages.ppo.max_prompt_length=590") == []
    (problem,) = problems("stages.ppo.policy=path:apart", "stages.ppo.max_prompt_length=601")
    assert "601 tokens with ppo.response_length are more than the 600 positions" in problem


def test_a_judge_that_is_the_reward_is_warned_of(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert problems() == []
    assert "stages.evaluation.judge is toxicity, which is also the reward that ppo is trained on" in caplog.text
    caplog.clear()
    assert problems("stages.ppo.reward={model: rules, length: {target: 3}}") == []
    assert caplog.text == ""


def test_what_belongs_together_is_let_through(here: Path) -> None:
    assert problems() == []
    assert len(align.plan("tiny.yaml").to_run) == 5
    members = "[{model: toxicity, label: Toxic}, {model: rules, repetition: {}}]"
    combined = f"stages.ppo.reward={{combine: minimum, of: {members}}}"
    assert problems(combined, "stages.evaluation.reward=path:classifier") == []
    named = "{model: 'path:unnamed', names: {LABEL_0: kind, LABEL_1: rude}, label: kind}"
    assert problems(f"stages.ppo.reward={named}") == []
    (here / "unnamed" / "reward_model.json").write_text('{"names": {"LABEL_0": "kind", "1": "rude"}, "label": "kind"}')
    assert problems("stages.ppo.reward=path:unnamed") == []
    assert problems("stages.sft.model=path:translator", "stages.toxicity.model=path:model") == []
    (here / "unnamed" / "reward_model.json").write_text('{"names": ["kind", "rude"]}')  # said where it is loaded
    assert "have no names" in problems("stages.ppo.reward=path:unnamed")[0]


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ("{model: toxicity, transform: probabilty}", "transform is 'probabilty'; it can be logit, log_odds,"),
        ("{model: toxicity, sgin: -1}", "a classifier takes label, names, transform, sign,"),
        ("{model: 'path:classifier', normalize: {sdt: 1}}", "normalize: {mean: 0.3, std: 1.2}, or a JSONL file"),
        ("{combine: minimum, of: [{model: toxicity, probes: [[one]]}]}", "probes must be pairs of texts"),
        ("{model: {model: toxicity, max_length: 0}}", "max_length must be a whole number above 0, not 0"),
    ],
)
def test_options_of_classifiers_are_checked_before_they_are_there(here: Path, reward: str, said: str) -> None:
    (found,) = problems(f"stages.ppo.reward={reward}")
    assert "stages.ppo.reward: " in found
    assert said in found


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["stages.evaluation.judge.label=toxc"],
            "stages.evaluation.judge.label: toxicity has no label 'toxc'; did you mean `toxic`? (it has nontoxic,",
        ),
        (
            ["stages.ppo.reward={model: 'path:classifier', label: toxic}"],
            "stages.ppo.reward.label: path:classifier has no label 'toxic' (it has nothate, hate)",
        ),
        (
            ["stages.ppo.reward={combine: minimum, of: [toxicity, {model: 'path:classifier', label: x}]}"],
            "stages.ppo.reward.of.1.label: path:classifier has no label 'x'",
        ),
        (
            ["stages.ppo.reward={model: {model: 'path:classifier', label: x}, normalize: {mean: 0.0, std: 1.0}}"],
            "stages.ppo.reward.model.label: path:classifier has no label 'x'",
        ),
        (["stages.ppo.reward=path:unnamed"], "ppo.reward: the labels of path:unnamed have no names (LABEL_0, LABEL_1)"),
        (
            ["stages.ppo.reward={model: 'path:unnamed', label: LABEL_0}"],
            "ppo.reward: the labels of path:unnamed have no names (LABEL_0, LABEL_1)",
        ),
        (
            ["stages.ppo.reward={model: 'path:classifier', label: nothate, names: {nothate: fine}}"],
            "stages.ppo.reward.label: path:classifier has no label 'nothate'",
        ),
        (
            ["stages.ppo.reward={model: 'path:classifier', max_length: 601}"],
            "stages.ppo.reward.max_length: 601 tokens are more than the 600 positions of the model",
        ),
        (["stages.ppo.reward=path:model"], "stages.ppo.reward: is a LlamaForCausalLM, not a classifier"),
        (["stages.ppo.policy=path:classifier"], "stages.ppo.policy: is a classifier (labels nothate, hate), not a"),
        (["stages.base.model=./classifier"], "stages.sft.model: is a classifier"),
        (
            ["stages.ppo.critic_from=path:other_tokens", "stages.ppo.ppo.critic=separate"],
            "stages.ppo.critic_from: its tokenizer is not that of `policy`, whose tokens it would have to read",
        ),
        (["stages.base.model=./encoder"], "sft.model: is a BertForMaskedLM, an encoder or a body"),
        (
            ["stages.base.model=./body"],
            "sft.model: is a BertModel, an encoder or a body without its head",
        ),
        (
            ["stages.toxicity.normalize={policy: 'path:classifier', prompts: [{dataset: rows, prompt: '{prompt}'}]}"],
            "toxicity.normalize.policy: is a classifier (labels nothate, hate), not a language model",
        ),
        (
            [
                "stages.toxicity.normalize={policy: 'path:small', prompts: [{dataset: rows, prompt: '{prompt}'}], "
                "generation: {max_new_tokens: 40}}"
            ],
            "toxicity.normalize.generation.max_new_tokens: 41 tokens are more than the 40 positions of the model",
        ),
        (["stages.base.model=./too_many_tokens"], "sft.model: its tokenizer has 21 tokens, but the model embeds only"),
        (["stages.base.model=./eight_bits"], "sft.model: its weights are stored as I8, which cannot be trained"),
        (["stages.sft.max_length=601"], "sft.max_length: 601 tokens are more than the 600 positions of the model"),
        (
            ["stages.toxicity.model=path:roberta", "stages.toxicity.max_length=513"],
            "toxicity.max_length: 513 tokens are more than the 512 positions of the model",
        ),
        (
            ["stages.base.model=./cut_short"],
            "sft.model: cut_short/model.safetensors is not a safetensors file, or was cut short (its header is missi",
        ),
        (["stages.toxicity.model=path:small"], "toxicity.max_length: 256 tokens are more than the 40 positions"),
        (["stages.ppo.policy=path:small"], "ppo.ppo.response_length: 54 tokens are more than the 40 positions"),
        (
            ["stages.ppo.max_prompt_length=590"],
            "ppo.max_prompt_length: 643 tokens with ppo.response_length are more than the 600 positions",
        ),
        (["stages.evaluation.models=['path:small']"], "evaluation.generation.max_new_tokens: 65 tokens are more than"),
        (
            ["stages.sft.publish=adapter", "stages.sft.method=lora", "stages.toxicity.model=sft"],
            "toxicity.model: is only an adapter, and a classifier needs a whole model: publish it with `publish: mer",
        ),
        (
            ["stages.sft.publish=adapter", "stages.sft.method=lora", "stages.ppo.method=qlora"],
            "stages.ppo.policy: is only an adapter, which cannot be merged into a 4-bit base: publish it",
        ),
        (
            [
                "stages.ppo.evaluation_prompts=[{dataset: rows, prompt: '{answer}'}]",
                "stages.ppo.judge={model: 'path:classifier', label: toxic}",
            ],
            "stages.ppo.judge.label: path:classifier has no label 'toxic'",
        ),
        (["stages.ppo.reward=path:adapter"], "stages.ppo.reward: is only an adapter, and scores need a whole"),
        (["stages.ppo.policy=path:adapter"], "path:adapter is only an adapter, and where its base lies is not"),
        (
            ["stages.sft.publish=adapter", "stages.sft.method=lora", "stages.sft.model=path:model"],
            "stages.ppo.policy: sft is only an adapter, and where its base lies is not recorded: publish it with",
        ),
    ],
)
def test_faults_are_found_by_check_plan_and_run_before_anything_runs(
    here: Path, overrides: list[str], said: str
) -> None:
    began = time.monotonic()
    found = problems(*overrides)
    assert said in "\n".join(found)
    assert all(": stages." in problem for problem in found)
    for command in (align.plan, align.run):
        with pytest.raises(UsageError) as refused:
            command("tiny.yaml", overrides=overrides)
        assert said in str(refused.value)
    assert time.monotonic() - began < 2
    assert not (here / "registry").exists()


def test_a_spec_may_rename_what_a_declaration_has_renamed(here: Path) -> None:
    declared = here / "declared"
    shutil.copytree(here / "unnamed", declared)
    (declared / "reward_model.json").write_text('{"names": {"LABEL_0": "nontoxic", "LABEL_1": "toxic"}}')
    asked = "stages.ppo.reward={model: 'path:declared', label: fine, names: {LABEL_0: fine, LABEL_1: rude}}"
    assert problems(asked) == []
    assert "has no label 'fine' (it has nontoxic, toxic)" in "\n".join(
        problems("stages.ppo.reward={model: 'path:declared', label: fine}")
    )


def publish(name: str, kind: str, directory: Path, inputs: dict[str, Any], **contract: Any) -> Any:
    return Registry("registry").publish(
        directory,
        name=name,
        kind=kind,
        fingerprint="f" * 64,
        inputs={place: InputRecord(reference=made.reference, digest=made.digest) for place, made in inputs.items()},
        config={},
        metrics={},
        environment={},
        contract=contract,
    )


def test_labels_are_those_that_stand_in_the_file_now(here: Path) -> None:
    asked = "stages.evaluation.judge.label=rude"
    assert "has no label 'rude'" in "\n".join(problems(asked))
    rows = (here / "rows.jsonl").read_text()
    (here / "rows.jsonl").write_text(rows.replace('"toxic"', '"rude"'))
    assert problems(asked) == []


def test_an_adapter_finds_its_base_by_digest_and_takes_no_other(here: Path) -> None:
    base = publish("base", "pretrain", here / "model", {})
    adapter = publish("tuned", "sft", here / "adapter", {"model": base})
    another = publish("base", "pretrain", here / "small", {})
    registry = Registry("registry")
    assert another.reference == "base@v2"
    assert contracts.of_artifact(adapter).base == {"reference": "base@v1", "digest": base.digest}
    assert handoff.base_of(adapter, registry) == base
    assert problems("stages.ppo.policy=registry:tuned") == []

    (here / "registry" / "artifacts" / "base" / "v1").rename(here / "gone")
    said = f"tuned@v1 is only an adapter, for base@v1 (digest {base.digest[:12]}), which is not in this registry"
    assert said in "\n".join(problems("stages.ppo.policy=registry:tuned"))
    with pytest.raises(UsageError, match="which is not in this registry"):
        align.plan("tiny.yaml", overrides=["stages.ppo.policy=registry:tuned"])


def test_an_adapter_whose_base_is_another_model_now_is_refused(here: Path, tmp_path: Path) -> None:
    base = publish("base", "pretrain", here / "model", {})
    publish("tuned", "sft", here / "adapter", {"model": base})
    (here / "registry" / "artifacts" / "base").rename(here / "gone")
    other = publish("base", "pretrain", here / "small", {})
    assert other.reference == base.reference
    with pytest.raises(UsageError, match=f"which is now another model .digest {other.digest[:12]}"):
        align.run("tiny.yaml", overrides=["stages.ppo.policy=registry:tuned"])


def test_what_an_adapter_brings_must_be_what_its_base_has(here: Path) -> None:
    contract = contracts.of_directory(here / "adapter")
    assert contract.adapter
    assert handoff.unlike_its_base(contract, contracts.of_directory(here / "model")) is None
    tokens = contracts.of_directory(here / "other_tokens")
    assert handoff.unlike_its_base(contract, tokens) == "its tokenizer is not that of its base"
    template = contracts.of_directory(write_model(here / "templated", template="{{ messages }}"))
    assert handoff.unlike_its_base(contract, template) == "its chat template is not that of its base"


def test_a_contract_is_kept_in_the_manifest_and_read_back(here: Path) -> None:
    contract = contracts.of_directory(here / "classifier")
    assert contract.labels == ("nothate", "hate")
    assert (contract.dtype, contract.vocabulary, contract.tokens, contract.context_length) == ("F32", 20, 20, 600)
    kept = publish("judge", "reward", here / "classifier", {}, **contract.to_manifest())
    assert contracts.of_artifact(kept) == contract
    older = publish("older", "reward", here / "classifier", {})
    assert older.manifest.contract == {}
    assert contracts.of_artifact(older) == contract
    # How a text is closed is no part of which tokens there are:
    assert contract.tokenizer == contracts.of_directory(here / "model").tokenizer


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "t5", "n_positions": 512}, None),
    ],
)
def test_positions(config: dict[str, Any], positions: int | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert contracts.of_directory(tmp_path).context_length == positions


def test_any_kind_of_reference_is_looked_at(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    original: Callable[..., Any] = handoff.foreseen
    monkeypatch.setattr(handoff, "foreseen", lambda *given, **how: (seen.append(given[2]), original(*given, **how))[1])
    problems("stages.ppo.policy=hub:org/name", "stages.evaluation.reward=http://127.0.0.1:1")
    assert {"hub:org/name", "http://127.0.0.1:1", "sft", "toxicity"} <= set(seen)


def test_a_damaged_version_keeps_no_adapter_from_its_sound_base(here: Path) -> None:
    base = publish("base", "pretrain", here / "model", {})
    publish("tuned", "sft", here / "adapter", {"model": base})
    newer = publish("base", "pretrain", here / "small", {})
    weights = newer.path / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"")
    assert problems("stages.ppo.policy=registry:tuned") == []


def test_a_directory_that_holds_an_adapter_alone_cannot_be_a_base(here: Path) -> None:
    said = "\n".join(problems("stages.base.model=./adapter"))
    assert "base is only an adapter, and where its base lies is not recorded" in said


def test_an_own_option_called_of_is_no_list_of_rewards(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "of_mine.py").write_text(
        "class Mine:\n"
        "    def __init__(self, of):\n        self.of = of\n"
        "    def score(self, prompts, responses):\n        return [float(len(r) + self.of) for r in responses]\n"
    )
    monkeypatch.syspath_prepend(str(here))
    assert problems("stages.ppo.reward={model: of_mine:Mine, of: 3}") == []
