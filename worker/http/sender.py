"""The sender port over connections of our own."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache

from worker.core.model import Exchange, Request
from worker.core.url import BadURL, parse_url
from worker.http.client import Client
from worker.http.connection import WireError
from worker.http.pool import Origin
from worker.pipeline.ports import OutOfFilesError

TARGETS_MAX = 10_000
DIAL_SECONDS_GUESSED = 0.2
LEAD_SECONDS_MAX = 0.4
"""Planned sends are known at most half a second ahead, so dialling cannot begin earlier than that."""


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL as the hot path needs it: where to, and the first lines of every request."""

    origin: Origin
    head: str


class HttpSender:
    """See `worker.pipeline.ports.Sender`. One deadline covers resolving, connecting, TLS, writing, the head and the body."""

    def __init__(self, client: Client, *, allow_http: bool = False) -> None:
        self._client = client

        @lru_cache(maxsize=TARGETS_MAX)
        def origin(scheme: str, host: str, port: int) -> Origin:
            return Origin(scheme, host, port)

        @lru_cache(maxsize=TARGETS_MAX)
        def target(url: str) -> _Target:
            parsed = parse_url(url, allow_http=allow_http)
            return _Target(
                origin(parsed.scheme, parsed.host, parsed.port),
                f"POST {parsed.path} HTTP/1.1\r\nHost: {parsed.authority}\r\nAccept-Encoding: identity\r\n",
            )

        self._target = target

    def lead_seconds(self, url: str, _: str = "") -> float:
        """Return how long dialling takes first, as far as is known: 0 with a kept connection."""
        try:
            origin = self._target(url).origin
        except BadURL:
            return 0.0
        if origin.idle:
            return 0.0
        return DIAL_SECONDS_GUESSED if origin.dial_seconds is None else min(2 * origin.dial_seconds, LEAD_SECONDS_MAX)

    async def send(self, request: Request, before_write: Callable[[bool], Awaitable[None]]) -> Exchange:
        """Carry one request; see the port."""
        deadline = asyncio.get_running_loop().time() + request.timeout_seconds
        try:
            target = self._target(request.url)
            response = await self._client.exchange(target.origin, _serialize(target, request), deadline, before_write)
        except WireError as error:
            if error.reason == "no_files":
                raise OutOfFilesError(str(error)) from error
            return Exchange(None, error.reason, str(error))
        except BadURL as error:
            return Exchange(None, "bad_url", str(error))
        retry_after = response.retry_after
        return Exchange(
            response.status, "", response.note, response.body, None if retry_after is None else retry_after.decode("latin-1")
        )

    async def aclose(self) -> None:
        """Close every kept connection."""
        await self._client.aclose()


def _serialize(target: _Target, request: Request) -> bytes:
    fields = "".join([f"{name}: {value}\r\n" for name, value in request.headers])
    return f"{target.head}{fields}Content-Length: {len(request.body)}\r\n\r\n".encode("latin-1") + request.body
