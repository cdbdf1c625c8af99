"""A reward model behind HTTP, against a real server on loopback that can be told to misbehave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import reward_models
from reward_models import RewardError, remote

Behaviour = Callable[[BaseHTTPRequestHandler, dict[str, Any], int], None]


def answer(handler: BaseHTTPRequestHandler, content: Any, status: int = 200, **headers: str) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def scored(asked: dict[str, Any]) -> dict[str, Any]:
    scores = [{"id": item["id"], "score": float(len(item["response"]))} for item in asked["items"]]
    return {"request": asked["request"], "scores": scores}


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.01)
    servers = []

    def start(behave: Behaviour) -> tuple[str, list[dict[str, Any]]]:
        requests: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                requests.append({"path": self.path, **asked})
                behave(self, asked, len(requests))

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.handle_error = lambda *_: None
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}", requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_scores_in_order_over_several_requests(serve):
    address, requests = serve(lambda handler, asked, _: answer(handler, scored(asked)))
    model = reward_models.load(f"{address}/models/toxicity/", batch_size=2)
    assert model.score(["p", "q", "s"], ["a", "bb", "cc c"], ["x", "y", "z"]) == [1.0, 2.0, 4.0]
    assert [request["path"] for request in requests] == ["/models/toxicity/score"] * 2
    assert requests[1]["items"] == [{"id": 2, "prompt": "s", "response": "cc c", "reference": "z"}]
    assert model.describe()["kind"] == "remote"


def test_a_busy_server_is_asked_again_with_the_same_id(serve):
    def busy(handler, asked, number):
        answer(handler, scored(asked) if number == 3 else b"busy", 200 if number == 3 else 503)

    address, requests = serve(busy)
    assert reward_models.load(address).score(["p"], ["abc"]) == [3.0]
    assert len({request["request"] for request in requests}) == 1
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("behave", "message", "asked_times"),
    [
        (lambda h, a, n: answer(h, b"broken", 500), "asked 3 times, without an answer: status 500", 3),
        (lambda h, a, n: h.connection.close(), "asked 3 times, without an answer", 3),
        (lambda h, a, n: answer(h, b"no", 403), "answered 403 Forbidden", 1),
        (lambda h, a, n: answer(h, b"", 302, Location="http://example.org/"), "redirects to 'http://example", 1),
        (lambda h, a, n: answer(h, b"<html>Welcome"), "did not answer JSON, but b'<html>Welcome'", 1),
        (lambda h, a, n: answer(h, [1.0, 2.0]), "must answer", 1),
        (lambda h, a, n: answer(h, scored(a) | {"request": "other"}), "answered another request", 1),
        (lambda h, a, n: answer(h, scored(a) | {"scores": [1.0, 2.0]}), "each of its scores must be", 1),
        (lambda h, a, n: answer(h, scored(a) | {"scores": scored(a)["scores"][::-1]}), "answered items 1, 0", 1),
        (lambda h, a, n: answer(h, scored(a) | {"scores": scored(a)["scores"][:1]}), "answered items 0, but", 1),
        (
            lambda h, a, n: answer(h, scored(a) | {"scores": [{"id": i, "score": None} for i in (0, 1)]}),
            "score 0 of 2 is None",
            1,
        ),
        (lambda h, a, n: answer(h, b" " * (8 * 2**20 + 2)), "larger than", 1),
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

    for behave in (lambda h, a, n: time.sleep(0.6), trickle):
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
        ("http://127.0.0.1:port", "Port could not be cast"),
        ("http:///score", "looks like http://127.0.0.1:8000"),
    ],
)
def test_addresses_that_are_refused_before_anything_is_sent(address, message):
    with pytest.raises(RewardError, match=message) as caught:
        reward_models.load(address)
    assert "secret" not in str(caught.value)


def test_allow_remote_accepts_another_machine():
    assert reward_models.load("http://192.0.2.1:80", allow_remote=True).name == "http://192.0.2.1:80"
