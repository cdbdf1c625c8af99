"""A reward model behind HTTP, for `reward: http://127.0.0.1:8000`. The protocol is that of `reward_models.remote`.

    POST /score      {"request", "items": [{"id", "prompt", "response", "reference"?}, …]}  ->  {"request", "scores"}
    GET  /describe   what the model is
    GET  /health     {"status": "ok"}, without a token

Needs the extra `serve`: pip install 'align-rlhf[serve]'.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any
from urllib.parse import urlsplit

import h11
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import FailFast
from uvicorn.protocols.http.h11_impl import H11Protocol

from align.errors import Interrupted, UsageError
from align.rewards.batcher import Batcher, Item, Message, StoppingError, Text
from reward_models import CheckedModel, RewardError

logger = logging.getLogger(__name__)

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """What the server accepts."""

    body_bytes: int = 8 * 2**20
    items: int = 4096
    """In one request."""
    waiting: int = 16_384
    """Items of all requests that wait for the model; more are told to come again."""
    seconds_to_send: float = 30.0
    """Within which a request must have arrived: its headers, and then its body."""
    seconds_to_linger: float = 5.0
    """For which the rest of a request that was refused is thrown away before the connection is closed."""
    connections: int = 64
    """At once; one more is told to come again."""
    seconds_to_finish: float = 10.0
    """For requests that are under way when the server is told to stop; those that take longer get a 503."""


class Question(Message):
    """A request."""

    request: Text
    items: Annotated[list[Item], FailFast()]  # else millions of bad items would have an error each


def application(model: CheckedModel, *, token: str | None = None, limits: Limits | None = None) -> FastAPI:
    """The ASGI application that scores with `model`.

    Args:
        model: the reward.
        token: if given, requests need the header `Authorization: Bearer TOKEN`.
        limits: of what is accepted.
    """
    limits = limits or Limits()
    batcher = Batcher(model, limits.waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = app.state.worker = asyncio.create_task(batcher.run())
        yield
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker

    def alive() -> None:
        if app.state.worker.done():
            raise HTTPException(503, "the scoring worker has stopped: restart the server")

    app = FastAPI(title=model.name, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.batcher = batcher

    @app.exception_handler(RequestValidationError)
    async def refused(request: Request, error: RequestValidationError) -> Response:
        # Without what was sent: it may be long, and need not be text.
        problems = [{"loc": one["loc"], "msg": one["msg"]} for one in error.errors()[:5]]
        return Response(json.dumps({"detail": problems}), 422, media_type="application/json")

    @app.get("/health", dependencies=[Depends(alive)])
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/describe")
    async def describe() -> dict[str, Any]:
        return model.describe()

    @app.post("/score", dependencies=[Depends(alive)], response_class=JSONResponse)
    async def score(question: Question) -> JSONResponse:
        if len(question.items) > limits.items:
            raise HTTPException(413, f"{len(question.items)} items, but at most {limits.items} are accepted at once")
        if len({item.reference is None for item in question.items}) > 1:
            raise HTTPException(422, "some items have a reference and some do not; give it to all or to none")
        try:
            scores = await batcher.score(question.items)
        except asyncio.QueueFull:
            raise HTTPException(429, "too many items are waiting; try again", {"Retry-After": "1"}) from None
        except StoppingError:
            raise HTTPException(503, "the server is stopping") from None
        except RewardError as error:
            # Not a 5xx: to ask again would bring the same answer.
            raise HTTPException(422, str(error)) from error
        rows = [{"id": item.id, "score": one} for item, one in zip(question.items, scores, strict=True)]
        return JSONResponse({"request": question.request, "scores": rows})

    app.add_middleware(_Bounded, limits=limits, token=token)
    return app


def serve(model: CheckedModel, *, host: str, port: int, token: str | None, limits: Limits | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM; then answer what is under way, and return. A second one leaves at once.

    Where the model is still at work after `limits.seconds_to_finish` the process ends here, as nothing ends a thread.

    Port 0 takes a free one; the address is logged.

    Raises:
        UsageError: the host is not this machine's own and there is no token, or the address cannot be had.
    """
    sock = _bound(host, port, token)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{sock.getsockname()[1]}"
    server = _server(model, token, limits or Limits())
    logger.info("serving %s at %s%s; Ctrl-C stops it", model.name, address, " (token needed)" if token else "")
    with sock, suppress(KeyboardInterrupt, Interrupted):  # uvicorn has shut down in order when it raises these again
        server.run(sockets=[sock])
    logger.info("stopped")
    if server.batcher.is_busy():
        _leave(0)


class _Server(uvicorn.Server):
    """Ends in order, within bounds."""

    def __init__(self, config: uvicorn.Config, batcher: Batcher, seconds_to_finish: float) -> None:
        super().__init__(config)
        self.batcher = batcher
        self._seconds_to_finish = seconds_to_finish

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """At the second signal leave."""
        if self.should_exit:
            _leave(128 + sig)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer all who wait, if need be without the model."""
        asyncio.get_running_loop().call_later(self._seconds_to_finish, self.batcher.give_up)
        await super().shutdown(sockets)


def _leave(code: int) -> None:
    """End the process, whatever its threads do."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, RuntimeError, ValueError):  # A signal may have come within another write to it.
            stream.flush()
    os._exit(code)


class _ImpatientProtocol(H11Protocol):
    """Hangs up on a client whose request's headers do not end in time: uvicorn by itself waits for ever."""

    seconds_to_send: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """From now on."""
        super().connection_made(transport)
        self._hanging_up: asyncio.TimerHandle | None = self.loop.call_later(self.seconds_to_send, transport.close)

    def data_received(self, data: bytes) -> None:
        """Until the headers are there, and again from the first byte of a next request on."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE and self._hanging_up is not None:
            self._hanging_up.cancel()
            self._hanging_up = None
        elif self.conn.their_state is h11.IDLE and self._hanging_up is None:
            self._hanging_up = self.loop.call_later(self.seconds_to_send, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left to wait for."""
        if self._hanging_up is not None:
            self._hanging_up.cancel()
        super().connection_lost(exc)


def _server(model: CheckedModel, token: str | None, limits: Limits) -> _Server:
    app = application(model, token=token, limits=limits)

    class Protocol(_ImpatientProtocol):
        seconds_to_send = limits.seconds_to_send

    return _Server(
        uvicorn.Config(
            app,
            http=Protocol,
            log_config=None,
            access_log=False,
            limit_concurrency=limits.connections + 1,  # which refuses the last one
            timeout_keep_alive=5,
            timeout_graceful_shutdown=int(limits.seconds_to_finish) + 5,  # for answers to be sent
            server_header=False,
        ),
        app.state.batcher,
        limits.seconds_to_finish,
    )


def _bound(host: str, port: int, token: str | None) -> socket.socket:
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror}") from error
    if token is None and not ipaddress.ip_address(place[0]).is_loopback:
        raise UsageError(
            f"--host {host} can be reached from other machines: set a token ($ALIGN_REWARD_TOKEN), or use 127.0.0.1"
        )
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(place)
        sock.listen(128)  # whoever reads the address below may ask at once
    except OSError as error:
        sock.close()
        raise UsageError(f"--host {host} --port {port}: {error.strerror}") from error
    return sock


class _Bounded:
    """ASGI middleware: a request bears the token, and its body arrives within its time and size, or is not read."""

    def __init__(
        self, app: Callable[[Event, Receive, Send], Awaitable[None]], limits: Limits, token: str | None
    ) -> None:
        self._app = app
        self._limits = limits
        self._token = token

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/health":  # which reads no body
            await self._app(scope, receive, send)
            return

        async def refuse(status: int, detail: str, headers: dict[str, str] | None = None) -> None:
            response = JSONResponse({"detail": detail}, status, {"Connection": "close", **(headers or {})})
            await response(scope, receive, self._lingering(receive, send))

        if not self._meant(scope):
            await refuse(421, "without a token, only this machine's own names are answered to: set a token")
            return
        if not self._authorised(scope):
            await refuse(401, "a token is needed: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})
            return
        try:
            async with asyncio.timeout(self._limits.seconds_to_send):
                body = await self._body(receive)
        except TimeoutError:
            await refuse(408, "the request did not arrive in time")
            return
        if body is None:
            await refuse(413, f"the request is larger than {self._limits.body_bytes} bytes")
            return
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Event:
            return next(messages, None) or await receive()

        await self._app(scope, again, send)

    def _meant(self, scope: Event) -> bool:
        """Whether the request names this machine as its host: a page of another one that resolves to it does not
        (DNS rebinding), and a browser would let it read the answer."""
        named = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        try:
            host = urlsplit(f"//{named}").hostname or "localhost"
            return self._token is not None or host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:  # another name, or none that can be
            return False

    def _authorised(self, scope: Event) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        return self._token is None or hmac.compare_digest(f"Bearer {self._token}".encode(), given)

    def _lingering(self, receive: Receive, send: Send) -> Send:
        """A `send` that ends the answer when the client has sent all it has, or hung up, or takes too long.

        To close before would reset the connection, and the client might lose the answer (RFC 9112, 9.6).
        """

        async def send_then_linger(message: Event) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            await send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.seconds_to_linger):
                    while (await receive()).get("more_body"):
                        pass
            await send({"type": "http.response.body", "body": b""})

        return send_then_linger

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None where it is too large, or the client has gone."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if len(body) > self._limits.body_bytes:
                return None
            if not message.get("more_body"):
                return bytes(body)
