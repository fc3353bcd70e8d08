"""Kept connections: a free list for each origin, and one order of all of them, from the longest idle to the latest."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from ssl import SSLSession

from worker.http.connection import Connection

IDLE_MAX = 10_000
IDLE_SECONDS_MAX = 30.0
AGE_SECONDS_MAX = 600.0
"""So that a receiver which moves to other addresses is followed."""


@dataclass(eq=False, slots=True)
class Origin:
    """Scheme, host and port of a URL (RFC 9110, section 4.3.1), and what is known of reaching it."""

    scheme: str
    host: str
    port: int
    idle: list[Connection] = field(default_factory=list)
    session: SSLSession | None = None
    """The latest TLS session, to be used until `session_until` on the loop's clock."""
    session_until: float = 0.0
    dial_seconds: float | None = None
    """How long dialling took the last time."""


class Pool:
    """Keeps connections while nobody uses them. The latest used goes first: it is the least likely to be closed."""

    def __init__(self, idle_max: int = IDLE_MAX) -> None:
        self._idle_max = idle_max
        self._idle: OrderedDict[Connection, None] = OrderedDict()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, origin: Origin) -> Connection | None:
        """Return a connection that was kept for this origin, if there is one."""
        while origin.idle:
            connection = origin.idle.pop()
            del self._idle[connection]
            if connection.reusable:
                return connection
            connection.abort()
        return None

    def keep(self, connection: Connection, now: float) -> None:
        """Take a connection back, at `now` on the loop's clock; closes what is too old, or one too many."""
        if self._closed or not connection.reusable or now - connection.since > AGE_SECONDS_MAX:
            connection.close()
            return
        if len(self._idle) >= self._idle_max:  # one for each of many origins is worth more than several for one
            if connection.origin.idle or not self._idle:
                connection.close()
                return
            self._close(next(iter(self._idle)))
        connection.rest(now)
        connection.origin.idle.append(connection)
        self._idle[connection] = None
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(IDLE_SECONDS_MAX, self._close_expired)

    def lost(self, connection: Connection) -> None:
        """Forget a connection that its peer closed."""
        if connection in self._idle:
            del self._idle[connection]
            connection.origin.idle.remove(connection)

    def close(self) -> None:
        """Close every kept connection, and keep none any more."""
        self._closed = True
        for connection in list(self._idle):
            self._close(connection)
        if self._sweep is not None:
            self._sweep.cancel()

    def _close(self, connection: Connection) -> None:
        self.lost(connection)
        connection.close()

    def _close_expired(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle:
            oldest = next(iter(self._idle))
            left = (oldest.idle_since or 0.0) + IDLE_SECONDS_MAX - loop.time()
            if left > 0:
                self._sweep = loop.call_later(left, self._close_expired)
                return
            self._close(oldest)
        self._sweep = None
