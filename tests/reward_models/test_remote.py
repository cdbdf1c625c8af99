"""A reward model behind HTTP, against a real server on loopback that can be told to misbehave."""

from __future__ import annotations

import json
import math
import threading
import time
from typing import Any

import pytest

import reward_models
from reward_models import RewardError, endpoint, remote


def scored(asked: dict[str, Any]) -> dict[str, Any]:
    scores = [{"id": item["id"], "score": float(len(item["response"]))} for item in asked["items"]]
    return {"request": asked["request"], "scores": scores}


def test_scores_in_order_over_several_requests(serve):
    address, requests = serve(lambda handler, asked, _: handler.answer(scored(asked)))
    model = reward_models.load(f"{address}/models/toxicity/", batch_size=2)
    assert model.score(["p", "q", "s"], ["a", "bb", "cc c"], ["x", "y", "z"]) == [1.0, 2.0, 4.0]
    assert [request["path"] for request in requests] == ["/models/toxicity/score"] * 2
    assert requests[1]["items"] == [{"id": 0, "prompt": "s", "response": "cc c", "reference": "z"}]
    assert model.describe()["kind"] == "remote"


def test_localhost_is_whichever_loopback_answers(serve):
    address, requests = serve(lambda handler, asked, _: handler.answer(scored(asked)), host="::1")
    assert reward_models.load(address, retries=0).score(["p"], ["abc"]) == [3.0]
    assert len(requests) == 1


def test_a_busy_server_is_asked_again_with_the_same_id(serve):
    def busy(handler, asked, number):
        handler.answer(scored(asked) if number == 3 else b"busy", 200 if number == 3 else 503)

    address, requests = serve(busy)
    assert reward_models.load(address).score(["p"], ["abc"]) == [3.0]
    assert len({request["request"] for request in requests}) == 1
    assert len({request["headers"]["Idempotency-Key"] for request in requests}) == 1
    assert len(requests) == 3


@pytest.fixture
def slept(monkeypatch):
    """Seconds between repetitions, none of which are waited for."""
    seconds = []

    class Hurried(threading.Event):
        def wait(self, timeout=None):
            seconds.append(timeout)
            return False

    made = endpoint.Endpoint.__init__

    def hurry(self, *arguments, **options):
        made(self, *arguments, **options)
        self._given_up = Hurried()

    monkeypatch.setattr(endpoint.Endpoint, "__init__", hurry)
    return seconds


@pytest.mark.parametrize(
    ("asked_for", "pauses"),
    [("1", [1, 1]), ("0", [0.01, 0.02]), ("86400", [30, 30]), ("-5", [0.01, 0.02]), ("Wed, 21 Oct", [0.01, 0.02])],
)
def test_a_server_may_say_when_to_come_again_within_bounds(serve, slept, asked_for, pauses):
    address, requests = serve(lambda h, a, n: h.answer(b"busy", 429, **{"Retry-After": asked_for}))
    with pytest.raises(RewardError, match="asked 3 times, without an answer: status 429"):
        reward_models.load(address, retries=2).score(["p"], ["abc"])
    assert slept == pauses
    assert len(requests) == 3


def test_without_more_said_a_server_has_some_seconds_to_come_back(slept):
    with pytest.raises(RewardError, match="asked 6 times"):
        reward_models.load("http://127.0.0.1:9").score(["p"], ["abc"])
    assert 5 < sum(slept) < 10


@pytest.mark.parametrize(
    ("behave", "message", "asked_times"),
    [
        (lambda h, a, n: h.answer(b"broken", 500), "asked 3 times, without an answer: status 500", 3),
        (lambda h, a, n: h.connection.close(), "asked 3 times, without an answer", 3),
        (lambda h, a, n: h.answer(b"{", promised=9), "ended 8 bytes before its end", 3),
        (lambda h, a, n: h.answer(b"no", 403), "answered 403 Forbidden", 1),
        (lambda h, a, n: h.answer(b"", 413, promised=50), "answered 413 Request Entity Too Large", 1),
        (
            lambda h, a, n: h.wfile.write(b"HTTP/1.1 413 Too Much\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nbe"),
            "answered 413 Too Much: '(its message was cut off)'",
            1,
        ),
        (lambda h, a, n: h.answer(b"", 302, Location="http://example.org/"), "redirects to 'http://example", 1),
        (lambda h, a, n: h.answer(b"<html>Welcome"), "did not answer with JSON, but '<html>Welcome'", 1),
        (lambda h, a, n: h.answer([1.0, 2.0]), "must answer", 1),
        (lambda h, a, n: h.answer(scored(a) | {"request": "other"}), "answered another request", 1),
        (lambda h, a, n: h.answer(scored(a) | {"scores": [1.0, 2.0]}), "each of its scores must be", 1),
        (lambda h, a, n: h.answer(scored(a) | {"scores": scored(a)["scores"][::-1]}), "answered items 1, 0", 1),
        (lambda h, a, n: h.answer(scored(a) | {"scores": scored(a)["scores"][:1]}), "answered items 0, but", 1),
        (
            lambda h, a, n: h.answer(scored(a) | {"scores": [{"id": i, "score": None} for i in (0, 1)]}),
            "score 1 of 2 is None",
            1,
        ),
        (lambda h, a, n: h.answer(b" " * (8 * 2**20 + 2)), "larger than", 1),
        (lambda h, a, n: h.answer(b"[" * 100_000), "did not answer with JSON", 1),
        (
            lambda h, a, n: h.answer(scored(a) | {"scores": [{"id": i, "score": 10**400} for i in (0, 1)]}),
            "not a finite number",
            1,
        ),
    ],
)
def test_a_server_that_misbehaves_is_refused_by_its_address(serve, behave, message, asked_times):
    address, requests = serve(behave)
    with pytest.raises(RewardError, match=f"reward model {address}") as caught:
        reward_models.load(address, retries=2).score(["p", "p"], ["a", "b"])
    assert message in str(caught.value)
    assert len(requests) == asked_times


def test_a_slow_server_and_a_trickling_one_are_cut_off(serve):
    def trickle(handler, asked, number):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
        for _ in range(100):
            handler.wfile.write(b"X-More: headers\r\n")
            handler.wfile.flush()
            time.sleep(0.02)

    def trickle_the_body(handler, asked, number):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n")
        for _ in range(100):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)

    for behave in (lambda h, a, n: time.sleep(0.6), trickle, trickle_the_body):
        address, _ = serve(behave)
        started = time.monotonic()
        with pytest.raises(RewardError, match=r"without an answer: .*(no answer within 0\.3 s|timed out)"):
            reward_models.load(address, read_timeout=0.2, timeout=0.3, retries=0).score(["p"], ["a"])
        assert time.monotonic() - started < 1


def test_nobody_listening():
    with pytest.raises(RewardError, match="asked once, without an answer: ConnectionRefusedError"):
        reward_models.load("http://127.0.0.1:9", retries=0).score(["p"], ["r"])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://192.0.2.1:80", "is not on this machine but at 192.0.2.1.*allow_remote: true"),
        ("http://user:secret@127.0.0.1", "must not hold a name or password"),
        ("http://127.0.0.1:port", "its host or port cannot be read"),
        ("http:///score", "looks like http://127.0.0.1:8000"),
        ("http://[::1", "its host or port cannot be read"),
        ("http://a..b:1", "its host is not known"),
        ("http://127.0.0.1/ü", "write what is not ASCII as %C3%BC"),
        ("HTTP://192.0.2.1:80", "is not on this machine"),
        ("http://127.0.0.1:8000/?to=secret", "looks like http://127.0.0.1:8000"),
        ("http://user:secret@127.0.0.1:80a", "http://127.0.0.1:80a: its host or port cannot be read"),
        ("http://üser:secret@127.0.0.1", "http://127.0.0.1: write what is not ASCII"),
    ],
)
def test_addresses_that_are_refused_before_anything_is_sent(address, message):
    with pytest.raises(RewardError, match=message) as caught:
        reward_models.load(address)
    assert "secret" not in str(caught.value)


def test_allow_remote_accepts_another_machine():
    assert reward_models.load("http://192.0.2.1:80", allow_remote=True).name == "http://192.0.2.1:80"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout must be a number of seconds above 0, a day at most, not 0"),
        ({"timeout": "5"}, "timeout must be a number of seconds above 0, a day at most, not '5'"),
        ({"timeout": math.nan}, "timeout must be a number of seconds above 0, a day at most, not nan"),
        ({"read_timeout": math.inf}, "read_timeout must be a number of seconds above 0, a day at most, not inf"),
        ({"connect_timeout": 1e300}, "connect_timeout must be a number of seconds above 0, a day at most"),
        ({"retries": -1}, "retries must be a whole number from 0 to 100, not -1"),
        ({"retries": 1.5}, "retries must be a whole number from 0 to 100, not 1.5"),
        ({"batch_size": 0}, "batch_size must be a whole number above 0, not 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number above 0, not 1.5"),
        ({"allow_remote": "no"}, "allow_remote must be true or false, not 'no'"),
        ({"key": 5}, "`key` names an environment variable"),
        ({"time_out": 3}, "time_out"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(RewardError, match=r"reward model http://127\.0\.0\.1:9") as caught:
        reward_models.load("http://127.0.0.1:9", **options)
    assert message in str(caught.value)


def test_long_texts_go_in_several_requests_and_the_longest_alone(serve, monkeypatch):
    monkeypatch.setattr(remote, "MOST_BYTES", 200)
    address, requests = serve(lambda handler, asked, _: handler.answer(scored(asked)))
    texts = ["a" * 10, "b" * 20, "c" * 300, "d", "e" * 160]
    assert reward_models.load(address).score(["p"] * 5, texts) == [10.0, 20.0, 300.0, 1.0, 160.0]
    assert [[item["id"] for item in request["items"]] for request in requests] == [[0, 1], [2], [3], [4]]


def test_proxies_of_the_environment_are_not_asked(serve, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    address, requests = serve(lambda handler, asked, _: handler.answer(scored(asked)))
    assert reward_models.load(address).score(["p"], ["abc"]) == [3.0]
    assert len(requests) == 1


def test_a_key_is_sent_as_a_bearer_token(serve, monkeypatch):
    monkeypatch.setenv("REWARD_TOKEN", "a-token")
    address, requests = serve(lambda handler, asked, _: handler.answer(scored(asked)))
    assert reward_models.load(address, key="REWARD_TOKEN").score(["p"], ["abc"]) == [3.0]
    assert requests[0]["headers"]["Authorization"] == "Bearer a-token"


def test_an_option_that_there_is_not_shows_no_password():
    with pytest.raises(RewardError, match=r"reward model http://127\.0\.0\.1:80: ") as caught:
        reward_models.load({"model": "http://user:secret@127.0.0.1:80", "foo": 1})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("escape", [json.dumps, lambda text: json.dumps(text).replace("/", "\\/")])
def test_a_key_that_a_server_repeats_in_json_is_not_shown(serve, monkeypatch, escape):
    key = 'ab"c/d\\e1234'
    monkeypatch.setenv("REWARD_TOKEN", key)
    address, _ = serve(lambda handler, asked, _: handler.answer(f'{{"got": {escape("Bearer " + key)}}}'.encode(), 400))
    with pytest.raises(RewardError, match="answered 400") as caught:
        reward_models.load(address, key="REWARD_TOKEN").score(["p"], ["abc"])
    assert "e1234" not in str(caught.value)
