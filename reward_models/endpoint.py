"""One way out of this machine, and a narrow one: POST of JSON to an address that the recipe names.

Every wait has an end, redirects are never followed, proxies of the environment are not used, answers have a largest
size, and only this machine's own addresses are spoken to unless `allow_remote` says otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from reward_models.base import RewardError, is_number, unless_done_in

LARGEST_ANSWER = 8 * 2**20
_LONGEST_WAIT = 86_400.0
"""Seconds that a timeout may be."""
_FIRST_PAUSE = 0.2
"""Seconds before the first repetition; each further one waits twice as long."""
_LONGEST_PAUSE = 30.0
"""Seconds before any repetition, also where a server asks for more."""
_MOST_RETRIES = 100


class _TryAgainError(Exception):
    """Something that may pass: a busy server, a broken connection."""

    def __init__(self, why: str, after: str | None = None) -> None:
        """With the server's `Retry-After`: seconds are heeded, a date is not."""
        super().__init__(why)
        self.after = min(float(after), _LONGEST_PAUSE) if after and after.isdecimal() else 0.0


class Endpoint:
    """An address that is asked again where a failure may pass, and whose refusals are errors."""

    def __init__(
        self,
        address: str,
        *,
        allow_remote: bool = False,
        connect_timeout: float = 5.0,
        read_timeout: float = 60.0,
        timeout: float = 120.0,
        retries: int = 5,
        key: str | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            address: `http://host:port`, with a path if there is one.
            allow_remote: texts may leave this machine.
            connect_timeout: seconds until the server must have accepted a connection.
            read_timeout: seconds that it may stay silent.
            timeout: seconds that one request may take altogether; the system ends a look-up of the host's name.
            retries: repetitions of a request that failed for a reason that may pass; after 0.2 s, 0.4 s and so on, or
                when the server says, but within half a minute.
            key: name of the environment variable that holds a key, not the key itself. It is sent as a bearer token,
                is part of no message, and leaves this machine over https alone.
        """
        if not isinstance(address, str):
            raise RewardError(f"a reward model's address looks like http://127.0.0.1:8000, not {address!r}")
        try:
            parts = urlsplit(address)
            port = parts.port
            address.encode("ascii")
        except ValueError as error:
            not_ascii = isinstance(error, UnicodeError)
            why = "write what is not ASCII as %C3%BC or xn--…" if not_ascii else "its host or port cannot be read"
            raise RewardError(f"{shown_address(address)}: {why}") from None  # the error itself may quote a password
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise RewardError(f"{shown_address(address)}: a reward model's address looks like http://127.0.0.1:8000")
        if parts.username or parts.password:
            raise RewardError(f"the address of reward model {parts.hostname} must not hold a name or password")
        if not isinstance(allow_remote, bool):
            raise RewardError(f"reward model {address}: allow_remote must be true or false, not {allow_remote!r}")
        if type(retries) is not int or not 0 <= retries <= _MOST_RETRIES:
            raise RewardError(
                f"reward model {address}: retries must be a whole number from 0 to {_MOST_RETRIES}, not {retries!r}"
            )
        waits = {"connect_timeout": connect_timeout, "read_timeout": read_timeout, "timeout": timeout}
        for option, seconds in waits.items():
            if not is_number(seconds) or not 0 < seconds <= _LONGEST_WAIT:
                raise RewardError(
                    f"reward model {address}: {option} must be a number of seconds above 0, a day at most, "
                    f"not {seconds!r}"
                )
        self.address = address
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = port or (443 if self._secure else 80)
        self._path = parts.path.rstrip("/")
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._timeout = timeout
        self._retries = retries
        self._given_up = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._secret = _secret(address, key)
        if not allow_remote:
            self._require_loopback()
        elif key and not self._secure and not _is_loopback(self._host):
            raise RewardError(
                f"reward model {address}: a key is not sent over http, where anyone may read it; use https"
            )

    def post(self, path: str, body: bytes) -> bytes:
        """The content of the answer. A repeated request bears the same `Idempotency-Key`.

        Raises:
            RewardError: the server cannot be reached, or refuses.
        """
        headers = {
            "Content-Type": "application/json",
            "Connection": "close",
            "Idempotency-Key": hashlib.sha256(body).hexdigest(),
        }
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        for attempt in range(self._retries + 1):
            try:
                return self._post(self._path + path, body, headers)
            except _TryAgainError as error:
                problem = error
                if attempt < self._retries and self._given_up.wait(_pause(attempt, error.after)):
                    break
        tries = "once" if self._retries == 0 else f"{self._retries + 1} times"
        why = self._without_key(str(problem))
        refused = "; is it running? `align reward serve` starts one" if "ConnectionRefused" in why else ""
        raise RewardError(f"reward model {self.address}: asked {tries}, without an answer: {why}{refused}")

    @contextlib.contextmanager
    def given_up_on_exit(self) -> Iterator[None]:
        """Around threads that ask: whatever is raised here, such as Ctrl-C, ends what they wait for at once."""
        self._given_up.clear()
        try:
            yield
        except BaseException:
            self._given_up.set()
            for sock in list(self._sockets):
                _shut_down(sock)
            raise

    def shown(self, content: bytes, most: int = 80) -> str:
        """The beginning of an answer, for messages, without the key."""
        return repr(self._without_key(content.decode(errors="replace"))[:most])

    def _without_key(self, text: str) -> str:
        """What a server says may repeat the key that it was given."""
        if not self._secret:
            return text
        in_json = json.dumps(self._secret)[1:-1]
        for spelling in (self._secret, in_json, in_json.replace("/", "\\/")):
            text = text.replace(spelling, "…")
        return text

    def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        make = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        started, overdue = time.monotonic(), threading.Event()
        sock: socket.socket | None = None
        connection = make(self._host, self._port, timeout=min(self._connect_timeout, self._timeout))
        try:
            connection.connect()
            self._sockets.add(sock := connection.sock)
            # Each read has a timeout of its own; a server that trickles bytes is cut off by the timer.
            with _cut_off(sock, self._timeout - (time.monotonic() - started), overdue):
                sock.settimeout(self._read_timeout)
                with contextlib.suppress(ConnectionError):  # A refusal may be there before all has been sent.
                    connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                try:
                    content = answer.read(LARGEST_ANSWER + 1)
                    if answer.length and len(content) <= LARGEST_ANSWER:
                        raise ConnectionError(f"the answer ended {answer.length} bytes before its end")
                except (ConnectionError, http.client.HTTPException):
                    if answer.status == 200:
                        raise
                    content = b"(its message was cut off)"  # A refusal is a refusal, even without its reason.
        except (OSError, http.client.HTTPException) as error:
            why = f"no answer within {self._timeout:g} s" if overdue.is_set() else f"{type(error).__name__}: {error}"
            raise _TryAgainError(why) from error
        finally:
            self._sockets.discard(sock)
            connection.close()
        if overdue.is_set():
            raise _TryAgainError(f"no answer within {self._timeout:g} s")
        if answer.status == 429 or answer.status >= 500:
            raise _TryAgainError(f"status {answer.status} {answer.reason}", answer.getheader("Retry-After"))
        if 300 <= answer.status < 400:
            place = self._without_key(str(answer.getheader("Location")))
            raise RewardError(
                f"reward model {self.address} redirects to {place!r}, and redirects are not followed: give the address "
                "that it really has"
            )
        if answer.status != 200:
            reason = self._without_key(answer.reason)
            raise RewardError(
                f"reward model {self.address} answered {answer.status} {reason}: {self.shown(content, 200)}"
            )
        if len(content) > LARGEST_ANSWER:
            raise RewardError(f"reward model {self.address}: its answer is larger than {LARGEST_ANSWER} bytes")
        return content

    def _require_loopback(self) -> None:
        try:
            found = {str(entry[4][0]) for entry in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)}
        except (OSError, UnicodeError) as error:  # the second: a part of the name is empty, or too long
            raise RewardError(f"reward model {self.address}: its host is not known: {error}") from error
        elsewhere = sorted(address for address in found if not _is_loopback(address))
        if elsewhere:
            raise RewardError(
                f"reward model {self.address} is not on this machine but at {elsewhere[0]}: every prompt and response "
                "would leave it. Set allow_remote: true if that is intended"
            )
        # What was checked is what is connected to. A certificate needs the name; `localhost` is all of its addresses.
        if not self._secure and self._host != "localhost":
            self._host = min(found)


def shown_address(address: str) -> str:
    """An address for messages, without what may be secret: a name and password before the host, and a query."""
    scheme, separator, rest = address.partition("://")
    host = re.split(r"[?#]", rest)[0].rpartition("@")[2]
    return f"{scheme}{separator}{host}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # That of a TLS socket would drop the encryption first, under whoever is sending.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


@contextlib.contextmanager
def _cut_off(sock: socket.socket, seconds: float, overdue: threading.Event) -> Iterator[None]:
    """Shut the connection down after so many seconds. The socket itself: `http.client` forgets it with the headers."""

    def cut() -> None:
        overdue.set()
        _shut_down(sock)

    with unless_done_in(max(0.0, seconds), cut):
        yield


def _pause(attempt: int, asked_for: float) -> float:
    """Seconds after so many failures, counted from 0."""
    return max(asked_for, min(_FIRST_PAUSE * 2.0**attempt, _LONGEST_PAUSE))


def _secret(address: str, variable: str | None) -> str | None:
    if variable is None:
        return None
    if not isinstance(variable, str) or not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):  # not shown: it may be the key
        raise RewardError(
            f"reward model {address}: `key` names an environment variable, such as OPENAI_API_KEY, and is not the key "
            "itself"
        )
    if not os.environ.get(variable):
        raise RewardError(f"reward model {address}: the environment variable {variable}, which `key` names, is not set")
    secret = os.environ[variable].strip()
    if not (secret and secret.isascii() and secret.isprintable()):
        raise RewardError(
            f"reward model {address}: the environment variable {variable}, which `key` names, must hold one line of "
            "ASCII and nothing else"
        )
    return secret
