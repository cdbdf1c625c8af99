"""The whole stage on tiny random models: what it writes, that it repeats itself, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
import torch
from pydantic import ValidationError

from align.configs.evaluate import EvaluateConfig
from align.errors import AlignError, UsageError
from align.stages import evaluate
from align.tracking import NullTracker
from align.workspace import Interval, Workspace

PROMPTS = ["Anna: Hi.\nSummary:", "Ben: See you at noon.\nSummary:", "Cleo: No.\nSummary:", "Dan: Why?\nSummary:"] * 2
CONTINUED = ["Once upon a time", "The train was late"]


def _tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet)
    inner.train_from_iterator(PROMPTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")


def _causal(seed, vocabulary):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = LlamaConfig(vocab_size=vocabulary, pad_token_id=0, eos_token_id=1, bos_token_id=None, **shape)
    return LlamaForCausalLM(config)


def _seq2seq(seed, vocabulary):
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    ends = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    return T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, **shape, **ends))


@pytest.fixture(scope="module")
def make_models(tmp_path_factory):
    """Two models of one tokenizer, and one whose vocabulary is larger."""

    def make(build):
        directory = tmp_path_factory.mktemp("models")
        tokenizer = _tokenizer()
        for seed, name in enumerate(["sft", "ppo", "other"]):
            if name == "other":
                tokenizer.add_tokens(["zebra"])
            build(seed, len(tokenizer)).save_pretrained(directory / name)
            tokenizer.save_pretrained(directory / name)
        return {name: directory / name for name in ["sft", "ppo", "other"]}

    return make


@pytest.fixture(scope="module")
def models(make_models):
    return make_models(_causal)


@pytest.fixture
def data(tmp_path):
    dialogues, texts = tmp_path / "dialogues.jsonl", tmp_path / "texts.jsonl"
    rows = [{"prompt": prompt, "summary": f"Summary {number}"} for number, prompt in enumerate(PROMPTS)]
    dialogues.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in CONTINUED))
    return [
        {"dataset": {"path": str(dialogues)}, "prompt": "{prompt}", "reference": "{summary}"},
        {"dataset": {"path": str(texts)}, "prompt": "{text}", "metrics": ["toxicity", "length", "reward"]},
    ]


@pytest.fixture
def rewards(tmp_path, monkeypatch):
    """A module with rewards and judges in it."""
    name = f"rewards_of_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(
        "def count(prompts, responses):\n    return [float(sum(map(ord, text)) % 7) for text in responses]\n"
        "def opposite(prompts, responses):\n    return [-score for score in count(prompts, responses)]\n"
        "def none(prompts, responses):\n    return [None] * len(responses)\n"
        "def judge(prompts, responses):\n    return [float(score < 3) for score in count(prompts, responses)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def _save_judge(directory):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    tokenizer = _tokenizer()
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, bos_token_id=None, **shape)
    config.id2label = {0: "nontoxic", 1: "toxic"}
    LlamaForSequenceClassification(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _config(data, **settings):
    common = {"kind": "evaluate", "models": ["sft", "ppo"], "data": data, "judge": {"rule": "rude_wording"}}
    small = {"generation": {"max_new_tokens": 6}, "batch_size": 4, "bootstrap_samples": 50}
    return EvaluateConfig(**{"seed": 3, **common, **small, **settings})


def _run(config, models, path):
    metrics = evaluate.run(config, models, Workspace(path), NullTracker())
    return metrics, json.loads((path / "output" / "metrics.json").read_text())


@pytest.mark.parametrize("build", [_causal, _seq2seq])
def test_what_is_measured_and_written(build, make_models, data, rewards, tmp_path):
    models = make_models(build)
    metrics = ["rouge", "bleu", "perplexity", "toxicity", "kl", "length", "distinct", "reward"]
    config = _config(data, metrics=metrics, reward=f"{rewards}:count", samples=1)
    returned, written = _run(config, models, tmp_path / "run")
    expected = {"rouge_1", "rouge_2", "rouge_l", "bleu", "perplexity", "toxicity", "kl", "reward"}
    expected |= {"length_characters", "length_tokens", "distinct_1", "distinct_2", "repetition"}
    assert set(written["models"]) == {"sft", "ppo"}
    assert set(written["models"]["sft"]) == set(written["models"]["ppo"]) == expected
    assert set(written["differences"]) == {"ppo"}
    assert set(written["differences"]["ppo"]) == expected
    assert written["baseline"] == "sft"
    assert written["judge"] == {"rule": "rude_wording"}
    assert (written["seed"], written["prompts"]) == (3, 10)
    for name, found in written["models"].items():
        for metric, interval in found.items():
            assert set(interval) == {"value", "low", "high", "n"}
            assert interval["low"] <= interval["value"] <= interval["high"], metric
            assert returned[f"{name}.{metric}"] == Interval(**interval)
    # Rows of one prompt are one unit; the second data set asks for fewer metrics and has no references.
    assert written["models"]["ppo"]["toxicity"]["n"] == 6
    assert written["models"]["ppo"]["rouge_l"]["n"] == 4
    assert written["models"]["sft"]["kl"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 4}
    assert written["models"]["ppo"]["kl"]["low"] > 0
    assert 1 < written["models"]["sft"]["perplexity"]["value"] < 3000
    samples = [json.loads(line) for line in (tmp_path / "run/output/samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in samples] == PROMPTS + CONTINUED
    assert samples[0]["reference"] == "Summary 0"
    assert samples[-1]["reference"] is None
    assert set(samples[0]["responses"]) == {"sft", "ppo"}
    assert set(samples[-1]["scores"]["ppo"]) == {"toxicity", "reward", "length_characters", "length_tokens"}
    kl = [row["scores"]["ppo"]["kl"] for row in samples[: len(PROMPTS)]]
    assert math.fsum(kl) / len(kl) == pytest.approx(written["models"]["ppo"]["kl"]["value"])
    table = (tmp_path / "run/output/table.md").read_text()
    assert "| toxicity ↓ " in table
    assert "ppo − sft" in table
    assert table.count("**prompt**") == 1
    assert (tmp_path / "run/output/metrics.png").stat().st_size > 1000


def test_the_same_seed_gives_the_same_bytes(models, data, tmp_path):
    def digests(path, **settings):
        _run(_config(data, **settings), models, path)
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (path / "output").iterdir()}

    first = digests(tmp_path / "first")
    assert first == digests(tmp_path / "second")
    assert first["samples.jsonl"] != digests(tmp_path / "third", seed=4)["samples.jsonl"]
    assert sorted(first) == ["metrics.json", "metrics.png", "samples.jsonl", "table.md"]
    for name in first:
        assert str(tmp_path).encode() not in (tmp_path / "first/output" / name).read_bytes()


def test_another_vocabulary_has_no_kl(models, data, tmp_path, caplog):
    metrics = ["kl", "length", "perplexity"]
    _, written = _run(_config(data, models=["sft", "other"], metrics=metrics), models, tmp_path)
    assert "kl" not in written["models"]["other"]
    assert "kl of other is left out: its tokenizer is not that of sft" in caplog.text
    assert "perplexity" in written["models"]["other"]
    assert "perplexity" not in written["differences"]["other"]


def test_a_model_against_itself_differs_in_nothing(models, data, tmp_path):
    inputs = {**models, "path:./x/sft": models["sft"]}
    _, written = _run(_config(data, models=["sft", "path:./x/sft"]), inputs, tmp_path)
    assert set(written["models"]) == {"sft", "sft 2"}
    for metric, interval in written["differences"]["sft 2"].items():
        assert interval["value"] == pytest.approx(0, abs=1e-6), metric


def test_the_reward_must_agree_with_the_judge(models, data, rewards, tmp_path, monkeypatch):
    judge = evaluate.reward_models.load(f"{rewards}:judge")
    monkeypatch.setattr(evaluate, "load_judge", lambda config, inputs: (judge.score, judge.describe()))
    settings = {"metrics": ["toxicity", "reward"], "require_reward_auc": 0.9}
    returned, written = _run(_config(data, reward=f"{rewards}:count", **settings), models, tmp_path)
    assert returned["sft.reward_auc"].value == 1.0
    assert "reward_auc" not in written["models"]["ppo"]
    with pytest.raises(AlignError, match=r"AUC against the judge on 10 .* is 0\.000 .*below require_reward_auc 0\.9"):
        _run(_config(data, reward=f"{rewards}:opposite", **settings), models, tmp_path)


def test_a_judge_without_contrast_cannot_check_a_reward(models, data, rewards, tmp_path):
    with pytest.raises(AlignError, match="calls 10 of 10 baseline responses non-toxic"):
        _run(_config(data, reward=f"{rewards}:count", require_reward_auc=0.6), models, tmp_path)


def test_bad_settings_and_bad_rewards_are_refused(models, data, rewards, tmp_path):
    with pytest.raises(ValidationError, match="Input should be 'rouge'"):
        _config([{**data[0], "metrics": ["toxicty"]}])
    with pytest.raises(ValidationError, match="metric reward needs a `reward:`"):
        _config(data, metrics=["reward"])
    with pytest.raises(UsageError, match="no reward model at 'nowhere'"):
        _run(_config(data, reward="nowhere"), models, tmp_path)
    with pytest.raises(AlignError, match=f"evaluating sft: reward model {rewards}:none: score 1 of 10 is None"):
        _run(_config(data, reward=f"{rewards}:none"), models, tmp_path)


def test_a_classifier_as_judge(models, data, tmp_path):
    _save_judge(tmp_path / "judge")
    (tmp_path / "judge/reward_model.json").write_text('{"label": "nontoxic", "transform": "log_odds", "sign": -1}')
    config = _config(data, judge={"model": "judge", "label": "toxic"}, metrics=["toxicity"])
    _, written = _run(config, {**models, "judge": tmp_path / "judge"}, tmp_path / "run")
    assert 0 < written["models"]["sft"]["toxicity"]["value"] < 1
    judge = written["judge"]
    assert (judge["name"], judge["label"], judge["transform"], judge["sign"]) == ("judge", "toxic", "probability", 1)

    # A reward's moments are of a policy's rewards; toxicity stays a probability.
    declared = '{"label": "toxic", "transform": "probability", "moments": {"mean": 0.4, "std": 0.1}}'
    (tmp_path / "judge/reward_model.json").write_text(declared)
    _, again = _run(config, {**models, "judge": tmp_path / "judge"}, tmp_path / "again")
    assert again["judge"]["moments"] == {"mean": 0.4, "std": 0.1}
    assert again["models"] == written["models"]


def test_many_responses_to_one_prompt_are_no_single_certain_one(models, tmp_path):
    (tmp_path / "one.jsonl").write_text((json.dumps({"text": "the cat"}) + "\n") * 12)
    data = [{"dataset": {"path": str(tmp_path / "one.jsonl")}, "prompt": "{text}"}]
    _, written = _run(_config(data, metrics=["length"]), models, tmp_path)
    length = written["models"]["sft"]["length_characters"]
    assert length["n"] == 12
    assert length["low"] < length["value"] < length["high"]


def test_a_judge_that_was_trained_with_prompts_reads_them(models, data, rewards, tmp_path):
    _save_judge(tmp_path / "judge")
    (tmp_path / "judge/reward_model.json").write_text('{"label": "toxic", "input": "prompt_and_response"}')
    config = _config(data, judge={"model": "judge", "label": "toxic"}, metrics=["toxicity"])
    _, written = _run(config, {**models, "judge": tmp_path / "judge"}, tmp_path / "run")
    assert written["judge"]["input"] == "prompt_and_response"
