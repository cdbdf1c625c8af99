from __future__ import annotations

import copy
import json
import random
import shutil

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

import reward_models
from reward_models import RewardError

ARCHITECTURES = ["roberta", "llama", "t5"]


def scores(directory, prompts, texts, **options):
    return reward_models.load(str(directory), **options).score(prompts, texts)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("transform", ["logit", "log_odds", "probability", "log_probability"])
def test_the_order_of_labels_does_not_matter(make_classifier, prompts, texts, architecture, transform):
    options = {"label": "NonToxic", "transform": transform}
    one = scores(make_classifier(architecture, ["toxic", "nontoxic"]), prompts, texts, **options)
    other = scores(make_classifier(architecture, ["nontoxic", "toxic"]), prompts, texts, **options)
    assert one == pytest.approx(other, abs=1e-6)
    assert len(set(one)) > 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_three_labels_permuted(make_classifier, prompts, texts, architecture):
    one = make_classifier(architecture, ["joy", "anger", "fear"])
    other = make_classifier(architecture, ["fear", "joy", "anger"])
    for transform in ["log_odds", "probability"]:
        expected = scores(one, prompts, texts, label="anger", transform=transform)
        assert scores(other, prompts, texts, label="anger", transform=transform) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_multi_label_scores_are_sigmoids_of_their_own_logit(make_classifier, prompts, texts, architecture):
    labels = ["toxic", "insult", "threat"]
    one = make_classifier(architecture, labels, "multi_label_classification")
    other = make_classifier(architecture, labels[::-1], "multi_label_classification")
    logits = scores(one, prompts, texts, label="insult", transform="logit")
    assert scores(other, prompts, texts, label="insult", transform="log_odds") == pytest.approx(logits, abs=1e-6)
    expected = torch.tensor(logits).sigmoid().tolist()
    assert scores(one, prompts, texts, label="insult", transform="probability") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_logit_needs_no_label(make_classifier, prompts, texts, architecture):
    directory = make_classifier(architecture, ["LABEL_0"])
    assert scores(directory, prompts, texts) == scores(directory, prompts, texts, transform="logit")


def test_the_transforms_agree_with_softmax(make_classifier, prompts, texts):
    directory = make_classifier("roberta", ["toxic", "nontoxic"])
    logit = {
        label: torch.tensor(scores(directory, prompts, texts, label=label, transform="logit"), dtype=torch.float64)
        for label in ["toxic", "nontoxic"]
    }
    probability = torch.stack([logit["toxic"], logit["nontoxic"]]).softmax(0)[1]
    for transform, expected in {
        "probability": probability,
        "log_probability": probability.log(),
        "log_odds": logit["nontoxic"] - logit["toxic"],
    }.items():
        found = scores(directory, prompts, texts, label="nontoxic", transform=transform)
        assert found == pytest.approx(expected.tolist(), abs=1e-6)
    negated = scores(directory, prompts, texts, label="toxic", sign=-1)
    assert negated == pytest.approx(scores(directory, prompts, texts, label="nontoxic"), abs=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_depend_neither_on_batch_size_nor_on_order(make_classifier, prompts, texts, architecture):
    directory = make_classifier(architecture, ["toxic", "nontoxic"])
    model = reward_models.load(str(directory), label="nontoxic", append_eos=True)
    whole = model.score(prompts, texts)
    assert model.score(prompts, texts) == whole
    same = pytest.approx(whole, abs=5e-6, rel=5e-6)
    assert [model.score([prompt], [text])[0] for prompt, text in zip(prompts, texts, strict=True)] == same
    assert scores(directory, prompts, texts, label="nontoxic", append_eos=True, batch_tokens=1) == same
    order = random.Random(0).sample(range(len(texts)), len(texts))
    shuffled = model.score([prompts[index] for index in order], [texts[index] for index in order])
    assert [shuffled[order.index(index)] for index in range(len(texts))] == same


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_scores_as_transformers_own_pipeline(make_classifier, prompts, texts, architecture):
    from transformers import pipeline

    directory = make_classifier(architecture, ["toxic", "nontoxic"])
    plain = [text for text in texts if text and "</s>" not in text]
    classify = pipeline("text-classification", str(directory), top_k=None, device="cpu")
    expected = [
        next(row["score"] for row in rows if row["label"] == "nontoxic") for rows in classify(plain, truncation=True)
    ]
    found = scores(directory, prompts[: len(plain)], plain, label="nontoxic", transform="probability")
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_text_cannot_forge_special_tokens(make_classifier, architecture):
    model = reward_models.load(
        str(make_classifier(architecture, ["toxic", "nontoxic"])), label="nontoxic", append_eos=True
    )
    alone, forged = model.score(["", ""], ["rude", "rude</s>"])
    assert alone != forged
    assert len(model.score([""] * 3, ["a", "b</s>c</s>", "</s>"])) == 3


def test_prompt_and_response_are_both_read_and_the_response_is_never_cut_off(make_classifier):
    directory = str(make_classifier("roberta", ["toxic", "nontoxic"]))
    response = reward_models.load(directory, label="toxic")
    assert len(set(response.score(["one", "two"], ["same", "same"]))) == 1
    both = reward_models.load(directory, label="toxic", input="prompt_and_response")
    assert len(set(both.score(["one", "two"], ["same", "same"]))) == 2
    long = "word " * 200
    assert len(set(both.score([long, long], ["yes", "no"]))) == 2
    assert both.score(["A:\n"], ["b"]) == pytest.approx(response.score([""], ["A:\nb"]), abs=1e-6)


def test_the_declaration_beside_the_model_sets_defaults(make_classifier, prompts, texts, tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(make_classifier("llama", ["toxic", "nontoxic"]), directory)
    declared = {"label": "nontoxic", "transform": "probability", "max_length": 16, "append_eos": True}
    (directory / "reward_model.json").write_text(json.dumps(declared))
    model = reward_models.load(str(directory))
    described = model.describe()
    assert {key: described[key] for key in ("label", "transform", "sign", "input", "max_length", "range")} == {
        "label": "nontoxic",
        "transform": "probability",
        "sign": 1,
        "input": "response",
        "max_length": 16,
        "range": [0.0, 1.0],
    }
    assert all(0 < score < 1 for score in model.score(prompts, texts))
    open_ended = reward_models.load(str(directory), append_eos=False)
    assert model.score(prompts, texts) != open_ended.score(prompts, texts)
    assert reward_models.load(str(directory), sign=-1, label="toxic").describe()["range"] == [-1.0, -0.0]
    (directory / "reward_model.json").write_text('{"lable": "nontoxic"}')
    with pytest.raises(RewardError, match=r"may hold label, .*, not lable"):
        reward_models.load(str(directory))


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"label": "NonToxic"}, True),
        ({"sign": 1, "transform": "log_odds", "input": "response"}, True),
        ({"names": {}}, True),
        ({"names": {"nontoxic": "nice"}, "label": "nice"}, True),
        ({"max_length": 16, "batch_tokens": 64}, True),
        ({"label": "toxic"}, False),
        ({"names": {"nontoxic": "toxic", "toxic": "nontoxic"}}, False),
        ({"sign": -1}, False),
        ({"transform": "logit"}, False),
        ({"input": "prompt_and_response"}, False),
    ],
)
def test_moments_are_kept_until_another_number_is_read(make_classifier, tmp_path, asked, kept):
    directory = tmp_path / "model"
    shutil.copytree(make_classifier("roberta", ["toxic", "nontoxic"]), directory)
    declaration = {"label": "nontoxic", "moments": {"mean": 0.5, "std": 2.0}}
    (directory / "reward_model.json").write_text(json.dumps(declaration))
    moments = reward_models.load(str(directory), **asked).describe()["moments"]
    assert moments == ({"mean": 0.5, "std": 2.0} if kept else {"mean": 0.0, "std": 1.0})


@pytest.mark.parametrize("declared", [{}, {"label": 3}, {"label": "polite"}])
def test_a_declaration_that_reads_nothing_has_no_moments(make_classifier, tmp_path, declared):
    directory = tmp_path / "model"
    shutil.copytree(make_classifier("roberta", ["toxic", "nontoxic"]), directory)
    declared["moments"] = {"mean": 0.5, "std": 2.0}
    (directory / "reward_model.json").write_text(json.dumps(declared))
    moments = reward_models.load(str(directory), label="nontoxic").describe()["moments"]
    assert moments == {"mean": 0.0, "std": 1.0}


def test_a_regression_of_one_number_has_no_probability(make_classifier, prompts, texts):
    directory = make_classifier("roberta", ["politeness"], "regression")
    model = reward_models.load(str(directory))
    assert model.describe()["transform"] == "logit"
    with pytest.raises(RewardError, match="it is a regression"):
        scores(directory, prompts, texts, transform="probability")


@pytest.mark.parametrize("architecture", ["xlnet", "fnet"])
def test_models_that_read_their_padding_are_given_none(word_tokenizer, tmp_path, architecture):
    from transformers import FNetConfig, FNetForSequenceClassification, XLNetConfig, XLNetForSequenceClassification

    torch.manual_seed(0)
    size = {"vocab_size": len(word_tokenizer), "num_labels": 1, "pad_token_id": 0}
    model = {
        "xlnet": lambda: XLNetForSequenceClassification(
            XLNetConfig(d_model=16, n_layer=1, n_head=2, d_inner=32, **size)
        ),
        "fnet": lambda: FNetForSequenceClassification(
            FNetConfig(hidden_size=16, num_hidden_layers=1, intermediate_size=32, **size)
        ),
    }[architecture]()
    model.save_pretrained(tmp_path)
    word_tokenizer.save_pretrained(tmp_path)
    reward = reward_models.load(str(tmp_path))
    texts = [" ".join(["w5"] * count) for count in (1, 2, 2, 30, 7)]
    together = reward.score([""] * 5, texts)
    assert [reward.score([""], [text])[0] for text in texts] == pytest.approx(together, abs=1e-5)
    assert len(set(together)) == 4


def test_a_token_of_another_segment_is_read_so(word_tokenizer, tmp_path):
    from transformers import XLNetConfig, XLNetForSequenceClassification

    torch.manual_seed(0)
    word_tokenizer = copy.deepcopy(word_tokenizer)
    config = XLNetConfig(vocab_size=len(word_tokenizer), num_labels=1, d_model=16, n_layer=2, n_head=2, d_inner=32)
    model = XLNetForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    word_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A:0 </s>:2", special_tokens=[("</s>", word_tokenizer.eos_token_id)]
    )
    word_tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    word_tokenizer.save_pretrained(tmp_path)
    encoded = word_tokenizer("w5 w6", return_tensors="pt")
    assert encoded["token_type_ids"].tolist() == [[0, 0, 2]]
    with torch.inference_mode():
        expected = model(**encoded).logits.item()
    assert reward_models.load(str(tmp_path)).score([""], ["w5 w6"]) == pytest.approx([expected], abs=1e-6)


def test_a_padding_token_that_the_model_does_not_know_is_not_taken(make_classifier, tmp_path):
    directory = tmp_path / "without_padding"
    shutil.copytree(make_classifier("llama", ["LABEL_0"]), directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "pad_token_id": -1}))
    texts = ["No.", "You are kind. " * 3]
    model = reward_models.load(str(directory), names={0: "kind"})
    assert model.score(["", ""], texts) == pytest.approx([model.score([""], [text])[0] for text in texts], abs=1e-5)


def test_an_adapter_is_not_a_whole_model(make_classifier, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    source = make_classifier("roberta", ["toxic", "nontoxic"])
    base = AutoModelForSequenceClassification.from_pretrained(source)
    directory = tmp_path / "adapter"
    shutil.copytree(source, directory)
    adapter = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    adapter.peft_config["default"].base_model_name_or_path = str(source)
    adapter.save_pretrained(directory)
    with pytest.raises(RewardError, match=r"is an adapter, .* merge the two"):
        reward_models.load(str(directory), label="nontoxic")


def test_a_model_that_reads_pictures_too_is_a_classifier_of_text(word_tokenizer, tmp_path):
    from transformers import Gemma3Config, Gemma3ForSequenceClassification

    text = {"vocab_size": len(word_tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 40}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    Gemma3ForSequenceClassification(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, num_labels=1)
    ).save_pretrained(tmp_path)
    word_tokenizer.save_pretrained(tmp_path)
    model = reward_models.load(str(tmp_path))
    assert model.describe()["max_length"] == 40
    assert model.score([""] * 2, ["w5", "w5 w6 w7"])[0] == pytest.approx(model.score([""], ["w5"])[0], abs=1e-5)


def test_a_regression_of_several_numbers_is_no_choice_among_them(make_classifier, prompts, texts):
    directory = make_classifier("roberta", ["polite", "brief"], "regression")
    polite = scores(directory, prompts, texts, label="polite", transform="logit")
    assert polite != scores(directory, prompts, texts, label="brief", transform="logit")
    assert scores(directory, prompts, texts, label="polite") == polite
    for transform in ("log_odds", "probability"):
        with pytest.raises(
            RewardError, match="it is a regression, whose numbers are no logits of a choice: say transform: logit"
        ):
            scores(directory, prompts, texts, label="polite", transform=transform)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["toxic", "nontoxic"], {"label": "polite"}, "has no label 'polite'; its labels are toxic, nontoxic"),
        (["toxic", "nontoxic"], {}, "which label is scored.*toxic, nontoxic"),
        (["LABEL_0", "LABEL_1"], {"label": "LABEL_1"}, "its labels have no names"),
        (["LABEL_0"], {"label": "good"}, "has no label 'good'"),
        (["toxic", "nontoxic"], {"label": "toxic", "transform": "odds"}, "transform is 'odds'; it can be logit"),
        (["toxic", "nontoxic"], {"label": "toxic", "sign": 2}, "sign is 2; it can be 1, -1"),
        (["toxic", "nontoxic"], {"label": "toxic", "max_length": 65}, "reads at most 64 tokens"),
        (["toxic", "nontoxic"], {"label": "toxic", "max_length": 0}, "max_length must be a whole number above 0"),
        (["toxic", "nontoxic"], {"label": "toxic", "max_length": 2}, "max_length 2 leaves no room for text beside 2"),
        (["toxic", "nontoxic"], {"label": "toxic", "lenght": 3}, "'lenght'; it takes name, revision, label, names"),
        (["toxic", "nontoxic"], {"label": "a", "names": {"LABEL_0": "a"}}, "`names` renames 'LABEL_0'"),
    ],
)
def test_what_makes_no_sense_is_refused(make_classifier, labels, options, message):
    with pytest.raises(RewardError, match=message):
        reward_models.load(str(make_classifier("roberta", labels)), **options)


def test_unnamed_labels_can_be_named(make_classifier, prompts, texts):
    directory = make_classifier("roberta", ["LABEL_0", "LABEL_1"])
    by_label = scores(directory, prompts, texts, names={"LABEL_0": "good", "LABEL_1": "bad"}, label="good")
    by_index = scores(directory, prompts, texts, names={0: "bad", "1": "good"}, label="bad")
    assert by_label == by_index


def test_a_declared_sign_is_that_of_its_label(make_classifier, prompts, texts, tmp_path):
    directory = tmp_path / "declared"
    shutil.copytree(make_classifier("roberta", ["toxic", "nontoxic"]), directory)
    (directory / "reward_model.json").write_text('{"label": "toxic", "sign": -1}')
    declared = scores(directory, prompts, texts)
    assert scores(directory, prompts, texts, label="Toxic") == declared
    assert scores(directory, prompts, texts, label="nontoxic") == pytest.approx(declared)  # log-odds of two labels
    assert scores(directory, prompts, texts, label="nontoxic", sign=-1) == pytest.approx([-one for one in declared])
    (directory / "reward_model.json").write_text('{"sign": -1}')  # of whichever label is asked for
    assert scores(directory, prompts, texts, label="toxic") == declared


def test_a_renamed_label_keeps_the_sign_that_was_declared_for_it(make_classifier, prompts, texts, tmp_path):
    directory = tmp_path / "declared"
    shutil.copytree(make_classifier("roberta", ["toxic", "nontoxic"]), directory)
    declaration = directory / "reward_model.json"
    declaration.write_text('{"label": "toxic", "sign": -1, "moments": {"mean": 1.0, "std": 2.0}}')
    declared = scores(directory, prompts, texts)
    assert scores(directory, prompts, texts, names={"toxic": "rude"}, label="rude") == declared
    assert scores(directory, prompts, texts, names={0: "rude", 1: "nice"}, label="Rude") == declared
    other = scores(directory, prompts, texts, names={"nontoxic": "nice"}, label="nice")
    assert other == pytest.approx([2 * one + 1 for one in declared])  # its own sign, and no moments
    # Names that say the opposite of those declared: the label of that name is the bad one, wherever it stands.
    declaration.write_text('{"label": "bad", "sign": -1, "names": {"toxic": "bad", "nontoxic": "good"}}')
    turned = {"toxic": "good", "nontoxic": "bad"}
    assert scores(directory, prompts, texts, names=turned, label="bad") == pytest.approx([-one for one in other])
    assert scores(directory, prompts, texts, names=turned) == pytest.approx([-one for one in other])
    assert scores(directory, prompts, texts, names=turned, label="good") == pytest.approx([-one for one in other])


def test_a_long_dialogue_that_is_closed_keeps_its_beginning_of_text(make_classifier, tmp_path):
    directory = tmp_path / "llama"
    shutil.copytree(make_classifier("llama", ["toxic", "nontoxic"]), directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.bos_token = tokenizer.pad_token
    tokenizer.chat_template = "{{ bos_token }}{% for turn in messages %}{{ turn['content'] }} {% endfor %}"
    marks = [(tokenizer.bos_token, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.bos_token} $A", special_tokens=marks
    )
    tokenizer.save_pretrained(directory)
    for read, closes in {"prompt_and_response": True, "chat": True, "response": True}.items() | {("chat", False)}:
        options = {"input": read, "append_eos": closes, "max_length": 8, "label": "toxic"}
        model = reward_models.load(str(directory), **options)._model
        (long,), (short,) = (model._token_ids([model._text(text, text)]) for text in ("a b c d e f g h i j k l", "a"))
        assert len(long) == 8 > len(short)
        for ids in (long, short):
            assert ids[0] == tokenizer.bos_token_id
            assert ids.count(tokenizer.bos_token_id) == 1
            assert (ids[-1] == tokenizer.eos_token_id) == closes
        text = model._text(*["a b c d e f g h i j k l"] * 2).removeprefix(tokenizer.bos_token)
        whole = tokenizer(text, add_special_tokens=False)["input_ids"]
        kept = [token for token in long if token not in (tokenizer.bos_token_id, tokenizer.eos_token_id)]
        assert len(set(whole)) > 8
        assert kept == (whole[: len(kept)] if read == "response" else whole[-len(kept) :])


def test_a_label_called_by_a_number_is_renamed_by_its_name(make_classifier, prompts, texts):
    directory = make_classifier("roberta", ["1", "2", "3"])
    words = {1: "awful", 2: "fair", "3": "great"}
    assert scores(directory, prompts, texts, names=words, label="great") == scores(directory, prompts, texts, label="3")
    swapped = make_classifier("roberta", ["1", "0"])
    good = scores(swapped, prompts, texts, names={"0": "bad", "1": "good"}, label="good")
    assert good == scores(swapped, prompts, texts, label="1")


def test_a_language_model_is_no_classifier(tmp_path, make_classifier):
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path / "language-model"
    shutil.copytree(make_classifier("llama", ["toxic", "nontoxic"]), directory)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    LlamaForCausalLM(LlamaConfig(vocab_size=320, **shape)).save_pretrained(directory)
    with pytest.raises(RewardError, match="is not a trained classifier: it has no weights for score"):
        reward_models.load(str(directory), names={0: "a", 1: "b"}, label="a")


def truncated(directory):
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])


def of_another_size(directory):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))


def without_tokenizer(directory):
    for path in directory.glob("token*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "its files are damaged or incomplete, make or fetch it again: SafetensorError"),
        (of_another_size, "its weights do not belong to its config.json: classifier.dense.bias is .*, not .64."),
        (without_tokenizer, "its tokenizer cannot be loaded .ValueError: its vocabulary is empty.: are all its files"),
        (lambda directory: (directory / "tokenizer.json").write_text("{}"), "its tokenizer cannot be loaded .KeyError"),
        (lambda directory: (directory / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda directory: (directory / "config.json").write_text("[1]"), "Should have a `model_type` key"),
        (lambda directory: (directory / "config.json").unlink(), "that directory holds no config.json"),
    ],
)
def test_a_damaged_directory_is_said(tmp_path, make_classifier, damage, message):
    directory = tmp_path / "damaged"
    shutil.copytree(make_classifier("roberta", ["toxic", "nontoxic"]), directory)
    damage(directory)
    with pytest.raises(RewardError, match=f"damaged.*{message}"):
        reward_models.load(str(directory), label="nontoxic")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_its_files_no_tokenizer_is_made_up(tmp_path, make_classifier, architecture):
    directory = tmp_path / "mute"
    shutil.copytree(make_classifier(architecture, ["toxic", "nontoxic"]), directory)
    without_tokenizer(directory)
    with pytest.raises(
        RewardError, match=r"reward model mute: its tokenizer cannot be loaded \(.*\): are all"
    ) as caught:
        reward_models.load(str(directory), label="nontoxic")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_a_device_that_is_not_there_is_said(make_classifier, device):
    with pytest.raises(RewardError, match=f"reward model roberta: device '{device}' cannot be used"):
        reward_models.load(str(make_classifier("roberta", ["toxic", "nontoxic"])), label="toxic", device=device)
