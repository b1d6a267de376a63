"""What stands before the app: bounds on what is sent, and on how long it may take; the secret; the count."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from dualcap_jax.serving.config import ServingConfig
from dualcap_jax.serving.metrics import Metrics
from dualcap_jax.serving.problems import Problem, busy

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

GUARDED = ("/v1/", "/metrics", "/openapi.json")
"""Paths that ask for the secret."""

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]
"""Of every answer."""


class Guard:
    """ASGI middleware: reads a request's body into memory within bounds, and ends work whose client has gone.

    Args:
        app: gets the body in one piece.
        config: the bounds.
        metrics: are told of each request.
        token: the secret; empty: none is asked for.
    """

    def __init__(self, app: App, config: ServingConfig, metrics: Metrics, token: str = ""):
        self._app, self._config, self._metrics = app, config, metrics
        self._token = hashlib.sha256(f"Bearer {token}".encode()).digest() if token else b""
        self._in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499  # that of a client that has gone

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        self._in_work += 1
        try:
            await self._guarded(scope, receive, answer)
        except Problem as problem:
            await problem.response()(scope, receive, answer)
        finally:
            self._in_work -= 1
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - began)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if self._token and scope["path"].startswith(GUARDED):
            given = hashlib.sha256(headers.get(b"authorization", b"")).digest()
            if not hmac.compare_digest(given, self._token):
                raise Problem(
                    401, "send the server's secret: Authorization: Bearer SECRET", {"WWW-Authenticate": "Bearer"}
                )
        if scope["method"] == "POST" and self._in_work > self._config.max_queue:
            raise busy("too many requests at once")
        body = await self._body(headers, receive)
        if body is None:
            return
        pieces = [{"type": "http.request", "body": body}]

        async def replay() -> Message:
            return pieces.pop() if pieces else await receive()

        work, gone = (asyncio.ensure_future(each) for each in (self._app(scope, replay, send), _gone(receive)))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body; None where the client goes before its end.

        Raises:
            Problem: it is too large, or comes too slowly.
        """
        config = self._config
        too_large = Problem(413, f"the body is larger than {config.max_upload}")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > config.max_bytes:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(config.timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > config.max_bytes:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise Problem(408, f"the body did not come within {config.timeout:g} s") from None


async def _gone(receive: Receive) -> None:
    """Return once the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
