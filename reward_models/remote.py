"""A reward model behind HTTP: the other side may be any language and any machine.

    POST {address}/score   {"request": id, "items": [{"id": 0, "prompt": "…", "response": "…", "reference": "…"}, …]}
    200                    {"request": id, "scores": [{"id": 0, "score": 1.25}, …]}

`request` is a hash of the items, so that a server can recognise a repeated request. Scores come back in the order of
the items. Other statuses than 200 are errors; 429 and 5xx, and connections that break, are tried again. Redirects are
never followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import json
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from reward_models.base import RewardError

_LARGEST_ANSWER = 8 * 2**20
_FIRST_PAUSE = 0.2
"""Seconds before the first repetition; each further one waits twice as long."""


class _TryAgainError(Exception):
    """Something that may pass: a busy server, a broken connection."""


class Remote:
    """Scores by asking a server. Only this machine's own addresses, unless `allow_remote` says otherwise."""

    def __init__(
        self,
        address: str,
        *,
        allow_remote: bool = False,
        connect_timeout: float = 5.0,
        read_timeout: float = 60.0,
        timeout: float = 120.0,
        retries: int = 3,
        batch_size: int = 64,
    ) -> None:
        """Nothing is sent yet.

        Args:
            address: `http://host:port`, with a path before `/score` if there is one.
            allow_remote: texts may leave this machine.
            connect_timeout: seconds until the server must have accepted a connection.
            read_timeout: seconds that it may stay silent.
            timeout: seconds that one request may take altogether.
            retries: repetitions of a request that failed for a reason that may pass.
            batch_size: items in one request.
        """
        parts = urlsplit(address)
        try:
            port = parts.port
        except ValueError as error:
            raise RewardError(f"{address}: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise RewardError(f"{address}: a reward model's address looks like http://127.0.0.1:8000")
        if parts.username or parts.password:
            raise RewardError(f"the address of reward model {parts.hostname} must not hold a name or password")
        if retries < 0 or batch_size < 1 or min(connect_timeout, read_timeout, timeout) <= 0:
            raise RewardError(f"{address}: timeouts and batch_size must be above 0, retries not below")
        self.name = address
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = port or (443 if self._secure else 80)
        self._path = f"{parts.path.rstrip('/')}/score"
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._timeout = timeout
        self._retries = retries
        self._batch_size = batch_size
        if not allow_remote:
            self._require_loopback()

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
    ) -> list[float]:
        """One number per response, as the server gives them.

        Raises:
            RewardError: the server cannot be reached, refuses, or answers something else than was asked.
        """
        items: list[dict[str, Any]] = [
            {"id": index, "prompt": prompt, "response": response}
            for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
        ]
        for item, reference in zip(items, references or [], strict=references is not None):
            item["reference"] = reference
        scores: list[float] = []
        for start in range(0, len(items), self._batch_size):
            scores += self._ask(items[start : start + self._batch_size])
        return scores

    def describe(self) -> dict[str, Any]:
        """Where it is; what the number means only the server knows."""
        return {"kind": "remote", "address": self.name, "range": None}

    def _ask(self, items: Sequence[Mapping[str, Any]]) -> list[float]:
        content = json.dumps(items, sort_keys=True)
        request = hashlib.sha256(content.encode()).hexdigest()
        body = f'{{"request": "{request}", "items": {content}}}'.encode()
        for attempt in range(self._retries + 1):
            try:
                return self._scores(self._post(body), request, [item["id"] for item in items])
            except _TryAgainError as error:
                problem = error
                if attempt < self._retries:
                    time.sleep(_FIRST_PAUSE * 2**attempt)
        tries = "once" if self._retries == 0 else f"{self._retries + 1} times"
        raise RewardError(f"reward model {self.name}: asked {tries}, without an answer: {problem}")

    def _post(self, body: bytes) -> bytes:
        make = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = make(self._host, self._port, timeout=min(self._connect_timeout, self._timeout))
        # Each read has a timeout of its own; a server that trickles bytes is cut off by the timer.
        overdue = threading.Event()
        timer = threading.Timer(self._timeout, _cut, (connection, overdue))
        timer.daemon = True
        timer.start()
        try:
            connection.connect()
            connection.sock.settimeout(self._read_timeout)
            connection.request("POST", self._path, body, {"Content-Type": "application/json", "Connection": "close"})
            answer = connection.getresponse()
            content = answer.read(_LARGEST_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            why = f"no answer within {self._timeout:g} s" if overdue.is_set() else f"{type(error).__name__}: {error}"
            raise _TryAgainError(why) from error
        finally:
            timer.cancel()
            connection.close()
        if overdue.is_set():
            raise _TryAgainError(f"no answer within {self._timeout:g} s")
        if answer.status == 429 or answer.status >= 500:
            raise _TryAgainError(f"status {answer.status} {answer.reason}")
        if 300 <= answer.status < 400:
            raise RewardError(
                f"reward model {self.name} redirects to {answer.getheader('Location')!r}, and redirects are not "
                "followed: give the address that it really has"
            )
        if answer.status != 200:
            raise RewardError(f"reward model {self.name} answered {answer.status} {answer.reason}: {content[:200]!r}")
        if len(content) > _LARGEST_ANSWER:
            raise RewardError(f"reward model {self.name}: its answer is larger than {_LARGEST_ANSWER} bytes")
        return content

    def _scores(self, content: bytes, request: str, ids: Sequence[int]) -> list[float]:
        try:
            answer = json.loads(content)
        except ValueError as error:
            raise RewardError(f"reward model {self.name} did not answer JSON, but {content[:80]!r}") from error
        if not isinstance(answer, dict) or not isinstance(answer.get("scores"), list):
            raise RewardError(f'reward model {self.name} must answer {{"request": …, "scores": [{{"id", "score"}}]}}')
        if answer.get("request") != request:
            raise RewardError(f"reward model {self.name} answered another request than the one it was asked")
        rows = answer["scores"]
        if not all(isinstance(row, dict) and row.keys() == {"id", "score"} for row in rows):
            raise RewardError(f'reward model {self.name}: each of its scores must be {{"id": …, "score": …}}')
        if [row["id"] for row in rows] != list(ids):
            raise RewardError(
                f"reward model {self.name} answered items {_few([row['id'] for row in rows])}, but was asked for "
                f"{_few(ids)}, in this order"
            )
        return [row["score"] for row in rows]

    def _require_loopback(self) -> None:
        try:
            found = {str(entry[4][0]) for entry in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)}
        except OSError as error:
            raise RewardError(f"reward model {self.name}: its host is not known: {error}") from error
        elsewhere = sorted(address for address in found if not ipaddress.ip_address(address).is_loopback)
        if elsewhere:
            raise RewardError(
                f"reward model {self.name} is not on this machine but at {elsewhere[0]}: every prompt and response "
                "would leave it. Say allow_remote: true if that is meant"
            )
        if not self._secure:  # what was checked is what is connected to; a certificate needs the name
            self._host = min(found)


def _cut(connection: http.client.HTTPConnection, overdue: threading.Event) -> None:
    overdue.set()
    if connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def _few(ids: Sequence[object]) -> str:
    return ", ".join(map(str, ids[:8])) + (", …" if len(ids) > 8 else "")
