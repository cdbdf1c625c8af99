from __future__ import annotations

import asyncio
import hashlib
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import reward_models
from reward_models import RewardError, RewardModel, base, checked


def by_length(prompts, responses, references=None):
    return [float(len(response)) for response in responses]


def test_the_public_names():
    assert sorted(reward_models.__all__) == [
        "BUILTIN",
        "CheckedModel",
        "DECLARATION",
        "RewardError",
        "RewardModel",
        "Spec",
        "builtin_names",
        "checked",
        "load",
        "located",
        "plugins",
    ]


def test_importing_the_package_imports_neither_torch_nor_transformers():
    code = "import sys, reward_models; print(sorted({'torch', 'transformers', 'align'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_function_becomes_a_reward_model_of_its_name():
    model = checked(by_length)
    assert isinstance(model, RewardModel)
    assert model.name == "by_length"
    assert model.score(["p", "p"], ["ab", "abcd"]) == [2.0, 4.0]
    described = model.describe()
    assert described.pop("digest") == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert described == {"name": "by_length", "kind": "function", "label": None, "transform": None, "range": None}
    assert model.components() == {}


def test_a_function_without_references_is_not_given_any():
    assert checked(lambda prompts, responses: [1] * len(responses)).score(["p"], ["r"], ["s"]) == [1.0]


def test_references_reach_the_parameter_of_their_name():
    def keyword_only(prompts, responses, *, references=None):
        return [float(reference == "s") for reference in references or "-"]

    def whatever(prompts, responses, **more):
        return keyword_only(prompts, responses, **more)

    def further_on(prompts, responses, scale=2.0, references=None):
        return [scale * (reference == "s") for reference in references or "-"]

    def third(prompts, responses, truths):
        return [float(truth == "s") for truth in truths]

    def by_place(prompts, responses, references=None, /):
        return third(prompts, responses, references)

    def an_option_of_its_own(prompts, responses, strict=True):
        return [1.0 if strict is True else 0.0]

    for scorer, expected in (
        (an_option_of_its_own, 1.0),
        (keyword_only, 1.0),
        (whatever, 1.0),
        (further_on, 2.0),
        (third, 1.0),
        (by_place, 1.0),
    ):
        assert checked(scorer).score(["p"], ["r"], ["s"]) == [expected]
    assert checked(keyword_only).score(["p"], ["r"]) == [0.0]


def test_responses_are_known_by_their_name():
    def swapped(responses, prompts):
        return by_length(prompts, responses)

    def as_in_trl(completions, **kwargs):
        return by_length(kwargs["prompts"], completions)

    def alone(responses):
        return by_length([], responses)

    for scorer in (swapped, as_in_trl, alone, lambda prompts, completions: by_length(prompts, completions)):
        assert checked(scorer).score(["prompt"], ["r"]) == [1.0]
    with pytest.raises(RewardError, match="its first parameter is called response, but prompts come first"):
        checked(lambda response, prompt: [1.0])


def test_what_a_model_may_say_of_itself_without_a_method():
    class Own:
        probes = [("good", "bad")]
        describe = {"kind": "own", "range": [0, 1]}

        def name(self):
            return "not a name"

        def score(self, prompts, responses, references=None):
            return [0.5] * len(responses)

    model = checked(Own())
    assert (model.name, model.probes(), model.describe()["range"]) == ("Own", [("good", "bad")], [0, 1])


def test_a_model_may_not_change_what_it_is_counted_by():
    def emptying(prompts, responses):
        return [float(len(responses.pop())) for _ in range(2)]

    assert checked(emptying).score(["p", "p"], ["ab", "c"]) == [1.0, 2.0]
    with pytest.raises(RewardError, match="returned 2 scores for 3 responses"):
        checked(emptying).score(["p"] * 3, ["ab", "c", "d"])


def test_whatever_is_raised_bears_the_name():
    class Lazy:
        def tolist(self):
            raise RuntimeError("no data")

    def cancelled(prompts, responses):
        raise asyncio.CancelledError

    for scorer, message in (
        (cancelled, "CancelledError"),
        (lambda prompts, responses: Lazy(), "RuntimeError: no data"),
    ):
        with pytest.raises(RewardError, match=message):
            checked(scorer, "mine").score(["p"], ["r"])


def test_a_module_of_torch_is_no_reward_model():
    from transformers import GPT2Config, GPT2ForSequenceClassification

    model = GPT2ForSequenceClassification(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9, pad_token_id=0))
    with pytest.raises(RewardError, match="which reads tokens: save it and its tokenizer"):
        checked(model)


def test_arrays_are_numbers_too():
    numpy = pytest.importorskip("numpy")
    assert checked(lambda p, r: numpy.ones(len(r), dtype=numpy.float32)).score(["p"], ["r"]) == [1.0]
    assert checked(lambda p, r: [numpy.float32(1.5)]).score(["p"], ["r"]) == [1.5]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0, None], "score 2 of 2 is None"),
        ([math.nan, 1.0], "score 1 of 2 is nan"),
        ([1.0, -math.inf], "score 2 of 2 is -inf"),
        ([1.0, -1e39], "score 2 of 2 is -1e+39, beyond float32's 3.4e+38"),
        ([1.0, "2"], "score 2 of 2 is '2'"),
        ([1.0, True], "score 2 of 2 is True"),
        ([1.0, [2.0]], "score 2 of 2 is of type list"),
        ([1.0], "returned 1 scores for 2 responses"),
        ([1.0, 2.0, 3.0], "returned 3 scores for 2 responses"),
        (None, "must return a list of 2 numbers, not None"),
        (3.0, "must return a list of 2 numbers, not 3.0"),
        ("12", "must return a list of 2 numbers"),
        ({0: 1.0, 1: 2.0}, "must return a list of 2 numbers"),
    ],
)
def test_a_bad_answer_is_refused_under_the_models_name(answer, message):
    with pytest.raises(RewardError, match="reward model planted") as caught:
        checked(lambda prompts, responses: answer, name="planted").score(["p", "p"], ["a", "b"])
    assert message in str(caught.value)


def test_an_exception_becomes_an_error_with_the_models_name():
    def broken(prompts, responses):
        raise KeyError("column")

    with pytest.raises(RewardError, match=r"reward model broken: score\(\) failed: KeyError: 'column'"):
        checked(broken).score(["p"], ["r"])


def test_prompts_and_references_must_match_the_responses():
    with pytest.raises(RewardError, match="1 prompts for 2 responses"):
        checked(by_length).score(["p"], ["a", "b"])
    with pytest.raises(RewardError, match="1 references for 2 responses"):
        checked(by_length).score(["p", "p"], ["a", "b"], ["r"])


def test_what_is_no_model_is_refused():
    with pytest.raises(RewardError, match="is not a reward model"):
        checked(3)
    with pytest.raises(RewardError, match=r"is a class: pass an instance, .*Upside\(\)"):
        checked(type("Upside", (), {"score": by_length}))


class Counting:
    """Takes two at a time, and keeps what it said as a part."""

    batch_size = 2
    calls = 0

    def score(self, prompts, responses, references=None):
        self.calls += 1
        self.last = [float(len(prompt) + len(response)) for prompt, response in zip(prompts, responses, strict=True)]
        return self.last

    def components(self):
        return {"sum": self.last}


def test_a_model_gets_no_more_than_it_asks_for_and_its_parts_are_put_together():
    inner = Counting()
    model = checked(inner)
    assert model.score(["", "p", "pp"], ["r", "r", "r"]) == [1.0, 2.0, 3.0]
    assert inner.calls == 2
    assert model.components() == {"sum": [1.0, 2.0, 3.0]}
    assert model.score([], []) == []
    assert model.components() == {}


def test_numbers_beyond_all_floats_are_refused():
    with pytest.raises(RewardError, match="not a finite number"):
        checked(lambda prompts, responses: [10**400]).score(["p"], ["r"])


def test_the_digest_follows_the_settings():
    def digest(target):
        return reward_models.load("rules", length={"target": target}).describe()["digest"]

    assert digest(3) == digest(3) != digest(4)


class Parted:
    """Scores well, and says this of its parts."""

    name = "parted"

    def __init__(self, say, batch_size=None):
        self.components, self.batch_size = say, batch_size

    def score(self, prompts, responses, references=None):
        return [1.0] * len(responses)


@pytest.mark.parametrize(
    ("say", "message"),
    [
        (lambda: {"half": [1.0, math.nan]}, "component half of reward model parted: score 2 of 2 is nan"),
        (lambda: {"half": [1.0]}, "component half of reward model parted returned 1 scores for 2 responses"),
        (lambda: {"half": None}, "component half of reward model parted must return a list of 2 numbers, not None"),
        (lambda: None, "reward model parted: components() failed: TypeError"),
        (lambda: {}["lost"], "reward model parted: components() failed: KeyError: 'lost'"),
    ],
)
def test_parts_are_checked_as_scores_are(say, message):
    with pytest.raises(RewardError) as caught:
        checked(Parted(say)).score(["p", "p"], ["a", "b"])
    assert message in str(caught.value)


def test_a_part_stands_beside_every_score():
    said = iter([{"half": [1.0]}, {}])
    with pytest.raises(RewardError, match="component half of reward model parted has 1 numbers for 2 responses"):
        checked(Parted(lambda: next(said), batch_size=1)).score(["p", "p"], ["a", "b"])


def raising(error):
    def call(*args):
        raise error

    return call


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("batch_size", -1, "reward model own: batch_size must be a whole number above 0, not -1"),
        ("batch_size", 0, "batch_size must be a whole number above 0, not 0"),
        ("batch_size", True, "batch_size must be a whole number above 0, not True"),
        ("batch_size", "8", "batch_size must be a whole number above 0, not '8'"),
        ("batch_size", 2.0, "batch_size must be a whole number above 0, not 2.0"),
        ("describe", lambda self: None, "reward model own: describe() must return a dict, not None"),
        ("describe", raising(KeyError("kind")), "reward model own: describe() failed: KeyError: 'kind'"),
        (
            "describe",
            lambda self: {"at": Path()},
            "reward model own: what describe() gives is not JSON: Object",
        ),
        ("describe", lambda self: {1: 1, "a": 1}, "what describe() gives is not JSON"),
        ("describe", lambda self: {"mean": math.nan}, "what describe() gives is not JSON"),
        ("describe", lambda self: {"range": [0, 1, 2]}, "the `range` that describe() gives must be [lowest, highest]"),
        ("describe", lambda self: {"range": ["0", "1"]}, "not ['0', '1']"),
        ("describe", lambda self: {"range": [1, 0]}, "not [1, 0]"),
        ("describe", lambda self: {"range": [None, True]}, "each a number or None, not [None, True]"),
        ("probes", ["ab", "cd"], "reward model own: probes must be pairs"),
        (
            "batch_size",
            property(raising(OSError("gone"))),
            "reward model Own: a look at its attributes failed: OSError",
        ),
        ("probes", raising(OSError("gone")), "reward model own: probes() failed: OSError: gone"),
        ("probes", lambda self: [("good",)], "reward model own: probes must be pairs"),
    ],
)
def test_what_a_model_says_of_itself_is_checked_when_it_is_loaded(attribute, value, message):
    def score(self, prompts, responses, references=None):
        return [1.0] * len(responses)

    with pytest.raises(RewardError) as caught:
        checked(type("Own", (), {"name": "own", "score": score, attribute: value})())
    assert message in str(caught.value)


def test_a_model_describes_itself_once():
    class Moody:
        score = staticmethod(by_length)
        said = iter([{"kind": "moody", "range": [0, None]}])

        def describe(self):
            return next(self.said)

    model = checked(Moody())
    del model.describe()["digest"]
    assert model.describe()["range"] == [0, None]
    assert len(model.describe()["digest"]) == 64


def test_a_model_that_leaves_the_program_is_an_error_and_ctrl_c_is_none():
    with pytest.raises(RewardError, match=r"reward model call: score\(\) failed: SystemExit: 0"):
        checked(raising(SystemExit(0))).score(["p"], ["r"])
    with pytest.raises(KeyboardInterrupt):
        checked(raising(KeyboardInterrupt())).score(["p"], ["r"])


def test_importing_or_making_a_model_cannot_leave_the_program(tmp_path, monkeypatch):
    (tmp_path / "leaving.py").write_text("import sys\nclass Leaving:\n    def __init__(self): sys.exit(0)\n")
    (tmp_path / "leaving_at_once.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RewardError, match="leaving:Leaving could not be made: SystemExit: 0"):
        reward_models.load("leaving:Leaving")
    with pytest.raises(RewardError, match="cannot import leaving_at_once: SystemExit: 0"):
        reward_models.load("leaving_at_once:Leaving")


@pytest.mark.parametrize("members", [[len], "abc", lambda: [len], {"a": 1}])
def test_what_a_model_of_ones_own_calls_members_is_its_own_business(members):
    def scorer(prompts, responses):
        return [1.0] * len(responses)

    scorer.members = members
    assert checked(scorer).members() == []
    inner = checked(lambda prompts, responses: [0.0] * len(responses))
    scorer.members = [inner, len]
    assert checked(scorer).members() == [inner]


def test_a_model_that_does_not_come_back_is_named_once(monkeypatch, caplog):
    monkeypatch.setattr(base, "PATIENCE", 0.05)

    def slow(prompts, responses):
        time.sleep(0.0 if prompts[0] == "quick" else 0.4)
        return [1.0] * len(responses)

    model = checked(slow)
    model.score(["quick"], ["a"])
    assert caplog.messages == []
    for _ in range(2):
        model.score(["p", "p"], ["a", "b"])
    (said,) = caplog.messages
    assert said.startswith("reward model slow has not answered for 0.05 s (2 responses)")


def test_prompts_and_responses_are_told_apart_by_their_names():
    def swapped(responses, prompts):
        return [len(response) for response in responses]

    def by_name(*, prompts, responses, references):
        return [len(response) + len(reference) for response, reference in zip(responses, references, strict=True)]

    assert checked(swapped).score(["a long prompt"], ["four"]) == [4.0]
    assert checked(by_name).score(["a long prompt"], ["four"], ["ab"]) == [6.0]


def test_any_column_of_texts_will_do_but_a_text_is_none():
    model = checked(lambda prompts, responses, references: [len(one) for one in responses], "lengths")
    assert model.score((one for one in ["p"]), np.array(["abc"]), np.array(["r"])) == [3.0]
    for wrong in ("No", None, 3):
        with pytest.raises(RewardError, match="reward model lengths: responses must be a list of texts"):
            model.score(["p", "p"], wrong)
