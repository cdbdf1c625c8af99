from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import reward_models
from align.configs.reward import RewardConfig
from align.errors import AlignError, UsageError
from align.modeling import classifiers
from align.modeling.load import load_config, load_tokenizer
from align.stages import classification, reward
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


@pytest.mark.parametrize("body", ["llama", "t5", "roberta"])
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
    assert published == {"label": "nice", "transform": "log_odds", "input": "response", "max_length": 64}
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


def test_labels_that_do_not_fit_are_named(tiny_models: dict[str, Path], tmp_path: Path, configured: Any) -> None:
    config = configured(labels={"positive": "nontoxic"})
    with pytest.raises(UsageError, match="'nontoxic', but the data has only the labels: nice, not nice"):
        reward.run(config, {"base": tiny_models["llama"]}, Workspace(tmp_path), NullTracker())


def test_balanced_weights_and_loss() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 0])

    class Outputs:
        pass

    outputs: Any = Outputs()
    outputs.logits = logits
    loss = classification.WeightedLoss(torch.tensor([0.75, 1.5]), 0.0)
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = (each * torch.tensor([0.75, 1.5, 0.75])).sum()
    torch.testing.assert_close(loss(outputs, labels), expected / 3)
    torch.testing.assert_close(loss(outputs, labels, 6), expected / 6)
