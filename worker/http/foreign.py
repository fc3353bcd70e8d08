"""The sender port over any other `httpx.AsyncBaseTransport`: a MockTransport, a forward proxy, HTTP/2.

It is called directly, without `httpx.AsyncClient`: no redirects, no cookies, no proxies from the environment, no decoding.
"""

import ssl
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import lru_cache

import anyio
import httpx

from worker.core.model import Exchange, Request
from worker.core.url import BadURL, parse_url
from worker.http.connection import RESPONSE_BYTES_KEPT, RESPONSE_BYTES_MAX, WireError
from worker.http.dial import CONNECT_SECONDS_MAX
from worker.http.files import says_no_files
from worker.http.tls import tls_error
from worker.pipeline.ports import OutOfFilesError


class ForeignSender:
    """See `worker.pipeline.ports.Sender`. Such a transport cannot stop between connecting and writing, so neither can this."""

    def __init__(self, transport: httpx.AsyncBaseTransport, *, allow_http: bool = False) -> None:
        self._transport = transport

        @lru_cache(maxsize=10_000)
        def address(url: str) -> httpx.URL:
            target = parse_url(url, allow_http=allow_http)
            return httpx.URL(scheme=target.scheme, host=target.host, port=target.port, raw_path=target.path.encode())

        self._address = address

    def lead_seconds(self, _url: str, _transport: str = "") -> float:
        """Return 0: how long such a transport dials is not known."""
        return 0.0

    async def send(self, request: Request, before_write: Callable[[bool], Awaitable[None]]) -> Exchange:
        """Carry one request; see the port."""
        exchange = Exchange()
        await before_write(False)
        try:
            with anyio.move_on_after(request.timeout_seconds) as deadline:
                await self._exchange(request, exchange)
        except (BadURL, httpx.HTTPError) as error:
            failure = _wire_error(error)
            if failure.reason == "no_files" and exchange.status is None:
                raise OutOfFilesError(str(failure)) from error
            exchange.error = str(failure)
            if exchange.status is None:
                exchange.outcome = failure.reason
        if deadline.cancelled_caught:
            exchange.error = f"not complete within {request.timeout_seconds:g} s"
            if exchange.status is None:
                exchange.outcome = "timeout"
        return exchange

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()

    async def _exchange(self, request: Request, exchange: Exchange) -> None:
        response = await self._transport.handle_async_request(
            httpx.Request(
                "POST",
                self._address(request.url),
                headers=[*request.headers, ("accept-encoding", "identity")],
                content=request.body,
                extensions={"timeout": {"connect": CONNECT_SECONDS_MAX}},
            )
        )
        async with aclosing(response):
            exchange.status = response.status_code
            exchange.retry_after = response.headers.get("retry-after")
            read = 0
            async for part in response.stream:  # type: ignore[union-attr]  # an async transport's stream is an async one
                exchange.body += part[: RESPONSE_BYTES_KEPT - len(exchange.body)]
                read += len(part)
                if read > RESPONSE_BYTES_MAX:
                    exchange.error = f"the response is longer than {RESPONSE_BYTES_MAX} bytes; the rest was not read"
                    break


def _wire_error(error: Exception) -> WireError:
    """Name what went wrong, as our own connections would."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return tls_error(cause)
        if says_no_files(cause):
            return WireError("no_files", str(cause))
        cause = cause.__cause__ or cause.__context__
    for kind, reason in (
        (BadURL, "bad_url"),
        ((httpx.ConnectError, httpx.ConnectTimeout), "connect"),
        (httpx.TimeoutException, "timeout"),
        ((httpx.NetworkError, httpx.RemoteProtocolError), "disconnected"),
    ):
        if isinstance(error, kind):
            return WireError(reason, str(error) or type(error).__name__)
    return WireError("protocol_error", str(error) or type(error).__name__)
