"""Our connections as an httpx transport, for whoever has an `httpx.AsyncClient` and wants it cheaper."""

import asyncio

import httpx

from worker.http.client import Client
from worker.http.connection import WireError
from worker.http.head import headers
from worker.http.pool import Origin

ORIGINS_MAX = 10_000

_ERRORS: dict[str, type[httpx.TransportError]] = {
    "timeout": httpx.ReadTimeout,
    "disconnected": httpx.ReadError,
    "protocol_error": httpx.RemoteProtocolError,
}
"""With anything else not a byte was written."""


class HttpTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over kept connections, each request and response whole: nothing is streamed.

    The client's dialer bounds how much of a response is read; what is longer than is kept is an error. httpx's timeouts are
    taken as one deadline, the longest of them (none: `seconds_max`). HEAD and CONNECT are refused. Raises httpx.ConnectError
    and the like, with the reason in words.
    """

    def __init__(self, client: Client, seconds_max: float = 60.0) -> None:
        self._client, self._seconds_max = client, seconds_max
        self._origins: dict[tuple[str, str, int], Origin] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request."""
        if request.method in ("HEAD", "CONNECT") or request.url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"{request.method} {request.url.scheme} is not for this transport", request=request)
        seconds = [value for value in request.extensions.get("timeout", {}).values() if value is not None]
        deadline = asyncio.get_running_loop().time() + max(seconds, default=self._seconds_max)
        data = _serialize(request, await request.aread())
        try:
            response = await self._client.exchange(self._origin(request.url), data, deadline, _no_check)
        except WireError as error:
            raise _ERRORS.get(error.reason, httpx.ConnectError)(str(error), request=request) from error
        if response.status is None or not response.complete or len(response.body) < response.body_bytes:
            raise httpx.RemoteProtocolError(response.note or "the body is longer than is kept", request=request)
        return httpx.Response(response.status, headers=headers(response.fields), stream=httpx.ByteStream(response.body))

    async def aclose(self) -> None:
        """Close every kept connection."""
        await self._client.aclose()

    def _origin(self, url: httpx.URL) -> Origin:
        key = url.scheme, url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)
        if len(self._origins) >= ORIGINS_MAX:
            self._origins.clear()
        return self._origins.setdefault(key, Origin(*key))


def _serialize(request: httpx.Request, body: bytes) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines.extend(
        b"%s: %s" % (name, value)
        for name, value in request.headers.raw
        if name.lower() not in (b"content-length", b"transfer-encoding")  # it was read, so its length is known
    )
    lines.append(b"Content-Length: %d\r\n\r\n" % len(body))
    return b"\r\n".join(lines) + body


async def _no_check(_: bool) -> None:
    """Anything may be written at any time."""
