"""A language model as the reward, behind a loopback server that speaks chat completions."""

from __future__ import annotations

import json
import signal
import time

import pytest

import reward_models
from reward_models import RewardError

KEY = "sk-not-a-real-key-123"
RUBRIC = "How polite is the response?"


def said(content):
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


def judged(handler, asked, number):
    """One to ten, by the length of the response."""
    item = json.loads(asked["messages"][1]["content"])
    handler.answer(said(f" {min(10, len(item['response']))}\n"))


def test_one_number_for_each_response_in_their_order(serve, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    address, requests = serve(judged)
    model = reward_models.load("llm", address=f"{address}/v1", llm="judge-1", rubric=RUBRIC, key="JUDGE_KEY")
    texts = ["a" * count for count in (3, 7, 1, 12, 5)]
    assert model.score(["p"] * 5, texts) == [3.0, 7.0, 1.0, 10.0, 5.0]
    assert {request["path"] for request in requests} == {"/v1/chat/completions"}
    assert {request["headers"]["Authorization"] for request in requests} == {f"Bearer {KEY}"}
    assert {request["model"] for request in requests} == {"judge-1"}
    assert {request["temperature"] for request in requests} == {0}
    assert all(request["messages"][0]["content"].startswith(RUBRIC) for request in requests)
    assert "reference" not in json.loads(requests[0]["messages"][1]["content"])
    assert model.score(["p"], ["aaa"]) == [3.0]
    assert len(requests) == 5  # what was judged once is not asked again
    assert KEY not in json.dumps(model.describe())
    assert model.describe()["range"] == [1.0, 10.0]


def test_the_reference_is_shown_where_the_recipe_says_so(serve):
    address, requests = serve(judged)
    model = reward_models.load(
        {"model": "llm", "address": address, "llm": "m", "rubric": RUBRIC, "with_reference": True,
         "settings": {"temperature": None, "seed": 1}}
    )  # fmt: skip
    assert model.needs_references
    assert model.score(["p"], ["four"], ["r"]) == [4.0]
    assert json.loads(requests[0]["messages"][1]["content"]) == {"prompt": "p", "response": "four", "reference": "r"}
    assert "temperature" not in requests[0]
    assert requests[0]["seed"] == 1
    with pytest.raises(RewardError, match="needs a reference for every response, and at least one is missing"):
        model.score(["p"], ["four"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("I would give it a 7.", "was asked for a number from 1 to 10 and nothing else, but answered 'I would give"),
        ("7/10", "but answered '7/10'"),
        ("", "but answered ''"),
        ("nan", "but answered 'nan'"),
        (None, "did not answer with a text: the message's `content` is the JSON 'null'"),
        (3, "did not answer with a text: the message's `content` is the JSON '3'"),
        ("11", "answered 11, outside 1 to 10"),
        ("-3", "answered -3, outside 1 to 10"),
    ],
)
def test_what_is_no_number_within_the_scale_is_refused(serve, answer, message):
    address, requests = serve(lambda handler, asked, number: handler.answer(said(answer)))
    with pytest.raises(RewardError, match="reward model llm m") as caught:
        reward_models.load("llm", address=address, llm="m", rubric=RUBRIC).score(["p"], ["r"])
    assert message in str(caught.value)
    assert len(requests) == 1


def test_the_scale_is_written_as_an_answer_must_be(serve):
    address, requests = serve(lambda handler, asked, number: handler.answer(said("12345678")))
    model = reward_models.load("llm", address=address, llm="m", rubric=RUBRIC, scale=[0.00001, 12345678])
    assert model.score(["p"], ["r"]) == [12345678.0]
    assert "from 0.00001 (worst) to 12345678 (best)" in requests[0]["messages"][0]["content"]


def test_a_number_that_was_cut_off_is_refused(serve):
    def cut(handler, asked, number):
        answer = said("1")  # of 10
        answer["choices"][0]["finish_reason"] = "length"
        handler.answer(answer)

    address, _ = serve(cut)
    judge = reward_models.load("llm", address=address, llm="m", rubric=RUBRIC, settings={"max_tokens": 1})
    with pytest.raises(RewardError, match=r"was cut off in its answer.*raise max_tokens"):
        judge.score(["p"], ["r"])


def test_a_judge_that_a_filter_silences_says_so(serve):
    def filtered(handler, asked, number):
        answer = said("")
        answer["choices"][0]["finish_reason"] = "content_filter"
        handler.answer(answer)

    address, _ = serve(filtered)
    judge = reward_models.load("llm", address=address, llm="m", rubric=RUBRIC)
    with pytest.raises(RewardError, match="llm m did not judge a response: the endpoint's content filter stopped it"):
        judge.score(["p"], ["r"])


def test_a_key_that_the_server_repeats_is_not_in_the_message(serve, monkeypatch, caplog):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    bad = [
        lambda handler, asked, number: handler.answer({"error": f"{KEY} is not known"}, 401),
        lambda handler, asked, number: handler.answer({"hello": KEY}),
        lambda handler, asked, number: handler.answer(said(f"your key is {KEY}")),
        lambda handler, asked, number: handler.answer(b"", 302, Location=f"http://example.org/?key={KEY}"),
        lambda handler, asked, number: raw(handler, f"HTTP/1.0 401 not {KEY}"),
        lambda handler, asked, number: raw(handler, f"HTTP/1.0 500 not {KEY}"),
        lambda handler, asked, number: raw(handler, f"not {KEY}"),
    ]
    for behave in bad:
        address, _ = serve(behave)
        judge = reward_models.load("llm", address=address, llm="m", rubric=RUBRIC, key="JUDGE_KEY", retries=0)
        with pytest.raises(RewardError, match="…") as caught:
            judge.score(["p"], ["r"])
        assert KEY not in str(caught.value) + caplog.text


@pytest.mark.parametrize("content", [f"{KEY}\n# of the team", f"{KEY}é", f"{KEY} x\r\nX-Forged: 1", "\n"])
def test_a_key_that_no_header_can_hold_is_refused_unsaid(monkeypatch, content):
    monkeypatch.setenv("JUDGE_KEY", content)
    with pytest.raises(RewardError, match="JUDGE_KEY, which `key` names, must hold one line of ASCII") as caught:
        reward_models.load("llm", address="http://127.0.0.1:9", llm="m", rubric=RUBRIC, key="JUDGE_KEY")
    assert KEY not in str(caught.value)


def raw(handler, line):
    handler.wfile.write(f"{line}\r\n\r\n".encode())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": KEY}, "`key` names an environment variable"),
        ({"key": KEY.replace("-", "_")}, "`key` names an environment variable"),
        ({"key": "NO_SUCH_VARIABLE_HERE"}, "NO_SUCH_VARIABLE_HERE, which `key` names, is not set"),
        ({"scale": 5}, "scale must be the lowest and the highest number, as in [1, 10], not 5"),
        ({"settings": 5}, "settings must be a mapping, as in {seed: 1}, not 5"),
        ({"settings": {"model": "another"}}, "settings may not hold model"),
        ({"with_reference": "no"}, "with_reference must be true or false, not 'no'"),
        ({"address": 5}, "address looks like http://127.0.0.1:8000, not 5"),
        ({"scale": [5, 1]}, "scale must be the lowest and the highest number"),
        ({"rubric": " "}, "the rubric is empty"),
        ({"parallel": True}, "parallel must be a whole number above 0, not True"),
        ({"llm": None}, "`llm:` must be what the endpoint calls its model, not None"),
        ({"parallel": 0}, "parallel must be a whole number above 0"),
        ({"address": "http://192.0.2.1/v1"}, "is not on this machine but at 192.0.2.1"),
        ({"address": "http://192.0.2.1/v1", "allow_remote": True, "key": "JUDGE_KEY"}, "a key is not sent over http"),
        ({"rubrik": "?"}, "got an unexpected keyword argument 'rubrik'; it takes address, llm, rubric"),
        ({"allow_remot": True}, "llm: got an unexpected keyword argument 'allow_remot'; it takes"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(monkeypatch, options, message):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with pytest.raises(RewardError) as caught:
        reward_models.load("llm", **{"address": "http://127.0.0.1:9", "llm": "m", "rubric": RUBRIC, **options})
    assert message in str(caught.value)
    assert KEY not in str(caught.value)
    assert KEY.replace("-", "_") not in str(caught.value)


def test_a_rubric_and_a_model_must_be_given():
    with pytest.raises(RewardError, match=r"missing .*'rubric'"):
        reward_models.load("llm", address="http://127.0.0.1:9", llm="m")


def test_ctrl_c_ends_what_is_waited_for(serve):
    """As a user's second Ctrl-C does: the main thread is interrupted while all others wait for a silent server."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    address, requests = serve(lambda handler, asked, number: time.sleep(30))
    model = reward_models.load("llm", address=address, llm="m", rubric=RUBRIC, parallel=2)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            model.score([""] * 6, list("abcdef"))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 10
    assert len(requests) == 2


def test_half_a_character_is_no_number(serve):
    address, _ = serve(lambda handler, asked, number: handler.answer(said("\ud800")))
    with pytest.raises(RewardError, match="asked for a number from 1 to 10 and nothing else"):
        reward_models.load("llm", address=address, llm="m", rubric=RUBRIC).score([""], ["a"])
