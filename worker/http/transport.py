"""An httpx transport with a free list of keep-alive connections per origin.

httpx's own transport goes over all connections of its pool with every request; with 64 lanes that costs more than all
the rest. Here a connection belongs to one request at a time, and finding one is a pop.
"""

import ssl
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import anyio
import certifi
import httpcore
import httpx

IDLE_CONNECTIONS_MAX = 1000
IDLE_SECONDS_MAX = 30.0
ORIGINS_TIMED_MAX = 10_000
DIAL_SECONDS_GUESSED = 0.2
LEAD_SECONDS_MAX = 0.4
"""Planned sends are known at most half a second ahead, so dialling cannot begin earlier than that."""

Origin = tuple[str, str, int]


def default_tls() -> ssl.SSLContext:
    """Return a context that trusts certifi's roots and nothing from the environment (SSL_CERT_FILE and the like)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(certifi.where())
    return context


class KeepAliveTransport(httpx.AsyncBaseTransport):
    """One HTTP/1.1 connection per request under way; idle ones are kept for their origin, the least recently used go first.

    A request's extension `before_write` (an async callable) is awaited when its connection stands; if it raises, nothing
    is written and the connection is kept. The extension `timeout` has `connect`, in seconds.
    """

    def __init__(self, backend: httpcore.AsyncNetworkBackend, tls: Callable[[], ssl.SSLContext] = default_tls) -> None:
        self._backend, self._make_tls = backend, tls
        self._tls: ssl.SSLContext | None = None
        self._idle: OrderedDict[Origin, deque[httpcore.AsyncHTTP11Connection]] = OrderedDict()
        self._idle_count = 0
        self._dial_seconds: dict[Origin, float] = {}

    def lead_seconds(self, url: httpx.URL) -> float:
        """Return how long it takes until a request to this URL can be written: 0 with an idle connection."""
        origin = _origin(url)
        return 0.0 if origin in self._idle else self._dial_seconds.get(origin, DIAL_SECONDS_GUESSED)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Closing the response gives the connection back, if it was read to its end."""
        url = request.url
        origin = _origin(url)
        connection = await self._take(origin) or await self._dial(origin, request.extensions["timeout"]["connect"])
        try:
            await request.extensions["before_write"]()
        except BaseException:
            await self._keep(origin, connection)
            raise
        try:
            response = await connection.handle_async_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=cast("AsyncIterator[bytes]", request.stream),
                )
            )
        except BaseException:
            await _close(connection)
            raise
        body = _Body(cast("httpx.AsyncByteStream", response.stream), lambda: self._give_back(origin, connection))
        return httpx.Response(response.status, headers=response.headers, stream=body, extensions=response.extensions)

    async def aclose(self) -> None:
        """Close every idle connection."""
        idle, self._idle, self._idle_count = self._idle, OrderedDict(), 0
        for connections in idle.values():
            for connection in connections:
                await _close(connection)

    async def _dial(self, origin: Origin, timeout: float) -> httpcore.AsyncHTTP11Connection:  # noqa: ASYNC109 - one step's bound
        scheme, host, port = origin
        started = anyio.current_time()
        stream = await self._backend.connect_tcp(host, port, timeout)
        if scheme == "https":
            self._tls = self._tls or self._make_tls()
            stream = await stream.start_tls(self._tls, host, timeout)
        if len(self._dial_seconds) >= ORIGINS_TIMED_MAX:
            self._dial_seconds.clear()
        self._dial_seconds[origin] = min(2 * (anyio.current_time() - started), LEAD_SECONDS_MAX)
        target = httpcore.Origin(scheme.encode(), host.encode(), port)
        return httpcore.AsyncHTTP11Connection(target, stream, keepalive_expiry=IDLE_SECONDS_MAX)

    async def _take(self, origin: Origin) -> httpcore.AsyncHTTP11Connection | None:
        while connections := self._idle.get(origin):
            connection = connections.pop()
            self._forget(origin)
            if not connection.has_expired():  # closed by its peer, or with bytes that nobody asked for, counts as expired
                return connection
            await _close(connection)
        return None

    async def _give_back(self, origin: Origin, connection: httpcore.AsyncHTTP11Connection) -> None:
        if connection.is_idle() and not _has_unread_bytes(connection):
            await self._keep(origin, connection)
        else:
            await _close(connection)

    async def _keep(self, origin: Origin, connection: httpcore.AsyncHTTP11Connection) -> None:
        self._idle.setdefault(origin, deque()).append(connection)
        self._idle.move_to_end(origin)
        self._idle_count += 1
        oldest = next(iter(self._idle))
        if self._idle_count > IDLE_CONNECTIONS_MAX or (oldest != origin and self._idle[oldest][0].has_expired()):
            too_many = self._idle[oldest].popleft()
            self._forget(oldest)
            await _close(too_many)

    def _forget(self, origin: Origin) -> None:
        """Account for one idle connection that was taken out; before any await, so that the books always balance."""
        self._idle_count -= 1
        if not self._idle[origin]:
            del self._idle[origin]


class _Body(httpx.AsyncByteStream):
    """The response's bytes as they came: never decoded."""

    def __init__(self, stream: httpx.AsyncByteStream, closed: Callable[[], Awaitable[None]]) -> None:
        self._stream, self._closed = stream, closed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()
            await self._closed()


def _origin(url: httpx.URL) -> Origin:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _has_unread_bytes(connection: httpcore.AsyncHTTP11Connection) -> bool:
    """Whether bytes came after the response: a receiver may not answer the next webhook in advance.

    httpcore has no public way to ask, and would take them for the next response.
    """
    return bool(connection._h11_state.trailing_data[0])  # noqa: SLF001


async def _close(connection: httpcore.AsyncHTTP11Connection) -> None:
    with anyio.CancelScope(shield=True):
        await connection.aclose()
