"""A client that remembers its last exchange, for a person who wants to see it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from worker.http.client import Client
from worker.http.connection import Connection
from worker.http.response import Response


@dataclass(slots=True)
class Seen:
    """Where the request went, and what came back, if anything did."""

    peer: str
    tls: str | None
    response: Response | None = None


class WatchedClient(Client):
    """See `Client`. `seen` is None until there is a connection."""

    seen: Seen | None = None

    async def _carry(
        self,
        connection: Connection,
        request: bytes,
        deadline: float,
        before_write: Callable[[bool], Awaitable[None]],
        *,
        again: bool,
    ) -> Response:
        self.seen = Seen(connection.peer, connection.tls_version)
        self.seen.response = await super()._carry(connection, request, deadline, before_write, again=again)
        return self.seen.response
