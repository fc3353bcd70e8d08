"""The same connection over TLS (RFC 8446), by an `ssl.SSLObject` between the transport and the response.

That costs half of what asyncio's and uvloop's own TLS do, lets a session be given, and is one on both runtimes.
"""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from worker.http.connection import Connection, WireError

if TYPE_CHECKING:
    from worker.http.pool import Origin

READ_BYTES = 16 * 1024
"""One TLS record. asyncio's own TLS asks for 256 KiB with every read, and on PyPy that buffer is most of the cost."""

SESSION_SECONDS_MAX = 600.0
"""A resumed session's certificate is not looked at again, so so long after a full handshake another one is made."""

_REASONS = {  # X509_V_ERR_* of OpenSSL
    10: "tls_expired",
    9: "tls_expired",  # not yet valid
    18: "tls_self_signed",
    19: "tls_self_signed",
    62: "tls_hostname",
    64: "tls_hostname",  # an address that the certificate does not name
}


class TLSConnection(Connection):
    """See `Connection`. The handshake begins by itself; `ready` waits for its end."""

    def __init__(
        self,
        origin: "Origin",
        lost: Callable[[Connection], None],
        body_max: int,
        kept_max: int,
        context: ssl.SSLContext,
    ) -> None:
        super().__init__(origin, lost, body_max, kept_max)
        if self._loop.time() > origin.session_until:
            origin.session = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=origin.host, session=origin.session)
        self._shaken: asyncio.Future[None] = self._loop.create_future()
        self._learned = False

    @property
    def tls_version(self) -> str | None:
        """See `Connection`."""
        return self._tls.version()

    async def ready(self) -> None:
        """Wait until keys are agreed on and the certificate is checked; WireError with a `tls_` reason if they are not."""
        try:
            await self._shaken
        except BaseException:
            self.abort()
            raise
        if self._failure is not None:
            self.abort()
            raise self._failure

    def rest(self, now: float) -> None:
        """Wait for the next exchange; with the handshake done, should nothing have been written since."""
        super().rest(now)
        self._flush()

    def close(self) -> None:
        """Close in good order: say so first, or what came before could have been cut off (RFC 8446, section 6.1)."""
        if self.reusable:
            with suppress(ssl.SSLError):  # the peer's own goodbye is not waited for
                self._tls.unwrap()
            self._flush()
        super().close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with a hello."""
        super().connection_made(transport)
        self._shake()

    def data_received(self, data: bytes) -> None:
        """Decrypt, and read on."""
        self._incoming.write(data)
        if not self._shaken.done():
            self._shake()
        if self._shaken.done() and self.reusable:
            self._read()

    def eof_received(self) -> None:
        """The peer has cut it off: whoever means the end says so within TLS."""
        self._ended("the receiver closed the connection", clean=False)

    def _read(self) -> None:
        try:
            while plain := self._tls.read(READ_BYTES):
                super().data_received(plain)
                if not self._incoming.pending and len(plain) < READ_BYTES:
                    break
            else:
                self._ended("the receiver closed the connection", clean=True)
                self._transport.close()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._ended(f"TLS failed: {error.reason or error}", clean=False)
            self._transport.abort()
            return
        if self._response is not None and self._response.status is not None and not self._learned:
            self._learn()
        self._flush()

    def _learn(self) -> None:
        """Remember the session, with which the next connection skips most of the handshake (RFC 8446, section 2.2).

        In TLS 1.3 it comes some time after the handshake, and surely before an answer. One that was resumed is good for the
        next time, too; to copy it out costs a quarter of a handshake.
        """
        self._learned = True
        if not self._tls.session_reused:
            self.origin.session_until = self._loop.time() + SESSION_SECONDS_MAX
            self.origin.session = self._tls.session

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # the alert that tells the peer why
            self._fail(tls_error(error))
        else:
            if self._tls.version() != "TLSv1.3":
                self._flush()  # in TLS 1.3 our last word of the handshake goes out with the request, in one write
            self._shaken.set_result(None)

    def _fail(self, failure: WireError) -> None:
        if not self._shaken.done():
            self.origin.session = None  # perhaps it was to blame
            if not failure.reason.startswith("tls_"):
                failure = WireError("tls_handshake", f"the TLS handshake was not finished: {failure}")
            self._shaken.set_result(None)
        super()._fail(failure)

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
        return WireError(_REASONS.get(error.verify_code, "tls_certificate"), error.verify_message)
    return WireError("tls_handshake", f"the TLS handshake failed: {error.reason or error}")
