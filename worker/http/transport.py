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

Origin = tuple[str, str, int]


def default_tls() -> ssl.SSLContext:
    """Return a context that trusts certifi's roots and nothing from the environment (SSL_CERT_FILE and the like)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(certifi.where())
    return context


class KeepAliveTransport(httpx.AsyncBaseTransport):
    """One HTTP/1.1 connection per request under way; idle ones are kept for their origin, the least recently used go first."""

    def __init__(self, backend: httpcore.AsyncNetworkBackend, tls: Callable[[], ssl.SSLContext] = default_tls) -> None:
        self._backend, self._make_tls = backend, tls
        self._tls: ssl.SSLContext | None = None
        self._idle: OrderedDict[Origin, deque[httpcore.AsyncHTTPConnection]] = OrderedDict()
        self._idle_count = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Closing the response gives the connection back, if it was read to its end."""
        url = request.url
        origin = (url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))
        connection = await self._take(origin) or self._connect(origin)
        try:
            response = await connection.handle_async_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=cast("AsyncIterator[bytes]", request.stream),
                    extensions=request.extensions,
                )
            )
        except BaseException:
            await _close(connection)
            raise
        body = _Body(cast("httpx.AsyncByteStream", response.stream), lambda: self._give_back(origin, connection))
        return httpx.Response(response.status, headers=response.headers, stream=body, extensions=response.extensions)

    async def aclose(self) -> None:
        """Close every idle connection."""
        while self._idle:
            _, connections = self._idle.popitem()
            for connection in connections:
                await _close(connection)
        self._idle_count = 0

    def _connect(self, origin: Origin) -> httpcore.AsyncHTTPConnection:
        scheme, host, port = origin
        if scheme == "https" and self._tls is None:
            self._tls = self._make_tls()
        return httpcore.AsyncHTTPConnection(
            httpcore.Origin(scheme.encode(), host.encode(), port),
            ssl_context=self._tls,
            keepalive_expiry=IDLE_SECONDS_MAX,
            network_backend=self._backend,
        )

    async def _take(self, origin: Origin) -> httpcore.AsyncHTTPConnection | None:
        connections = self._idle.get(origin)
        while connections:
            connection = connections.pop()
            self._idle_count -= 1
            if not connection.has_expired():  # closed by its peer, or with bytes that nobody asked for, counts as expired
                return connection
            await _close(connection)
        self._idle.pop(origin, None)
        return None

    async def _give_back(self, origin: Origin, connection: httpcore.AsyncHTTPConnection) -> None:
        if not connection.is_idle() or _has_unread_bytes(connection):
            await _close(connection)
            return
        self._idle.setdefault(origin, deque()).append(connection)
        self._idle.move_to_end(origin)
        self._idle_count += 1
        oldest = next(iter(self._idle))
        if self._idle_count > IDLE_CONNECTIONS_MAX or (oldest != origin and self._idle[oldest][0].has_expired()):
            await _close(self._idle[oldest].popleft())
            self._idle_count -= 1
            if not self._idle[oldest]:
                del self._idle[oldest]


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


def _has_unread_bytes(connection: httpcore.AsyncHTTPConnection) -> bool:
    """Whether bytes came after the response: a receiver may not answer the next webhook in advance.

    httpcore has no public way to ask, and would take them for the next response.
    """
    http11 = getattr(connection, "_connection", None)
    return not isinstance(http11, httpcore.AsyncHTTP11Connection) or bool(http11._h11_state.trailing_data[0])  # noqa: SLF001


async def _close(connection: httpcore.AsyncHTTPConnection) -> None:
    with anyio.CancelScope(shield=True):
        await connection.aclose()
