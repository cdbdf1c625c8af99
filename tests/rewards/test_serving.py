"""A served reward: a real server process on loopback, the client that PPO uses, and requests that are none."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import reward_models
from align.errors import UsageError
from align.rewards import serving
from align.rewards.batcher import Batcher, Item
from reward_models import RewardError

TEXTS = [f"w{4 + n % 40} " * (1 + n % 7) for n in range(60)]
TOKEN = "open-sesame-0123456789"


@contextmanager
def server(model: str, *options: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`align reward serve` on a free port, until the block ends."""
    with started(["-m", "align", "reward", "serve", model, "--port", "0", *options], **environment) as found:
        yield found


@contextmanager
def started(arguments: list[str], **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A Python that serves, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}", **environment},
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"at (http://\S+?)( \(token needed\))?; Ctrl-C stops it", line)
        assert found, line + process.stderr.read()
        yield found[1], process
    finally:
        process.kill()
        process.wait()


def ask(address: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(
        "GET" if body is None else "POST", path, content, {"Content-Type": "application/json", **headers}
    )
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def question(*responses: str) -> dict[str, Any]:
    return {"request": "r", "items": [{"id": n, "prompt": "", "response": text} for n, text in enumerate(responses)]}


def test_served_is_local_for_many_clients_at_once_and_ctrl_c_ends_it(tiny_classifier: Path) -> None:
    # Probabilities: log-odds of 4 are no more exact in float32 than 1e-6, which differs with the texts of a pass.
    spec = {"model": str(tiny_classifier), "transform": "probability"}
    local = reward_models.load(spec)
    expected = local.score([""] * len(TEXTS), TEXTS)
    with server(json.dumps(spec)) as (address, process):
        remote = reward_models.load(address)
        assert remote.score([""] * len(TEXTS), TEXTS) == expected
        with ThreadPoolExecutor(8) as pool:  # each asks for a few: they meet in batches
            pieces = [slice(start, start + 5) for start in range(0, len(TEXTS), 5)]
            answers = pool.map(lambda piece: remote.score([""] * 5, TEXTS[piece]), pieces)
        assert [score for answer in answers for score in answer] == pytest.approx(expected, abs=1e-6)
        assert ask(address, "/describe") == (200, local.describe())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0
        assert said == "stopped\n"


SLOW = """
import logging
import reward_models
from align.rewards import serving
from align.rewards.batcher import Batcher, Item

logging.basicConfig(level="INFO", format="%(message)s")
model = reward_models.load("rewards_for_tests:half_a_minute")
limits = serving.Limits(seconds_to_finish={seconds})
serving.serve(model, host="127.0.0.1", port=0, token=None, limits=limits)
"""


@pytest.mark.parametrize(("seconds", "signals", "code"), [(0.3, 1, 0), (30, 2, 130)])
def test_a_model_at_work_does_not_keep_the_server(seconds: float, signals: int, code: int) -> None:
    with started(["-c", SLOW.format(seconds=seconds)]) as (address, process), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, address, "/score", question("a"))
        time.sleep(1)
        assert not asked.done()
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        _, said = process.communicate(timeout=10)
        assert process.returncode == code
        assert "Traceback" not in said
        if signals == 1:
            assert asked.result() == (503, {"detail": "the server is stopping"})
        else:
            assert isinstance(asked.exception(), ConnectionError)


def test_a_token_is_asked_for_and_never_said() -> None:
    with server("rewards_for_tests:length", ALIGN_REWARD_TOKEN=TOKEN) as (address, process):
        assert ask(address, "/health") == (200, {"status": "ok"})
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}):
            assert ask(address, "/score", question("abc"), **headers)[0] == 401
            assert ask(address, "/describe", **headers)[0] == 401
        status, answer = ask(address, "/score", question("abc"), Authorization=f"Bearer {TOKEN}")
        assert (status, answer) == (200, {"request": "r", "scores": [{"id": 0, "score": 3.0}]})
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0
        assert TOKEN not in out + err


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_are_let_in_only_with_a_token(host: str) -> None:
    with pytest.raises(UsageError, match=f"--host {host} can be reached from other machines: set a token"):
        serving.serve(reward_models.load("rewards_for_tests:length"), host=host, port=0, token=None)


def test_a_port_in_use_is_said() -> None:
    with server("rewards_for_tests:length") as (address, _):
        port = int(address.rpartition(":")[2])
        with pytest.raises(UsageError, match=f"--port {port}: Address already in use"):
            serving.serve(reward_models.load("rewards_for_tests:length"), host="127.0.0.1", port=port, token=None)


@pytest.fixture
def small() -> Iterator[str]:
    """The address of a server with narrow limits, in this process."""
    limits = serving.Limits(body_bytes=2000, items=3, waiting=4, seconds_to_send=0.5, connections=3)
    with running("rewards_for_tests:nan", None, limits) as address:
        yield address


@contextmanager
def running(model: str, token: str | None, limits: serving.Limits) -> Iterator[str]:
    sock = serving._bound("127.0.0.1", 0, None)
    server = serving._server(reward_models.load(model), token, limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (question("a" * 2000), 413, "larger than 2000 bytes"),
        (question(*"abcd"), 413, "4 items, but at most 3"),
        (question("fine", "ashamed"), 422, "rewards_for_tests:nan: score 2 of 2 is nan"),
        ({"request": "r", "items": [{"id": 0, "prompt": "", "response": 3}]}, 422, "response"),
        ({"request": "r", "items": [{"id": 0, "prompt": "", "response": "a", "extra": 1}]}, 422, "extra"),
        ({"items": []}, 422, "request"),
        (b"<html>", 422, "JSON"),
        ({"request": "\ud800", "items": []}, 422, "surrogates not allowed"),
        ({"request": "r", "items": [{"id": "\ud800", "prompt": "", "response": "a"}]}, 422, "surrogates not allowed"),
        ({"request": "r", "items": [{"id": 0, "prompt": "", "response": "\udfff"}]}, 422, "surrogates not allowed"),
        ({"request": "r", "items": [], "\ud800": 1}, 422, "unicode string"),
    ],
)
def test_a_request_that_is_none_is_refused_in_words(small: str, body: Any, status: int, message: str) -> None:
    found, answer = ask(small, "/score", body)
    assert found == status
    assert message in json.dumps(answer)


def test_a_client_that_is_refused_while_it_sends_hears_why(small: str) -> None:
    with pytest.raises(RewardError, match=r"answered 413 .*the request is larger than 2000 bytes"):
        reward_models.load(small, retries=0).score([""], ["a" * 20_000_000])
    with (
        running("rewards_for_tests:length", TOKEN, serving.Limits()) as address,
        pytest.raises(RewardError, match=r"answered 401 .*a token is needed"),
    ):
        reward_models.load(address, retries=0).score([""], ["a" * 7_000_000])


def test_who_never_ends_a_refused_request_is_hung_up_on() -> None:
    with running("rewards_for_tests:length", TOKEN, serving.Limits(seconds_to_linger=0.2)) as address:
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port), timeout=20) as sock, sock.makefile("rb") as answer:
            sock.sendall(b"POST /score HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{")
            assert b" 401 " in answer.readline()
            assert b"a token is needed" in answer.read()


@pytest.mark.parametrize("first", [b"", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"])
def test_headers_that_never_end_are_hung_up_on(small: str, first: bytes) -> None:
    place = urlsplit(small)
    with socket.create_connection((place.hostname, place.port), timeout=10) as sock:
        if first:  # the same connection may ask again
            sock.sendall(first)
            assert b" 200 " in sock.recv(1000)
        sock.sendall(b"POST /sc")
        started = time.monotonic()
        while sock.recv(1000):  # until the server hangs up
            pass
        assert time.monotonic() - started < 3


def test_an_answer_names_few_of_many_errors() -> None:
    with running("rewards_for_tests:length", None, serving.Limits()) as address:
        for body in (
            {"request": "r", "items": [{}] * 50_000},
            {"request": "r", "items": [{f"key{n}": 0 for n in range(50_000)}]},
            {f"key{n}": 0 for n in range(50_000)},
        ):
            status, answer = ask(address, "/score", body)
            assert status == 422
            assert len(json.dumps(answer)) < 1000


def test_a_page_of_another_host_is_not_answered(small: str) -> None:
    for host, status in (("evil.example", 421), ("[::1", 421), ("localhost:80", 200), ("[::1]", 200)):
        assert ask(small, "/describe", Host=host)[0] == status
    with running("rewards_for_tests:length", TOKEN, serving.Limits()) as address:
        assert ask(address, "/describe", Host="rewards.example", Authorization=f"Bearer {TOKEN}")[0] == 200


def test_mixed_references_and_unknown_paths(small: str) -> None:
    asked = question("a", "b")
    asked["items"][0]["reference"] = "c"
    assert ask(small, "/score", asked)[0] == 422
    assert ask(small, "/docs")[0] == 404
    assert ask(small, "/score", {"request": "r", "items": []}) == (200, {"request": "r", "scores": []})


def begun(address: str, path: str = "/score") -> http.client.HTTPConnection:
    """A request whose body does not come."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    return connection


def test_a_request_that_never_arrives_is_cut_off(small: str) -> None:
    assert begun(small).getresponse().status == 408


def test_without_the_token_no_body_is_read() -> None:
    with running("rewards_for_tests:length", TOKEN, serving.Limits(seconds_to_send=5)) as address:
        started = time.monotonic()
        assert begun(address).getresponse().status == 401
        assert begun(address, "/health").getresponse().status == 405
        assert time.monotonic() - started < 2
        assert ask(address, "/docs")[0] == 401


def test_only_so_many_are_served_at_once(small: str) -> None:
    held = [begun(small) for _ in range(4)]
    assert 503 in [connection.getresponse().status for connection in held]
    for connection in held:
        connection.close()
    assert reward_models.load(small).score([""], ["fine"]) == [1.0]


def test_what_the_model_refuses_stops_the_client_with_its_name(small: str) -> None:
    with pytest.raises(RewardError, match=r"answered 422 .*rewards_for_tests:nan: score 1 of 1 is nan"):
        reward_models.load(small).score([""], ["ashamed"])


class Slow:
    """Holds its first call until told, and remembers the sizes of all."""

    name = "slow"

    def __init__(self) -> None:
        self.go, self.sizes = threading.Event(), []

    def score(self, prompts: Any, responses: Any, references: Any = None) -> list[float]:
        self.sizes.append(len(responses))
        self.go.wait(10)
        if "broken" in responses:
            raise RewardError("broken")
        if "cursed" in responses:
            raise ArithmeticError("cursed")
        return [float(len(text)) for text in responses]


def test_what_comes_in_while_the_model_is_busy_is_one_batch() -> None:
    async def scenario() -> list[Any]:
        batcher = Batcher(model, 10)  # not `checked`, so that other errors come out of it as well
        worker = asyncio.create_task(batcher.run())

        def asked(*texts: str) -> asyncio.Task[list[float]]:
            items = [Item(id=n, prompt="", response=text) for n, text in enumerate(texts)]
            return asyncio.create_task(batcher.score(items))

        first = asked("a")
        while not model.sizes:
            await asyncio.sleep(0.01)
        others = [asked("bb", "ccc"), asked("dddd"), asked("broken"), asked("cursed"), asked(*"too many")]
        await asyncio.sleep(0.05)
        model.go.set()
        found = await asyncio.wait_for(asyncio.gather(first, *others, return_exceptions=True), 5)
        assert await asyncio.wait_for(asked("then"), 5) == [4.0]
        worker.cancel()
        return found

    model = Slow()
    first, second, third, broken, cursed, refused = asyncio.run(scenario())
    assert (first, second, third) == ([1.0], [2.0, 3.0], [4.0])
    assert isinstance(broken, RewardError)  # and only the one who asked for it
    assert isinstance(cursed, RewardError)
    assert str(cursed) == "reward model slow failed: ArithmeticError: cursed"
    assert isinstance(refused, asyncio.QueueFull)
    assert model.sizes == [1, 5, 2, 1, 1, 1, 1]


def test_a_server_whose_worker_has_ended_says_so() -> None:
    from fastapi.testclient import TestClient

    app = serving.application(reward_models.load("rewards_for_tests:length"))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get("/health").json() == {"status": "ok"}
        app.state.worker.cancel()
        for _ in range(50):
            if client.get("/health").status_code != 200:
                break
        for answer in (client.get("/health"), client.post("/score", json=question("abc"))):
            assert answer.status_code == 503
            assert answer.json() == {"detail": "the scoring worker has stopped: restart the server"}
