"""One connection to a receiver, plain or TLS, over asyncio's protocols: one request out in one write, one response in."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from worker.http.head import ProtocolError
from worker.http.response import Response

if TYPE_CHECKING:
    from worker.http.pool import Origin

RESPONSE_BYTES_MAX = 64 * 1024
RESPONSE_BYTES_KEPT = 1024
TLS_READ_BYTES = 16 * 1024
"""One TLS record. asyncio's own TLS asks for 256 KiB with every read, and on PyPy that buffer is most of the cost."""

_TLS_REASONS = {  # X509_V_ERR_* of OpenSSL
    10: "tls_expired",
    9: "tls_expired",  # not yet valid
    18: "tls_self_signed",
    19: "tls_self_signed",
    62: "tls_hostname",
    64: "tls_hostname",  # an address that the certificate does not name
}


class WireError(Exception):
    """No complete response head came.

    `reason` names why: `dns`, `blocked_address`, `connect`, `tls_…`, `disconnected`, `protocol_error` or `timeout`.
    `stale`: a kept connection turned out to be closed, and not one byte had come back.
    """

    def __init__(self, reason: str, text: str, *, stale: bool = False) -> None:
        super().__init__(text)
        self.reason, self.stale = reason, stale


class Connection(asyncio.Protocol):
    """A plain connection. It carries one exchange at a time; whatever comes between two of them closes it."""

    def __init__(self, origin: "Origin", lost: Callable[["Connection"], None], body_max: int, kept_max: int) -> None:
        self.origin = origin
        self.exchanges = 0
        self.since = 0.0
        """When it was made, on the loop's clock."""
        self.idle_since = 0.0
        self.reusable = True
        self._lost = lost
        self._body_max, self._kept_max = body_max, kept_max
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._response: Response | None = None
        self._over: asyncio.Future[None] | None = None
        self._why = ""
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._failure: WireError | None = None

    async def exchange(self, request: bytes, deadline: float) -> Response:
        """Write a whole request and read its response, until `deadline` on the loop's clock; WireError if there is none.

        Afterwards `reusable` says whether the connection may carry another. Cancelled, it is closed.
        """
        if not self.reusable:
            raise WireError("disconnected", f"nothing was written: {self._why}", stale=True)
        response = self._response = Response(self._body_max, self._kept_max)
        over = self._over = self._loop.create_future()
        self._deadline = deadline
        if self._timer is None or deadline < self._timer.when():
            self._set_timer()
        self._write(request)
        try:
            await over
        except BaseException:
            self.abort()
            raise
        finally:
            self._response = self._over = None
        if self._failure is not None:
            self.abort()
            raise self._failure
        self.exchanges += 1
        if self.exchanges == 1:
            self._learn()
        if not response.reusable or self._transport.get_write_buffer_size():
            self.abort()
        return response

    def close(self) -> None:
        """Close in good order."""
        self.reusable = False
        self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self.reusable = False
        self._transport.abort()

    # -- what the transport says -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.since = self._loop.time()

    def data_received(self, data: bytes) -> None:
        """Read a part of the response."""
        if self._response is None:  # nobody asked
            self.abort()
            return
        try:
            over = self._response.feed(data)
        except ProtocolError as error:
            self._fail(WireError("protocol_error", str(error)))
        else:
            if over:
                self._finish()

    def eof_received(self) -> None:
        """The peer will send no more; asyncio then closes the transport."""
        self._ended("it closed the connection")

    def connection_lost(self, error: Exception | None) -> None:
        """The end."""
        self._ended(str(error or "the connection was closed"))
        if self._timer is not None:
            self._timer.cancel()
        self._lost(self)

    def _learn(self) -> None:
        """Remember what makes the next connection to this origin cheaper, now that the peer has said something."""

    # -- what becomes of the exchange --------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    def _finish(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _fail(self, failure: WireError) -> None:
        self.reusable = False
        self._failure = self._failure or failure
        self._finish()

    def _ended(self, why: str) -> None:
        self.reusable, self._why = False, self._why or why
        if self._response is None or self._response.end(why):
            self._finish()
            return
        stale = self.exchanges > 0 and not self._response.started
        self._fail(WireError("disconnected", f"no response: {why}", stale=stale))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._expire)

    def _expire(self) -> None:
        """The timer is up. It is not set anew with each exchange, so the deadline may be a later one's, or nobody's."""
        self._timer = None
        if self._response is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        elif self._response.end("the deadline passed"):
            self._finish()
        else:
            self._fail(WireError("timeout", "no complete response head before the deadline"))


class TLSConnection(Connection):
    """The same over TLS, by an `ssl.SSLObject` between the transport and the response.

    That costs half of what asyncio's and uvloop's own TLS do, lets a session be given, and is one on both runtimes.
    """

    def __init__(
        self,
        origin: "Origin",
        lost: Callable[[Connection], None],
        body_max: int,
        kept_max: int,
        context: ssl.SSLContext,
    ) -> None:
        super().__init__(origin, lost, body_max, kept_max)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=origin.host, session=origin.session)
        self._shaking: asyncio.Future[None] | None = None

    @property
    def resumed(self) -> bool:
        """Whether it was made with a session that the peer knew."""
        return bool(self._tls.session_reused)

    async def handshake(self) -> None:
        """Agree on keys, and check the certificate; WireError with a `tls_` reason if that fails."""
        self._shaking = self._loop.create_future()
        self._shake()
        try:
            await self._shaking
        except BaseException:
            self.abort()
            raise
        finally:
            self._shaking = None

    def close(self) -> None:
        """Close in good order: say so first, or what came before could have been cut off (RFC 8446, section 6.1)."""
        if self.reusable:
            with suppress(ssl.SSLError):  # the peer's own goodbye is not waited for
                self._tls.unwrap()
            self._flush()
        super().close()

    def data_received(self, data: bytes) -> None:
        """Decrypt, and read on."""
        self._incoming.write(data)
        if self._shaking is not None:
            self._shake()
            return
        try:
            while plain := self._tls.read(TLS_READ_BYTES):
                super().data_received(plain)
                if not self._incoming.pending and len(plain) < TLS_READ_BYTES:
                    break
            else:
                self._ended("it closed the TLS connection")
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._ended(f"TLS failed: {error.reason or error}")
            self.abort()
            return
        self._flush()

    def _learn(self) -> None:
        self.origin.session = self._tls.session

    def _shake(self) -> None:
        shaking = self._shaking
        if shaking is None or shaking.done():
            return
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # the alert that tells the peer why
            self.origin.session = None
            shaking.set_exception(tls_error(error))
        else:
            self._flush()
            shaking.set_result(None)

    def _ended(self, why: str) -> None:
        if self._shaking is not None and not self._shaking.done():
            self._shaking.set_exception(WireError("tls_handshake", f"the TLS handshake was not finished: {why}"))
        super()._ended(why)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())


def tls_error(error: ssl.SSLError) -> WireError:
    """Name why a handshake failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return WireError(_TLS_REASONS.get(error.verify_code, "tls_certificate"), error.verify_message)
    return WireError("tls_handshake", f"the TLS handshake failed: {error.reason or error}")
