from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
from collections import Counter
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora.layer import LoraLayer
from safetensors.torch import load_file
from tokenizers import processors
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    XLNetConfig,
)
from transformers.models.roberta.modeling_roberta import RobertaIntermediate

import reward_models
from align import interrupt
from align.configs.base import LoraSettings
from align.configs.reward import RewardConfig
from align.data import checking, division, examples
from align.errors import AlignError, Interrupted, UsageError
from align.modeling import calibration, classifiers, training
from align.modeling.adapters import adding_at_once, frozen_weights_in
from align.modeling.generation import sample
from align.modeling.load import load_causal_or_seq2seq, load_classifier, load_config, load_tokenizer
from align.modeling.trunk import pad
from align.stages import classification, preference, responses, reward
from align.tracking import NullTracker
from align.workspace import Interval, Workspace


@pytest.fixture
def configured(rows: Path) -> Any:
    def config(**settings: Any) -> RewardConfig:
        return RewardConfig.model_validate(
            {
                "kind": "reward",
                "model": "base",
                "seed": 5,
                "labels": {"positive": "nice"},
                "data": [{"dataset": {"path": str(rows)}, "text": "{prompt}", "label": {"column": "label"}}],
                "max_length": 64,
                "train": {"num_train_epochs": 12, "learning_rate": 5e-3, **settings.pop("train", {})},
                **settings,
            }
        )

    return config


@pytest.mark.parametrize("body", ["llama", "t5", "roberta", "modernbert"])
def test_every_body_learns_and_its_label_is_published_by_name(
    body: str, tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    metrics = reward.run(configured(), {"base": tiny_models[body]}, Workspace(tmp_path), NullTracker())
    auc = metrics["auc"]
    assert isinstance(auc, Interval)
    assert auc.value > 0.9
    assert auc.n == 8
    assert isinstance(metrics["accuracy"], Interval)
    assert metrics["rows"] == 72
    output = tmp_path / "output"
    published = json.loads((output / "reward_model.json").read_text())
    assert published == {
        "label": "nice",
        "transform": "log_odds",
        "input": "response",
        "max_length": 64,
        "append_eos": False,
    }
    model = AutoModelForSequenceClassification.from_pretrained(output).eval()
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert model.config.id2label == {0: "nice", 1: "not nice"}
    batch = tokenizer(["the lovely red cat", "a rotten dog"], padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    assert (model(**batch).logits.softmax(-1)[:, 0] > 0.5).tolist() == [True, False]
    good, bad = reward_models.load(str(output)).score(["", ""], ["the lovely red cat", "a rotten dog"])
    assert good > 0 > bad


@pytest.mark.parametrize("body", ["llama", "t5", "roberta"])
def test_padding_changes_no_score(body: str, tiny_models: dict[str, Path], tmp_path: Path, configured: Any) -> None:
    reward.run(configured(train={"max_steps": 2}), {"base": tiny_models[body]}, Workspace(tmp_path), NullTracker())
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "output").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "output")
    texts = ["red", "a much longer text that makes the other one be padded"]
    collate = classification.Collator(tokenizer.pad_token_id)
    rows = [{"input_ids": tokenizer(text)["input_ids"], "labels": 0} for text in texts]
    together = model(**{**collate(rows), "labels": None}).logits
    for index, row in enumerate(rows):
        alone = model(**{**collate([row]), "labels": None}).logits[0]
        torch.testing.assert_close(together[index], alone, atol=1e-5, rtol=1e-4)


def test_a_decoder_only_classifier_ends_every_text_also_a_cut_one(tiny_models: dict[str, Path]) -> None:
    directory = tiny_models["llama"]
    plain = load_tokenizer(directory)
    assert plain("red")["input_ids"][-1] != plain.eos_token_id
    tokenizer = classifiers.closing_texts(plain, load_config(directory))
    cut = tokenizer("red blue cat dog", truncation=True, max_length=4)["input_ids"]
    assert len(cut) == 4
    assert cut[-1] == tokenizer.eos_token_id


def test_where_the_end_is_also_the_padding_the_end_is_read_all_the_same(tiny_models: dict[str, Path]) -> None:
    """Llama-3 and its kin have no token for padding; a classifier looks for the last token that is none."""
    plain, config = load_tokenizer(tiny_models["llama"]), load_config(tiny_models["llama"])
    plain.pad_token, plain.bos_token = plain.eos_token, plain.unk_token
    tokenizer = classifiers.closing_texts(plain, config)
    assert tokenizer.pad_token == tokenizer.bos_token != tokenizer.eos_token
    model = load_classifier(tiny_models["llama"], ["a", "b"])
    model.config.pad_token_id = tokenizer.pad_token_id
    [ids] = classifiers.token_ids(tokenizer, ["red blue cat"], 64)
    closed, open_ended = classifiers.logits(model, [ids, ids[:-1]], tokenizer.pad_token_id, 1)
    assert not torch.allclose(closed, open_ended, atol=1e-4)


def test_what_is_measured_is_what_is_published_without_dropout(
    tiny_models: dict[str, Path], tmp_path: Path, noisy: Any
) -> None:
    config = noisy(dropout=0.5, calibration="temperature", train={"num_train_epochs": 2})
    metrics = reward.run(config, {"base": tiny_models["roberta"]}, Workspace(tmp_path), NullTracker())
    task = classification.Classification(config)
    published = AutoModelForSequenceClassification.from_pretrained(tmp_path / "output")
    assert not published.training
    again = task.measure(published, load_tokenizer(tmp_path / "output"))
    for name in ("accuracy", "macro_f1", "auc", "calibration_error"):
        one, other = (getattr(found[name], "value", found[name]) for found in (metrics, again))
        assert one == pytest.approx(other, rel=1e-4), name
    tuned = task.tuning_logits(published, load_tokenizer(tmp_path / "output"))
    assert calibration.temperature(tuned, task.likelihood_loss) == pytest.approx(1, abs=1e-3)


def test_copies_of_a_held_out_text_narrow_no_interval(noisy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = classification.Classification(noisy())
    unit = {row.text: number for number, row in enumerate(task.held_out)}
    task.held_out = task.held_out * 3
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(len(unit), 2, generator=generator)
    monkeypatch.setattr(task, "_logits", lambda *_: torch.stack([drawn[unit[row.text] % 40] for row in task.held_out]))
    metrics = task.measure(None, None)  # type: ignore[arg-type]
    for name in ("accuracy", "auc"):
        assert metrics[name].n == len(unit), name  # type: ignore[union-attr]


def test_copies_of_a_held_out_pair_narrow_no_interval(tmp_path: Path, preferring: Any, monkeypatch: Any) -> None:
    rows = [{"chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows * 5), encoding="utf-8")
    pairs = {"dataset": {"path": str(tmp_path / "pairs.jsonl")}, "chosen": "{chosen}", "rejected": "{rejected}"}
    task = preference.PreferenceModelling(preferring(pairs=[pairs]))
    monkeypatch.setattr(task, "_margins", lambda *_: torch.arange(len(task.held_out)) % 2 - 0.5)
    measured = task.measure(None, None)["pair_accuracy"]  # type: ignore[arg-type]
    assert isinstance(measured, Interval)
    assert measured.n == len(task.held_out) // 5 == 6


def test_calibration_of_preferences_counts_a_tie_half(preferring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = preference.PreferenceModelling(preferring())
    margins = torch.zeros(len(task.held_out))
    monkeypatch.setattr(task, "_margins", lambda *_: margins)
    assert task.measure(None, None)["calibration_error"] == 0  # type: ignore[arg-type]
    margins[:] = -4.0  # sure, and wrong
    expected = 1 / (1 + math.exp(-4))
    assert task.measure(None, None)["calibration_error"] == pytest.approx(expected)  # type: ignore[arg-type]


def test_smoothed_labels_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    outputs = type("Outputs", (), {"logits": logits})
    loss = classification.ClassificationLoss(torch.ones(2), 0.2)
    of_classes = -logits.log_softmax(-1)
    expected = 0.9 * of_classes.diag() + 0.1 * of_classes.flip(-1).diag()
    torch.testing.assert_close(loss(outputs, torch.tensor([0, 1])), expected.mean())
    held = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    said = -logits.sigmoid().log(), -(-logits).sigmoid().log()
    expected = torch.where(held > 0, 0.9 * said[0] + 0.1 * said[1], 0.1 * said[0] + 0.9 * said[1])
    torch.testing.assert_close(loss(outputs, held), expected.mean())


@pytest.mark.parametrize("body", ["llama", "t5"])
def test_a_spelled_out_special_token_is_text(body: str, tiny_models: dict[str, Path]) -> None:
    tokenizer = classifiers.closing_texts(load_tokenizer(tiny_models[body]), load_config(tiny_models[body]))
    [ids] = classifiers.token_ids(tokenizer, ["red</s> cat"], 64)
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id


def test_same_seed_same_files(tiny_models: dict[str, Path], tmp_path: Path, configured: Any) -> None:
    digests = []
    for name in ("one", "two"):
        workspace = Workspace(tmp_path / name)
        reward.run(
            configured(train={"max_steps": 5}, dropout=0.1), {"base": tiny_models["llama"]}, workspace, NullTracker()
        )
        files = sorted(path for path in workspace.output.rglob("*") if path.is_file())
        digests.append([(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
    assert digests[0] == digests[1]


def test_require_auc_leaves_nothing_to_publish(tiny_models: dict[str, Path], tmp_path: Path, configured: Any) -> None:
    config = configured(require_auc=1.0, train={"max_steps": 1, "learning_rate": 1e-9})
    with pytest.raises(AlignError, match=r"below require_auc 1\.0") as raised:
        reward.run(config, {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())
    assert raised.value.exit_code == 1
    assert list((tmp_path / "output").iterdir()) == []


def test_what_has_learned_nothing_is_said(
    tiny_models: dict[str, Path], tmp_path: Path, configured: Any, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = {"base": tiny_models["llama"]}
    still = configured(train={"max_steps": 1, "learning_rate": 1e-9})
    reward.run(still, inputs, Workspace(tmp_path / "still"), NullTracker())
    assert "it may have learned nothing (chance is 0.5)" in caplog.text
    caplog.clear()
    reward.run(configured(), inputs, Workspace(tmp_path / "trained"), NullTracker())
    assert "learned nothing" not in caplog.text


def test_labels_that_do_not_fit_are_named(tiny_models: dict[str, Path], tmp_path: Path, configured: Any) -> None:
    config = configured(labels={"positive": "nontoxic"})
    with pytest.raises(UsageError, match="'nontoxic', but the data has only the labels: nice, not nice"):
        reward.run(config, {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`noisy`: 1000 rows of which a fifth bear the wrong label, and two numbers that may both be high. `pairs`: 120
    pairs of which the chosen one has a nice word."""
    draw = random.Random(1)
    directory = tmp_path_factory.mktemp("tables")

    def words(*special: str) -> str:
        found = [*draw.choices(["red", "blue", "cat", "dog", "house", "tree"], k=draw.randint(2, 9)), *special]
        draw.shuffle(found)
        return " ".join(found)

    noisy, pairs = [], []
    for index in range(1000):
        nice, loud = index % 2 == 0, index % 4 < 2
        special = ["lovely" if nice else "rotten", *(["runs"] if loud else [])]
        label = nice != (draw.random() < 0.2)
        row = {"text": words(*special), "label": "nice" if label else "not nice"}
        noisy.append({**row, "rot": float(not nice), "noise": 0.9 if loud else 0.2})
    for _ in range(120):
        before = f"\n\nHuman: {words()}?\n\nAssistant:"
        pairs.append({"chosen": f"{before} {words('lovely')}", "rejected": f"{before} {words('rotten')}"})
    found = {}
    for name, rows in (("noisy", noisy), ("pairs", pairs)):
        found[name] = directory / f"{name}.jsonl"
        found[name].write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return found


@pytest.fixture
def noisy(tables: dict[str, Path], configured: Any) -> Any:
    def config(**settings: Any) -> RewardConfig:
        dataset = {"path": str(tables["noisy"]), "parts": {"train": 400, "test": 600}}
        rows = {"dataset": dataset, "text": "{text}", "label": {"column": "label"}}
        data = {"data": [{**rows, "part": "train"}], "evaluation_data": [{**rows, "part": "test"}]}
        train = {"num_train_epochs": 6, "per_device_train_batch_size": 16, **settings.pop("train", {})}
        return configured(**{**data, **settings, "train": train})  # type: ignore[no-any-return]

    return config


@pytest.fixture
def preferring(tables: dict[str, Path]) -> Any:
    def config(**settings: Any) -> RewardConfig:
        cut = {"marker": "\n\nAssistant:", "columns": ["chosen", "rejected"]}
        pairs = {"dataset": {"path": str(tables["pairs"]), "last_reply": cut}, "prompt": "{prompt}"}
        train = {"num_train_epochs": 6, "learning_rate": 5e-3, **settings.pop("train", {})}
        given = {"kind": "reward", "model": "base", "seed": 5, "max_length": 80, "train": train, **settings}
        return RewardConfig.model_validate(
            {"pairs": [{**pairs, "chosen": "{chosen}", "rejected": "{rejected}"}], **given}
        )

    return config


def _files(directory: Path) -> dict[str, str]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize("body", ["llama", "t5", "roberta"])
def test_lora_trains_little_and_publishes_merged_weights(
    body: str, tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    config = configured(method="lora", lora={"r": 4, "alpha": 8}, calibration="temperature")
    metrics = reward.run(config, {"base": tiny_models[body]}, Workspace(tmp_path), NullTracker())
    assert isinstance(metrics["auc"], Interval)
    assert metrics["auc"].value > 0.9
    assert metrics["trainable_parameters"] < 0.5 * metrics["parameters"]  # type: ignore[operator]
    model, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "output", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    body_before = load_classifier(tiny_models[body], ["nice", "not nice"]).base_model.state_dict()
    changed = [
        name for name, weight in model.base_model.state_dict().items() if not torch.equal(weight, body_before[name])
    ]
    assert changed
    assert not any("embed" in name or "norm" in name for name in changed)
    body_again = load_classifier(tiny_models[body], ["nice", "not nice"]).eval()
    adapted = PeftModel.from_pretrained(body_again, str(tmp_path / "output" / "adapter")).eval()
    ids = torch.tensor([[20, 21, 22, model.config.eos_token_id]])
    torch.testing.assert_close(adapted(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5, rtol=1e-4)


def test_under_autocast_adapters_read_what_comes_and_learn_the_same(
    tiny_models: dict[str, Path], tmp_path: Path, configured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(method="lora", lora={"r": 5}, train={"num_train_epochs": 1, "bf16": True})
    read: set[torch.dtype] = set()

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Linear) and module.out_features == 5 and torch.is_grad_enabled():
            read.add(inputs[0].dtype)

    with register_module_forward_pre_hook(note):
        reward.run(config, {"base": tiny_models["roberta"]}, Workspace(tmp_path / "as_it_comes"), NullTracker())
        assert torch.bfloat16 in read
        read.clear()
        monkeypatch.setattr(training, "_inputs_as_they_are", lambda trainer: nullcontext())
        reward.run(config, {"base": tiny_models["roberta"]}, Workspace(tmp_path / "converted"), NullTracker())
        assert read == {torch.float32}
    assert _files(tmp_path / "as_it_comes" / "output") == _files(tmp_path / "converted" / "output")


@pytest.mark.parametrize("body", ["llama", "t5", "roberta"])
def test_frozen_weights_are_of_sixteen_bits_only_while_adapters_train(
    body: str, tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    config = configured(
        method="lora",
        lora={"r": 4, "alpha": 8},
        dtype="bfloat16",
        average_weights=0.5,
        calibration="temperature",
        train={"bf16": True},
    )
    held: set[torch.dtype] = set()

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            held.update(part.dtype for part in module.parameters(recurse=False) if not part.requires_grad)
            assert all(part.dtype == torch.float32 for part in module.parameters(recurse=False) if part.requires_grad)

    with register_module_forward_pre_hook(note):
        metrics = reward.run(config, {"base": tiny_models[body]}, Workspace(tmp_path), NullTracker())
    assert held == {torch.bfloat16}
    assert isinstance(metrics["auc"], Interval)
    assert metrics["auc"].value > 0.9
    published = AutoModelForSequenceClassification.from_pretrained(tmp_path / "output").state_dict()
    before = load_classifier(tiny_models[body], ["nice", "not nice"])
    adapted = PeftModel.from_pretrained(before, str(tmp_path / "output" / "adapter")).merge_and_unload()
    for name, weight in adapted.state_dict().items():
        assert published[name].dtype == torch.float32
        torch.testing.assert_close(published[name], weight, atol=1e-6, rtol=1e-5)


def test_hidden_tokens_are_predicted_with_embeddings_of_sixteen_bits(
    tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    hidden = {"token_dropout": 0.2, "masked_lm_weight": 0.3}
    losses = [
        reward.run(
            configured(method="lora", **hidden, **more, train={"bf16": True, "num_train_epochs": 1}),
            {"base": tiny_models["roberta"]},
            Workspace(tmp_path / str(index)),
            NullTracker(),
        )["train_loss"]
        for index, more in enumerate(({}, {"dtype": "bfloat16"}))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_killed_after_training_under_autocast_publishes_the_same(
    method: str, tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    config = configured(method=method, calibration="temperature", train={"bf16": True, "num_train_epochs": 1})
    workspace = Workspace(tmp_path)
    metrics = reward.run(config, {"base": tiny_models["roberta"]}, workspace, NullTracker())
    published = _files(workspace.output)
    shutil.rmtree(workspace.output)
    assert reward.run(config, {"base": tiny_models["roberta"]}, workspace, NullTracker()) == metrics
    assert _files(workspace.output) == published


@pytest.mark.parametrize(("weight", "of_all"), [(0.0, False), (0.3, True)])
def test_the_last_layer_is_trained_at_the_position_that_is_read_unless_all_are(
    weight: float, of_all: bool, tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    lengths: list[int] = []

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, RobertaIntermediate) and torch.is_grad_enabled():
            lengths.append(inputs[0].shape[1])

    config = configured(token_dropout=0.2, masked_lm_weight=weight, train={"num_train_epochs": 1})
    with register_module_forward_pre_hook(note):
        reward.run(config, {"base": tiny_models["roberta"]}, Workspace(tmp_path), NullTracker())
    layers = load_config(tiny_models["roberta"]).num_hidden_layers
    assert max(lengths[::layers]) > 1
    assert (max(lengths[layers - 1 :: layers]) > 1) == of_all


@pytest.mark.parametrize("body", ["llama", "t5", "roberta"])
def test_adapters_that_add_at_once_learn_the_same(body: str, tiny_models: dict[str, Path]) -> None:
    torch.manual_seed(1)
    settings = LoraSettings(r=3, alpha=12)
    model = classifiers.attach(load_classifier(tiny_models[body], ["a", "b"]), settings).train()
    trained = {name: part for name, part in model.named_parameters() if part.requires_grad}
    for name, part in trained.items():
        if "lora_B" in name:
            torch.nn.init.normal_(part, std=0.1)
    ids = torch.tensor([[20, 21, 22, model.config.eos_token_id], [23, 24, 25, model.config.eos_token_id]])

    def gradients() -> dict[str, torch.Tensor]:
        torch.manual_seed(2)  # of dropout
        model.zero_grad()
        model(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
        return {name: part.grad for name, part in trained.items() if part.grad is not None}

    before = gradients()
    with adding_at_once(model):
        layers = [part for part in model.modules() if isinstance(part, LoraLayer)]
        assert layers
        assert all(layer.lora_variant for layer in layers)
        at_once = gradients()
    torch.testing.assert_close(at_once, before)
    assert not any(layer.lora_variant for layer in layers)
    assert len(before) == len(trained)


def test_frozen_weights_are_what_they_were_when_training_breaks_off(tiny_models: dict[str, Path]) -> None:
    model = classifiers.attach(load_classifier(tiny_models["roberta"], ["a", "b"]), LoraSettings(r=2))
    before = {name: part.clone() for name, part in model.state_dict().items()}
    with suppress(KeyboardInterrupt), frozen_weights_in(model, torch.bfloat16):
        assert model.get_input_embeddings().weight.dtype == torch.bfloat16
        raise KeyboardInterrupt
    after = model.state_dict()
    assert all(torch.equal(part, after[name]) and part.dtype == after[name].dtype for name, part in before.items())


@pytest.mark.parametrize("given", [{}, {"method": "lora"}, {"train": {"bf16": True}}])
def test_a_dtype_is_refused_where_all_weights_train_or_products_are_of_float32(
    given: dict[str, Any], configured: Any
) -> None:
    with pytest.raises(ValueError, match=r"set method: lora and train\.bf16: true, or remove it"):
        configured(dtype="bfloat16", **given)


def test_many_combinations_of_labels_leave_no_more_rows_to_tune_with(
    tables: dict[str, Path], configured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(division, "MOST_TUNING", 2)
    rows = {"dataset": {"path": str(tables["noisy"])}, "text": "{text}", "labels": {"rude": "rot", "loud": "noise"}}
    task = classification.Classification(
        configured(data=[rows], labels={"negative": "rude"}, calibration="temperature")
    )
    assert len(task.tuning) == 2


def test_a_label_of_one_row_is_trained_on_however_many_rows_there_are(
    tmp_path: Path, configured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(division, "MOST_TUNING", 3)
    rows = [{"text": f"t{n}", "label": ("odd", "even")[n % 2]} for n in range(60)] + [{"text": "t", "label": "rare"}]
    (tmp_path / "rare.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    data = {"dataset": {"path": str(tmp_path / "rare.jsonl")}, "text": "{text}", "label": {"column": "label"}}
    for seed in range(20):
        config = configured(
            data=[data], evaluation_data=[data], labels={"positive": "odd"}, calibration="temperature", seed=seed
        )
        task = classification.Classification(config)
        assert (len(task.tuning), task.labels) == (3, ["even", "odd", "rare"])


def test_a_text_or_prompt_that_comes_again_is_not_trained_on_and_measured_with(tmp_path: Path, configured: Any) -> None:
    path = tmp_path / "again.jsonl"
    rows = [{"text": f"t{n % 40}", "label": ("odd", "even")[n % 2], "prompt": f"p{n % 20}"} for n in range(120)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    data = {"dataset": {"path": str(path)}, "text": "{text}", "label": {"column": "label"}}
    for more, shared in (({}, lambda row: row.text), ({"prompt": "{prompt}"}, lambda row: row.prompt)):
        task = classification.Classification(configured(data=[{**data, **more}], labels={"positive": "odd"}))
        assert task.held_out
        assert not set(map(shared, task.training)) & set(map(shared, task.held_out))
    pairs = [{"prompt": f"p{n % 20}", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(60)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in pairs), encoding="utf-8")
    columns = {"prompt": "{prompt}", "chosen": "{chosen}", "rejected": "{rejected}"}
    pairs_of = {"kind": "reward", "model": "base", "pairs": [{"dataset": {"path": str(path)}, **columns}]}
    modelling = preference.PreferenceModelling(RewardConfig.model_validate({**pairs_of, "calibration": "temperature"}))
    parts = [{pair.prompt for pair in part} for part in (modelling.training, modelling.tuning, modelling.held_out)]
    assert [len(prompts) for prompts in parts] == [16, 2, 2]
    assert len(set.union(*parts)) == 20


def test_a_label_of_prompt_and_text_is_learned_and_read_with_its_prompt(
    tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    draw = random.Random(3)
    filler = ["red", "blue", "cat", "dog", "house", "tree", "runs", "sees"]
    rows = []
    for number in range(80):
        nice = number % 2 == 0
        long = " ".join(draw.choices(filler, k=20))
        rows.append({"prompt": long, "text": "lovely" if nice else "rotten", "label": "nice" if nice else "not nice"})
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    data = {"dataset": {"path": str(path)}, "text": "{text}", "prompt": "{prompt}", "label": {"column": "label"}}
    config = configured(data=[data], max_length=8)  # of the prompt, the end is left
    metrics = reward.run(config, {"base": tiny_models["roberta"]}, Workspace(tmp_path), NullTracker())
    assert metrics["auc"].value > 0.9  # type: ignore[union-attr]
    model = reward_models.load(str(tmp_path / "output"))
    assert model.describe()["input"] == "prompt_and_response"
    good, bad = model.score([rows[0]["prompt"]] * 2, ["lovely", "rotten"])
    assert good > 0 > bad
    with pytest.raises(ValueError, match="all data must have a `prompt:`, or none of it"):
        configured(data=[data], evaluation_data=[{**data, "prompt": None}])


@pytest.mark.parametrize("kind", ["labels", "pairs"])
def test_what_is_published_scores_what_was_trained(
    kind: str, tiny_models: dict[str, Path], tmp_path: Path, configured: Any, preferring: Any
) -> None:
    """A tokenizer that names fewer tokens than the model reads, and a body whose texts nothing closes."""
    body = tmp_path / "body"
    shutil.copytree(tiny_models["roberta"], body)
    tokenizer = AutoTokenizer.from_pretrained(body)
    tokenizer.model_max_length = 12
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    tokenizer.save_pretrained(body)
    config = (configured if kind == "labels" else preferring)(train={"max_steps": 3})
    reward.run(config, {"base": body}, Workspace(tmp_path), NullTracker())
    published = reward_models.load(str(tmp_path / "output"))
    read = load_tokenizer(tmp_path / "output")
    if kind == "pairs":
        task: Any = preference.PreferenceModelling(config)
        prompts, texts = [pair.prompt for pair in task.held_out], [pair.chosen for pair in task.held_out]
        rows = [row["chosen_ids"] for row in task._rows(task.held_out, read)]
    else:
        task = classification.Classification(config)
        prompts, texts = [""] * len(task.held_out), [row.text for row in task.held_out]
        rows = task._token_ids(read, task.held_out)
    assert max(map(len, rows)) > 12
    trained = AutoModelForSequenceClassification.from_pretrained(tmp_path / "output").eval()
    logits = classifiers.logits(trained, rows, read.pad_token_id, 8)
    expected = logits[:, 0] - logits[:, 1] if kind == "labels" else logits[:, 0]
    torch.testing.assert_close(torch.tensor(published.score(prompts, texts)).float(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("body", "special"), [("roberta", 2), ("llama", 1)])
def test_a_length_without_room_for_text_is_refused_before_training(
    body: str, special: int, tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    with pytest.raises(UsageError, match=f"max_length {special} leaves no room for text beside {special} special"):
        reward.run(configured(max_length=special), {"base": tiny_models[body]}, Workspace(tmp_path), NullTracker())


def test_too_few_rows_to_tune_with_are_said_before_training(tmp_path: Path, configured: Any) -> None:
    rows = [{"text": f"t{n}", "label": ("odd", "even")[n % 2]} for n in range(4)]
    (tmp_path / "few.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    data = {"dataset": {"path": str(tmp_path / "few.jsonl")}, "text": "{text}", "label": {"column": "label"}}
    with pytest.raises(UsageError, match="early_stopping and calibration need rows of their own"):
        classification.Classification(configured(data=[data], labels={"positive": "odd"}, calibration="temperature"))


def test_adapters_for_modules_that_there_are_not_are_named_by_their_key(
    tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    config = configured(method="lora", lora={"target_modules": ["nope"]})
    with pytest.raises(UsageError, match=r"^lora\.target_modules: .*nope"):
        reward.run(config, {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())


def test_attention_that_transformers_lacks_is_named_by_its_key(
    tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    with pytest.raises(UsageError, match=r"^attn_implementation: "):
        reward.run(
            configured(attn_implementation="nonsense"),
            {"base": tiny_models["llama"]},
            Workspace(tmp_path),
            NullTracker(),
        )


def test_rows_to_tune_with_are_a_tenth_and_no_more_than_needed(
    noisy: Any, preferring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = classification.Classification(noisy(calibration="temperature"))
    assert (len(task.tuning), len(task.training)) == (40, 360)
    pairs = preference.PreferenceModelling(preferring(calibration="temperature"))
    monkeypatch.setattr(division, "MOST_TUNING", 10)
    task = classification.Classification(noisy(calibration="temperature"))
    assert (len(task.tuning), len(task.training)) == (10, 390)
    monkeypatch.setattr(division, "MOST_TUNING", 3)
    fewer = preference.PreferenceModelling(preferring(calibration="temperature"))
    assert len(pairs.tuning) > len(fewer.tuning) == 3
    assert len(fewer.training) + len(fewer.tuning) == len(pairs.training) + len(pairs.tuning)


def test_what_is_published_says_the_calibrated_probability(
    tiny_models: dict[str, Path], tmp_path: Path, noisy: Any
) -> None:
    config = noisy(calibration="temperature")
    reward.run(config, {"base": tiny_models["roberta"]}, Workspace(tmp_path), NullTracker())
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "output").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "output")
    task = classification.Classification(config)
    logits = task.tuning_logits(model, tokenizer)
    assert calibration.temperature(logits, task.likelihood_loss) == pytest.approx(1.0, abs=1e-3)
    texts = [row.text for row in task.tuning]
    log_odds = reward_models.load(str(tmp_path / "output")).score([""] * len(texts), texts)
    expected = logits[:, 0] - logits[:, 1]
    torch.testing.assert_close(torch.tensor(log_odds).float(), expected, atol=1e-4, rtol=1e-4)


def test_few_rows_that_are_all_right_do_not_ask_for_endless_confidence(
    noisy: Any, preferring: Any, tables: dict[str, Path], tmp_path: Path
) -> None:
    """As if each class had one more row: n rows all right by a margin of 1 allow a confidence of (n + 1) / (n + 2)."""

    def fitted(task: Any, logits: torch.Tensor) -> float:
        return calibration.temperature(logits, task.likelihood_loss)

    labelled = classification.Classification(noisy(calibration="temperature"))
    truth = [labelled.labels.index(row.label) for row in labelled.tuning]
    right = torch.nn.functional.one_hot(torch.tensor(truth), 2).float()
    assert fitted(labelled, right) == pytest.approx(1 / math.log(len(truth) + 1), rel=1e-4)
    pairs = preference.PreferenceModelling(preferring(calibration="temperature"))
    margins = torch.ones(len(pairs.tuning))
    assert fitted(pairs, margins) == pytest.approx(1 / math.log(len(margins) + 1), rel=1e-4)
    rows = [{"text": f"t{n}", "label": "abc"[n % 3]} for n in range(90)]
    (tmp_path / "three.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    of_three = {"dataset": {"path": str(tmp_path / "three.jsonl")}, "text": "{text}", "label": {"column": "label"}}
    three = classification.Classification(
        noisy(calibration="temperature", data=[of_three], evaluation_data=[], labels={"positive": "a"})
    )
    truth = [three.labels.index(row.label) for row in three.tuning]
    right = torch.nn.functional.one_hot(torch.tensor(truth), 3).float()
    assert fitted(three, right) == pytest.approx(1 / math.log(len(truth) + 1), rel=1e-4)
    columns = {"rude": "rot", "loud": "noise", "rotten": "rot"}
    several = {"dataset": {"path": str(tables["noisy"])}, "text": "{text}", "labels": columns}
    multi = classification.Classification(
        noisy(calibration="temperature", labels={"negative": "rude"}, data=[several], evaluation_data=[])
    )
    held = torch.tensor([[float(name in row.labels) for name in multi.labels] for row in multi.tuning])
    assert fitted(multi, held - 0.5) == pytest.approx(0.5 / math.log(len(held) + 1), rel=1e-4)


def test_logits_come_in_the_order_of_the_rows(tiny_models: dict[str, Path]) -> None:
    model = load_classifier(tiny_models["roberta"], ["a", "b"])
    rows = [[7, 8, 9, 10, 11, 2], [7, 2], [9, 9, 8, 2], [5, 2], [6, 7, 2]]
    alone = torch.cat([classifiers.logits(model, [row], 1, 8) for row in rows])
    torch.testing.assert_close(classifiers.logits(model, rows, 1, 2), alone)


def test_temperature_is_found_and_written_into_the_last_layer(tiny_models: dict[str, Path]) -> None:
    torch.manual_seed(0)
    true = torch.randn(4000, 3)
    labels = torch.distributions.Categorical(logits=true).sample()
    found = calibration.temperature(true * 2.5, lambda logits: torch.nn.functional.cross_entropy(logits, labels))
    assert found == pytest.approx(2.5, rel=0.1)
    for body in ("llama", "t5", "roberta"):
        model = load_classifier(tiny_models[body], ["a", "b", "c"]).eval()
        ids = [[5, 9, 1], [7, 1]]
        before = classifiers.logits(model, ids, 0, 2)
        calibration.divide_logits(model, 4.0)
        torch.testing.assert_close(classifiers.logits(model, ids, 0, 2), before / 4)


def test_labels_that_hold_together(tiny_models: dict[str, Path], tables: dict[str, Path], tmp_path: Path) -> None:
    data = {"dataset": {"path": str(tables["noisy"])}, "text": "{text}", "labels": {"rude": "rot", "loud": "noise"}}
    config = RewardConfig.model_validate(
        {
            "kind": "reward",
            "model": "base",
            "labels": {"negative": "rude"},
            "data": [data],
            "class_weights": "balanced",
            "calibration": "temperature",
            "max_length": 64,
            "train": {"num_train_epochs": 12, "learning_rate": 5e-3, "label_smoothing_factor": 0.05},
        }
    )
    metrics = reward.run(config, {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())
    assert metrics["auc"].value > 0.95  # type: ignore[union-attr]
    assert metrics["macro_f1"] > 0.9  # type: ignore[operator]
    published = json.loads((tmp_path / "output" / "reward_model.json").read_text())
    assert (published["label"], published["sign"]) == ("rude", -1)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "output")
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == {0: "loud", 1: "rude"}
    texts = ["red lovely cat", "red rotten cat", "red rotten cat runs"]
    fine, rude, both = reward_models.load(str(tmp_path / "output")).score([""] * 3, texts)
    assert fine > 0 > max(rude, both)


def test_the_loss_of_labels_that_hold_together_is_their_mean(
    tiny_models: dict[str, Path], tables: dict[str, Path], tmp_path: Path
) -> None:
    data = {"dataset": {"path": str(tables["noisy"])}, "text": "{text}", "labels": {"rude": "rot", "loud": "noise"}}
    train = {"max_steps": 3, "learning_rate": 1e-12, "gradient_accumulation_steps": 2}
    config = RewardConfig.model_validate(
        {
            "kind": "reward",
            "model": "base",
            "labels": {"negative": "rude"},
            "data": [data],
            "calibration": "temperature",
            "max_length": 64,
            "train": train,
        }
    )
    metrics = reward.run(config, {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())
    assert metrics["train_loss"] == pytest.approx(math.log(2), abs=0.05)  # of a head that knows nothing


def test_early_stopping_publishes_the_best_weights(tiny_models: dict[str, Path], tmp_path: Path, noisy: Any) -> None:
    config = noisy(train={"num_train_epochs": 60}, early_stopping={"eval_steps": 10, "patience": 2})
    metrics = reward.run(config, {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())
    assert 10 <= metrics["best_step"] < 60 * 20 / 2  # type: ignore[operator]
    steps = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "checkpoints").glob("checkpoint-*"))
    assert steps == [metrics["best_step"], metrics["best_step"] + 20]  # type: ignore[operator]
    best = load_file(tmp_path / "checkpoints" / f"checkpoint-{steps[0]}" / "model.safetensors")
    published = load_file(tmp_path / "output" / "model.safetensors")
    assert all(torch.equal(best[name], weight) for name, weight in published.items())

    before = _files(tmp_path / "output")
    shutil.rmtree(tmp_path / "output")  # Killed after the last step, before it is published.
    again = reward.run(config, {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())
    assert _files(tmp_path / "output") == before
    assert again == metrics


@pytest.mark.parametrize("kind", ["labels", "pairs", "lora", "averaged", "twice", "hidden"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    kind: str,
    tiny_models: dict[str, Path],
    tmp_path: Path,
    noisy: Any,
    preferring: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = preferring if kind == "pairs" else noisy
    lora = {"method": "lora", "lora": {"r": 4, "dropout": 0.1}} if kind == "lora" else {}
    stopping: dict[str, Any] = {"early_stopping": {"eval_steps": 6}}
    noise = {"twice": {"token_dropout": 0.2, "r_drop": 1.0}, "hidden": {"token_dropout": 0.2, "masked_lm_weight": 0.5}}
    config = make(
        **({"token_dropout": 0.2, "average_weights": 0.9} if kind == "averaged" else stopping | noise.get(kind, {})),
        calibration="temperature",
        dropout=0.1,
        train={"num_train_epochs": 2, "gradient_accumulation_steps": 2},
        **lora,
    )
    inputs = {"base": tiny_models["roberta"]}
    reward.run(config, inputs, Workspace(tmp_path / "whole"), NullTracker())
    steps = iter(range(1, 100))

    def requested() -> int | None:
        if next(steps) == 8:
            monkeypatch.setattr(interrupt, "_received", 15)
        return interrupt._received

    monkeypatch.setattr(interrupt, "requested", requested)
    with pytest.raises(Interrupted, match="a checkpoint of step 8 was saved"):
        reward.run(config, inputs, Workspace(tmp_path / "parts"), NullTracker())
    monkeypatch.undo()
    reward.run(config, inputs, Workspace(tmp_path / "parts"), NullTracker())
    assert _files(tmp_path / "parts" / "output") == _files(tmp_path / "whole" / "output")


@pytest.mark.parametrize("body", ["llama", "roberta"])
def test_preferences_are_learned_and_read_with_their_prompt(
    body: str, tiny_models: dict[str, Path], tmp_path: Path, preferring: Any
) -> None:
    config = preferring(calibration="temperature")
    metrics = reward.run(config, {"base": tiny_models[body]}, Workspace(tmp_path), NullTracker())
    assert metrics["pair_accuracy"].value > 0.9  # type: ignore[union-attr]
    assert metrics["pair_accuracy"].n == 12  # type: ignore[union-attr]
    published = json.loads((tmp_path / "output" / "reward_model.json").read_text())
    assert published == {
        "label": "preferred",
        "transform": "log_odds",
        "input": "prompt_and_response",
        "max_length": 80,
        "append_eos": False,
    }
    model, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "output", output_loading_info=True)
    assert not report["missing_keys"]
    assert model.config.id2label == {0: "preferred"}
    task = preference.PreferenceModelling(config)
    margins = task._margins(model, AutoTokenizer.from_pretrained(tmp_path / "output"), task.held_out)
    load = reward_models.load(str(tmp_path / "output"))
    prompts = [pair.prompt for pair in task.held_out]
    scores = [load.score(prompts, [getattr(pair, side) for pair in task.held_out]) for side in ("chosen", "rejected")]
    expected = torch.tensor(scores[0]) - torch.tensor(scores[1])
    torch.testing.assert_close(margins, expected.float(), atol=1e-4, rtol=1e-4)


def test_rewards_of_the_policy_have_mean_0_and_variance_1(
    tiny_models: dict[str, Path], tables: dict[str, Path], tmp_path: Path, preferring: Any
) -> None:
    cut = {"marker": "\n\nAssistant:", "columns": ["chosen", "rejected"]}
    prompts = [{"dataset": {"path": str(tables["pairs"]), "last_reply": cut}, "prompt": "{prompt}", "limit": 40}]
    config = preferring(normalize={"policy": "sft", "prompts": prompts, "generation": {"max_new_tokens": 8}})
    assert config.references() == {"model": "base", "normalize.policy": "sft"}
    inputs = {"base": tiny_models["roberta"], "sft": tiny_models["llama"]}
    metrics = reward.run(config, inputs, Workspace(tmp_path), NullTracker())
    moments = json.loads((tmp_path / "output" / "reward_model.json").read_text())["moments"]
    assert moments == {"mean": metrics["reward_mean"], "std": metrics["reward_std"]}
    texts = examples.prompts(config.normalize.prompts)
    policy, tokenizer = load_causal_or_seq2seq(tiny_models["llama"]), load_tokenizer(tiny_models["llama"])
    drawn = sample(policy, tokenizer, texts, config.normalize.generation, seed=config.seed)
    answers = [response.text for response in drawn]
    scores = torch.tensor(reward_models.load(str(tmp_path / "output")).score(texts, answers))
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    same = reward_models.load(str(tmp_path / "output"), label="Preferred", transform="log_odds", sign=1)
    assert same.score(texts, answers) == pytest.approx(scores.tolist(), abs=1e-5)
    raw = reward_models.load(str(tmp_path / "output"), transform="probability").score(texts, answers)
    assert all(0 < one < 1 for one in raw)  # Read in another way, the moments are not its own.


def test_prompts_that_do_not_fit_the_policy_are_found_before_the_reward_is_trained(
    tiny_models: dict[str, Path], tables: dict[str, Path], tmp_path: Path, preferring: Any
) -> None:
    tokenizer = load_tokenizer(tiny_models["llama"])
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=12)
    ).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    prompts = [{"dataset": {"path": str(tables["pairs"])}, "prompt": "{chosen}"}]
    config = preferring(normalize={"policy": "sft", "prompts": prompts, "generation": {"max_new_tokens": 8}})
    inputs = {"base": tiny_models["roberta"], "sft": tmp_path / "gpt2"}
    with pytest.raises(UsageError, match="longer than the model's context of 12 tokens"):
        reward.run(config, inputs, Workspace(tmp_path), NullTracker())
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))


def test_moments_that_were_interrupted_go_on_with_the_responses_there_are(
    tiny_models: dict[str, Path],
    tables: dict[str, Path],
    tmp_path: Path,
    preferring: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = {"marker": "\n\nAssistant:", "columns": ["chosen", "rejected"]}
    prompts = [{"dataset": {"path": str(tables["pairs"]), "last_reply": cut}, "prompt": "{prompt}", "limit": 12}]
    config = preferring(
        normalize={"policy": "sft", "prompts": prompts * 10, "generation": {"max_new_tokens": 4}},
        train={"max_steps": 1},
    )
    inputs = {"base": tiny_models["roberta"], "sft": tiny_models["llama"]}
    reward.run(config, inputs, Workspace(tmp_path / "whole"), NullTracker())
    sampled: list[int] = []

    def sampling(model: Any, tokenizer: Any, prompts: Any, *args: Any, on_batch: Any, drawn: Any, **kwargs: Any) -> Any:
        def interrupting(count: int) -> None:
            sampled.append(count)
            if len(sampled) == 1:
                monkeypatch.setattr(interrupt, "_received", 15)
            on_batch(count)

        return sample(model, tokenizer, prompts, *args, on_batch=interrupting, drawn=drawn, **kwargs)

    monkeypatch.setattr(responses, "sample", sampling)
    with pytest.raises(Interrupted, match="a checkpoint of 64 responses was saved"):
        reward.run(config, inputs, Workspace(tmp_path / "parts"), NullTracker())
    monkeypatch.setattr(interrupt, "_received", None)
    reward.run(config, inputs, Workspace(tmp_path / "parts"), NullTracker())
    assert sampled == [64, 56]
    assert _files(tmp_path / "parts" / "output") == _files(tmp_path / "whole" / "output")


def test_rows_to_measure_with_that_are_trained_on_are_warned_of(
    rows: Path, configured: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"dataset": {"path": str(rows)}, "text": "{prompt}", "label": {"column": "label"}}
    division.of_labels(configured())
    assert "also trained on" not in caplog.text
    division.of_labels(configured(evaluation_data=[data]))
    assert "evaluation_data: 80 of its 80 rows are also trained on" in caplog.text
    caplog.clear()
    of_prompts = [{**data, "prompt": "{prompt}", "text": text} for text in ("Yes, {prompt}", "No, {prompt}")]
    division.of_labels(configured(data=of_prompts[:1], evaluation_data=of_prompts[1:]))
    assert "also trained on" not in caplog.text  # prompts in common are no rows in common


def test_a_body_that_reads_padding_in_a_way_of_its_own_is_refused(tiny_models: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="not trained on a body of type xlnet"):
        classifiers.closing_texts(load_tokenizer(tiny_models["roberta"]), XLNetConfig())


def test_a_word_is_not_taken_for_a_mark_where_a_tokenizer_adds_another_end(tiny_models: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tiny_models["llama"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {tokenizer.unk_token}", special_tokens=[(tokenizer.unk_token, tokenizer.unk_token_id)]
    )
    closed = classifiers.closing_texts(tokenizer, load_config(tiny_models["llama"]))
    bare = tokenizer("kind", add_special_tokens=False)["input_ids"]
    assert closed("kind")["input_ids"] == [*bare, tokenizer.eos_token_id]


def test_the_average_of_the_weights_is_published(tiny_models: dict[str, Path], tmp_path: Path, configured: Any) -> None:
    config = configured(average_weights=0.6, train={"num_train_epochs": 0.34, "save_steps": 1})
    reward.run(config, {"base": tiny_models["roberta"]}, Workspace(tmp_path), NullTracker())
    name = "classifier.out_proj.bias"
    steps = [load_file(tmp_path / "checkpoints" / f"checkpoint-{step}" / "model.safetensors")[name] for step in (3, 4)]
    before = load_file(tmp_path / "checkpoints" / "checkpoint-3" / "average.safetensors")[name]
    published = load_file(tmp_path / "output" / "model.safetensors")[name]
    share = 4 / 14  # of the average, which forgets its beginning
    torch.testing.assert_close(published, share * before + (1 - share) * steps[1])
    assert not torch.equal(published, steps[1])

    before = _files(tmp_path / "output")
    reward.run(config, {"base": tiny_models["roberta"]}, Workspace(tmp_path), NullTracker())
    assert _files(tmp_path / "output") == before
    shutil.rmtree(tmp_path / "output")
    (tmp_path / "checkpoints" / "checkpoint-4" / "average.safetensors").unlink()
    reward.run(config, {"base": tiny_models["roberta"]}, Workspace(tmp_path), NullTracker())
    assert _files(tmp_path / "output") == before  # from the checkpoint before


def test_hidden_tokens_are_others_in_each_epoch(tiny_models: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tiny_models["modernbert"])
    ids = [*range(20, 320), tokenizer.eos_token_id]
    rows = classification.TokenDropout([{"input_ids": ids, "labels": 1}] * 2, tokenizer, 0.2, seed=3)
    hidden = [token == tokenizer.mask_token_id for token in rows[0]["input_ids"]]
    assert sum(hidden) == pytest.approx(60, abs=20)
    assert rows[0] == rows[0] != rows[1]
    assert rows[0]["input_ids"][-1] == tokenizer.eos_token_id
    special = [tokenizer.eos_token_id] * 300
    assert classification.TokenDropout([{"input_ids": special}], tokenizer, 0.9, seed=3)[0]["input_ids"] == special
    first = rows[0]
    rows.epoch = 1
    assert rows[0] != first


def test_no_token_is_hidden_by_the_one_that_ends_a_text(tiny_models: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tiny_models["llama"])
    tokenizer.unk_token = tokenizer.pad_token = tokenizer.eos_token  # as GPT-2 has it
    classification.TokenDropout([], tokenizer, 0.0, seed=3)
    with pytest.raises(UsageError, match="token_dropout: the tokenizer has no token to put in the place of others"):
        classification.TokenDropout([], tokenizer, 0.1, seed=3)


def test_the_loss_of_hidden_tokens_is_of_those_alone() -> None:
    torch.manual_seed(0)
    states, embeddings = torch.randn(2, 3, 4, requires_grad=True), torch.randn(7, 4, requires_grad=True)
    none = torch.full((2, 3), -100)
    hidden = none.clone()
    hidden[0, 2], hidden[1, 0] = 5, 1
    logits = torch.stack([states[0, 2], states[1, 0]]) @ embeddings.T
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([5, 1]))
    torch.testing.assert_close(classification.hidden_token_loss(states, embeddings, hidden), expected)
    nothing = classification.hidden_token_loss(states, embeddings, none)
    nothing.backward()
    assert nothing == 0
    assert not states.grad.any()  # type: ignore[union-attr]


def test_a_batch_names_the_tokens_that_are_hidden(tiny_models: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tiny_models["modernbert"])
    rows = [{"input_ids": [*range(9, 9 + length)], "labels": 0} for length in (9, 4)]
    hiding = classification.TokenDropout(rows, tokenizer, 0.5, 1, twice=True)
    batch = classification.Collator(tokenizer.pad_token_id)([hiding[0], hiding[1]])
    hidden = batch["hidden_tokens"] != -100
    assert torch.equal(hidden, batch["input_ids"] == hiding.hidden)
    assert 0 < hidden.sum() < 2 * (9 + 4)
    whole = torch.where(hidden, batch["hidden_tokens"], batch["input_ids"])
    expected, _ = pad([row["input_ids"] for row in (*rows, *rows)], tokenizer.pad_token_id)
    assert torch.equal(whole, expected)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_hidden_tokens_are_learned_beside_the_labels(
    method: str, tiny_models: dict[str, Path], tmp_path: Path, noisy: Any
) -> None:
    losses = {}
    for weight in (0.0, 1.0):
        config = noisy(token_dropout=0.3, masked_lm_weight=weight, method=method, train={"num_train_epochs": 4})
        workspace = Workspace(tmp_path / str(weight))
        reward.run(config, {"base": tiny_models["roberta"]}, workspace, NullTracker())
        model = load_classifier(workspace.output, ["nice", "not nice"]).eval()
        tokenizer = load_tokenizer(workspace.output)
        task = classification.Classification(config)
        rows = classification.TokenDropout(task._rows(task.held_out, tokenizer), tokenizer, 0.3, seed=9)
        batch = classification.Collator(tokenizer.pad_token_id)([rows[index] for index in range(len(rows))])
        hidden = batch.pop("hidden_tokens")
        states = model(**{**batch, "labels": None}, output_hidden_states=True).hidden_states[-1]
        embeddings = model.get_input_embeddings().weight
        losses[weight] = classification.hidden_token_loss(states, embeddings, hidden).item()
    assert losses[1.0] < losses[0.0] - 0.1


def test_the_loss_of_hidden_tokens_is_a_mean_over_accumulated_batches(
    tiny_models: dict[str, Path], tmp_path: Path, noisy: Any
) -> None:
    losses = {}
    for weight, batches in ((0.0, 1), (0.5, 1), (0.5, 4)):
        still = {"max_steps": 3, "learning_rate": 1e-12, "gradient_accumulation_steps": batches}
        config = noisy(token_dropout=0.3, masked_lm_weight=weight, train=still)
        workspace = Workspace(tmp_path / f"{weight}_{batches}")
        metrics = reward.run(config, {"base": tiny_models["roberta"]}, workspace, NullTracker())
        losses[weight, batches] = metrics["train_loss"]
    of_tokens = 2 * (losses[0.5, 1] - losses[0.0, 1])
    assert of_tokens > 1
    assert 2 * (losses[0.5, 4] - losses[0.0, 1]) == pytest.approx(of_tokens, rel=0.1)


def test_hidden_tokens_that_cannot_be_predicted_are_refused(
    tiny_models: dict[str, Path], tmp_path: Path, configured: Any, preferring: Any
) -> None:
    with pytest.raises(ValueError, match="of the tokens that token_dropout hides: set token_dropout"):
        configured(masked_lm_weight=0.3)
    with pytest.raises(ValueError, match="masked_lm_weight is for `data:`, not for `pairs:`"):
        preferring(masked_lm_weight=0.3)
    config = configured(masked_lm_weight=0.3, token_dropout=0.1)
    with pytest.raises(UsageError, match="t5 has an encoder and a decoder: remove masked_lm_weight"):
        reward.run(config, {"base": tiny_models["t5"]}, Workspace(tmp_path), NullTracker())
    for method in ("full", "lora"):
        config = configured(masked_lm_weight=0.3, token_dropout=0.1, method=method)
        with pytest.raises(UsageError, match="llama is no encoder that transformers can train on masked tokens"):
            reward.run(config, {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())
    config = config.model_copy(update={"lora": LoraSettings(target_modules=["word_embeddings", "query"])})
    with pytest.raises(UsageError, match=r"roberta has adapters on its embeddings \(lora\.target_modules\)"):
        reward.run(config, {"base": tiny_models["roberta"]}, Workspace(tmp_path), NullTracker())
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    narrow = ElectraForSequenceClassification(ElectraConfig(vocab_size=20, embedding_size=8, **shape))
    with pytest.raises(UsageError, match="electra has embeddings 8 wide"):
        classification._require_embeddings_for_states(narrow)


def test_rows_that_are_shown_twice_hide_other_tokens_each_time(tiny_models: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tiny_models["modernbert"])
    given = [{"input_ids": list(range(20 + 3 * row, 60 + row)), "labels": row % 2} for row in range(3)]
    once = classification.TokenDropout(given, tokenizer, 0.3, seed=3)
    twice = classification.TokenDropout(given, tokenizer, 0.3, seed=3, twice=True)
    assert twice[1] == {**once[1], "again": twice[1]["again"]}
    assert twice[1]["again"] != once[1]["input_ids"]
    batch = classification.Collator(0)([twice[row] for row in range(3)])
    assert batch["labels"].tolist() == [0, 1, 0, 0, 1, 0]
    for row in range(3):
        length = len(given[row]["input_ids"])
        assert batch["input_ids"][row, :length].tolist() == twice[row]["input_ids"]
        assert batch["input_ids"][3 + row, :length].tolist() == twice[row]["again"]
        assert batch["attention_mask"].sum(1)[[row, 3 + row]].tolist() == [length, length]


@pytest.mark.parametrize("moments", [{"mean": 0.0, "std": 0.0}, {"mean": 1.0}, [0, 1], {"mean": "0", "std": 1}])
def test_moments_that_make_no_sense(
    moments: Any, tiny_models: dict[str, Path], tmp_path: Path, configured: Any
) -> None:
    config = configured(train={"max_steps": 1})
    reward.run(config, {"base": tiny_models["roberta"]}, Workspace(tmp_path), NullTracker())
    declaration = tmp_path / "output" / "reward_model.json"
    declaration.write_text(json.dumps({**json.loads(declaration.read_text()), "moments": moments}))
    with pytest.raises(reward_models.RewardError, match=r"moments in reward_model\.json must be a mean and a std"):
        reward_models.load(str(tmp_path / "output"))


def test_what_cannot_teach_is_refused(
    tiny_models: dict[str, Path], tmp_path: Path, preferring: Any, configured: Any
) -> None:
    path = tmp_path / "equal.jsonl"
    rows = [{"chosen": "yes", "rejected": "no"}, {"chosen": "the same", "rejected": " the same "}]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    pairs = [{"dataset": {"path": str(path)}, "chosen": "{chosen}", "rejected": "{rejected}"}]
    with pytest.raises(UsageError, match=r"equal\.jsonl: in 1 of 2 pairs .* are equal, the first of them 'the same'"):
        reward.run(preferring(pairs=pairs), {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())
    [problem] = checking.check(preferring(pairs=pairs))
    assert problem.startswith("pairs.0: ")
    one_class = configured(labels={"negative": "nice"})
    one_class = one_class.model_copy(
        update={"data": [one_class.data[0].model_copy(update={"where": {"label": "nice"}})]}
    )
    with pytest.raises(UsageError, match="a classifier needs rows of both kinds"):
        reward.run(one_class, {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())
    names = configured().data[0].model_dump() | {
        "label": {"column": "label", "names": {"nice": "good", "not nice": "Good "}}
    }
    with pytest.raises(UsageError, match="data: labels that differ only in case or spaces: 'Good ', 'good'"):
        reward.run(
            configured(data=[names], labels={"positive": "good"}),
            {"base": tiny_models["llama"]},
            Workspace(tmp_path),
            NullTracker(),
        )
    weights = configured(class_weights={"nice": 2.0})
    with pytest.raises(UsageError, match="class_weights names nice, but the labels are nice, not nice"):
        reward.run(weights, {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())


def test_settings_that_contradict_each_other(preferring: Any, configured: Any) -> None:
    for settings, message in (
        ({"labels": {"positive": "good"}}, "pairs:` have no labels"),
        ({"train": {"label_smoothing_factor": 0.1}}, "no labels to smooth"),
        ({"pairs": []}, "needs either `data:`"),
        ({"lora": {}}, "method is full"),
    ):
        with pytest.raises(ValueError, match=message):
            preferring(**settings)
    for settings, message in (
        ({"labels": None}, "says what a high reward stands for"),
        ({"labels": {}}, "needs either `positive:` or `negative:`"),
        ({"labels": {"positive": "a", "negative": "b"}}, "needs either `positive:` or `negative:`"),
    ):
        with pytest.raises(ValueError, match=message):
            configured(**settings)


def test_balanced_weights_of_labels_that_may_hold_together(configured: Any) -> None:
    config = configured(class_weights="balanced")
    counts = Counter({"rare": 2, "always": 8})
    weights = classification._class_weights(config, counts, 8, ["rare", "always", "never"], True)
    assert weights.tolist() == [3.0, 1.0, 1.0]  # a weight of 0 would have taught nothing of what always holds


def test_balanced_weights_and_loss() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 0])

    class Outputs:
        pass

    outputs: Any = Outputs()
    outputs.logits = logits
    loss = classification.ClassificationLoss(torch.tensor([0.75, 1.5]), 0.0)
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = (each * torch.tensor([0.75, 1.5, 0.75])).sum()
    torch.testing.assert_close(loss(outputs, labels), expected / 3)
    torch.testing.assert_close(loss(outputs, labels, 6), expected / 6)


@pytest.mark.parametrize("independent", [False, True])
def test_the_disagreement_is_both_divergences(independent: bool) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 3)
    if independent:
        first, second = (torch.distributions.Bernoulli(logits=half) for half in logits.chunk(2))
    else:
        first, second = (torch.distributions.Categorical(logits=half) for half in logits.chunk(2))
    between = torch.distributions.kl_divergence
    expected = (between(first, second) + between(second, first)).sum()
    torch.testing.assert_close(classification.disagreement(logits, independent=independent), expected)


def test_the_loss_of_two_passes_is_half_of_the_papers() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]], requires_grad=True), torch.tensor([0, 0])
    outputs: Any = type("Outputs", (), {"logits": logits})
    loss = classification.ClassificationLoss(torch.ones(2), 0.0, r_drop=3.0)
    entropies = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    first, second = logits.log_softmax(-1)
    both_ways = (first.exp() * (first - second) + second.exp() * (second - first)).sum()
    torch.testing.assert_close(loss(outputs, labels), (entropies.sum() + 3.0 / 2 * both_ways) / 2)
    with torch.no_grad():
        torch.testing.assert_close(loss(outputs, labels), entropies.mean())


def test_two_passes_need_something_that_makes_them_differ(configured: Any, preferring: Any) -> None:
    with pytest.raises(ValueError, match="set dropout or token_dropout"):
        configured(r_drop=1.0)
    with pytest.raises(ValueError, match="r_drop is for `data:`, not for `pairs:`"):
        preferring(r_drop=1.0, dropout=0.1)
