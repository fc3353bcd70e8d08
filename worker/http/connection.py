"""One connection to a receiver over asyncio's protocols: one request out in one write, one response in."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from worker.http.head import ProtocolError
from worker.http.response import Response

if TYPE_CHECKING:
    from worker.http.pool import Origin

RESPONSE_BYTES_MAX = 64 * 1024
RESPONSE_BYTES_KEPT = 1024


class WireError(Exception):
    """No complete response head came.

    `reason` names why: `dns`, `blocked_address`, `blocked_port`, `connect`, `tls_…`, `disconnected`, `protocol_error`,
    `timeout`, or `no_files`: this process may open no more files. `written`: the request was, in part or whole. `again`: it
    may be written once more, on a new connection.
    """

    def __init__(self, reason: str, text: str, *, written: bool = False, again: bool = False) -> None:
        super().__init__(text)
        self.reason, self.written, self.again = reason, written, again


class Connection(asyncio.Protocol):
    """A plain connection. It carries one exchange at a time; whatever comes between two of them closes it."""

    def __init__(self, origin: "Origin", lost: Callable[["Connection"], None], body_max: int, kept_max: int) -> None:
        self.origin = origin
        self.since = 0.0
        """When it was made, on the loop's clock."""
        self.idle_since: float | None = None
        """When it was last kept; None: it is new."""
        self.reusable = True
        """Whether it may carry another exchange."""
        self._lost = lost
        self._body_max, self._kept_max = body_max, kept_max
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._response: Response | None = None
        self._over: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._failure: WireError | None = None

    @property
    def peer(self) -> str:
        """The address and port at the other end."""
        address = self._transport.get_extra_info("peername")
        return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"

    @property
    def tls_version(self) -> str | None:
        """The version of TLS that was agreed on; None without TLS."""
        return None

    async def ready(self) -> None:
        """Wait until a request can be written: a plain connection is ready when it stands."""

    async def exchange(self, request: bytes, deadline: float) -> Response:
        """Write a whole request and read its response, until `deadline` on the loop's clock; WireError if there is none.

        Cancelled, the connection is closed.
        """
        if not self.reusable:
            why = self._failure or "the connection was closed"
            raise WireError("disconnected", f"closed before the request was written: {why}", again=True)
        if self._loop.time() >= deadline:
            raise WireError("timeout", "the deadline passed before the request was written")
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
        if response.status is None:
            self.abort()
            raise self._failure or WireError("disconnected", "the connection was closed", written=True)
        if not response.reusable or self._transport.get_write_buffer_size():
            self.abort()
        return response

    def rest(self, now: float) -> None:
        """Wait for the next exchange, from `now` on the loop's clock."""
        self.idle_since = now

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
            self._fail(WireError("protocol_error", str(error), written=True))
        else:
            if over:
                self._finish()

    def eof_received(self) -> None:
        """The peer will send no more; the transport then closes."""
        self._ended("the receiver closed the connection", clean=True)

    def connection_lost(self, error: Exception | None) -> None:
        """The end."""
        self._ended(str(error or "the connection was closed"), clean=False)
        if self._timer is not None:
            self._timer.cancel()
        self._lost(self)

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

    def _ended(self, why: str, *, clean: bool) -> None:
        """No more will come. A kept connection may have been closed before it had our request, if not one byte came back."""
        response = self._response
        if response is not None and response.end(why, clean=clean):
            self.reusable = False
            self._finish()
        else:
            again = self.idle_since is not None and response is not None and not response.started
            self._fail(WireError("disconnected", why, written=response is not None, again=again))

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
        elif self._response.end("the deadline passed", clean=False):
            self.reusable = False
            self._finish()
        else:
            self._fail(WireError("timeout", "no complete response head before the deadline", written=True))
