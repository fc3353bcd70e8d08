"""The sender port over any `httpx.AsyncBaseTransport`: ours, a MockTransport, a forward proxy.

The transport is called directly, without `httpx.AsyncClient`: no redirects, no cookies, no proxies from the environment,
no decoding, and a tenth of the cost.
"""

import ssl
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import lru_cache

import anyio
import httpcore
import httpx

from worker.core.escape import RESPONSE_BYTES_KEPT
from worker.core.model import Exchange, Request
from worker.core.url import BadURL, parse_url
from worker.http.dial import BlockedAddressError, ResolveError
from worker.http.transport import KeepAliveTransport
from worker.pipeline.ports import NotSentError

CONNECT_SECONDS_MAX = 5.0
RESPONSE_BYTES_MAX = 64 * 1024

_TLS_REASONS = {  # X509_V_ERR_* of OpenSSL
    10: "tls_expired",
    9: "tls_expired",  # not yet valid
    18: "tls_self_signed",
    19: "tls_self_signed",
    62: "tls_hostname",
    64: "tls_hostname",  # an address that the certificate does not name
}


class HttpxSender:
    """See `worker.pipeline.ports.Sender`. One deadline covers resolving, connecting, TLS, writing, the head and the body."""

    def __init__(self, transport: httpx.AsyncBaseTransport, *, allow_http: bool = False) -> None:
        self._transport = transport

        @lru_cache(maxsize=10_000)
        def address(url: str) -> httpx.URL:
            target = parse_url(url, allow_http=allow_http)
            return httpx.URL(scheme=target.scheme, host=target.host, port=target.port, raw_path=target.path.encode())

        self._address = address

    def lead_seconds(self, url: str) -> float:
        """Return how long dialling takes first, as far as the transport knows; see the port."""
        if not isinstance(self._transport, KeepAliveTransport):
            return 0.0
        try:
            return self._transport.lead_seconds(self._address(url))
        except BadURL:
            return 0.0

    async def send(self, request: Request, before_write: Callable[[], Awaitable[None]]) -> Exchange:
        """Carry one request; see the port."""
        exchange = Exchange()
        try:
            with anyio.move_on_after(request.timeout_seconds) as deadline:
                await self._exchange(request, before_write, exchange)
        except NotSentError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a receiver does is a result, not our crash
            outcome, exchange.error = _failure(error)
            if exchange.status is None:
                exchange.outcome = outcome
        if deadline.cancelled_caught:
            exchange.error = f"not complete within {request.timeout_seconds:g} s"
            if exchange.status is None:
                exchange.outcome = "timeout"
        return exchange

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()

    async def _exchange(self, request: Request, before_write: Callable[[], Awaitable[None]], exchange: Exchange) -> None:
        if not isinstance(self._transport, KeepAliveTransport):
            await before_write()  # a foreign transport cannot stop between connecting and writing
        response = await self._transport.handle_async_request(
            httpx.Request(
                "POST",
                self._address(request.url),
                headers=[*request.headers, ("accept-encoding", "identity")],
                content=request.body,
                extensions={"timeout": {"connect": CONNECT_SECONDS_MAX}, "before_write": before_write},
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


def _failure(error: Exception) -> tuple[str, str]:
    """Name what went wrong: (reason, text)."""
    text = str(error) or type(error).__name__
    tls = _cause(error, ssl.SSLError)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return _TLS_REASONS.get(tls.verify_code, "tls_certificate"), tls.verify_message
    if tls is not None:
        return "tls_handshake", text
    for kinds, reason in (
        (BadURL, "bad_url"),
        (BlockedAddressError, "blocked_address"),
        (ResolveError, "dns"),
        ((httpcore.ConnectError, httpcore.ConnectTimeout, httpx.ConnectError, httpx.ConnectTimeout), "connect"),
        ((httpcore.NetworkError, httpx.NetworkError), "disconnected"),
        ((httpcore.TimeoutException, httpx.TimeoutException), "timeout"),
        ((httpcore.ProtocolError, httpx.ProtocolError), "protocol_error"),
    ):
        if isinstance(error, kinds):
            return reason, text
    return "internal_error", f"{type(error).__name__}: {text}"


def _cause(error: BaseException | None, kind: type[ssl.SSLError]) -> ssl.SSLError | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error
