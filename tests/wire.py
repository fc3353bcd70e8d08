"""A wire to Postgres that is listened to, and can be cut. For tests of databases and of processes alike."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit


@dataclass
class Wire:
    """Carries bytes between clients and a server, and keeps them."""

    server_dsn: str
    dsn: str = ""
    """How clients reach it."""
    sent: bytes = b""
    answered: bytes = b""
    cut_after: bytes = b""
    """Whoever sends this gets no answer: when the server gives one, the connection ends. Once."""
    hang_on: bytes = b""
    """Whoever sends this is heard by nobody from then on, and learns nothing of it: a half-open connection. Once."""
    _conversations: set[asyncio.Task[None] | None] = field(default_factory=set)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Wire"]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        parts = urlsplit(self.server_dsn)
        account, at, _ = parts.netloc.rpartition("@")
        self.dsn = f"postgresql://{account}{at}127.0.0.1:{port}{parts.path}?sslmode=disable"
        try:
            yield self
        finally:
            server.close()
            going_on = [conversation for conversation in self._conversations if conversation]
            for conversation in going_on:
                conversation.cancel()
            await asyncio.gather(*going_on, return_exceptions=True)

    async def _carry(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self._conversations.add(asyncio.current_task())
        parts = urlsplit(self.server_dsn)
        host, port = parse_qs(parts.query).get("host", [parts.hostname or "127.0.0.1"])[0], parts.port or 5432
        if host.startswith("/"):
            server, there = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            server, there = await asyncio.open_connection(host, port)
        last = b""

        async def up() -> None:
            nonlocal last
            while last := await client.read(1 << 20):
                self.sent += last
                if self.hang_on and self.hang_on in last:
                    self.hang_on = b""
                    await asyncio.Event().wait()
                there.write(last)
                await there.drain()

        async def down() -> None:
            while data := await server.read(1 << 20):
                if self.cut_after and self.cut_after in last:
                    self.cut_after = b""
                    return
                self.answered += data
                back.write(data)
                await back.drain()

        ways = [asyncio.ensure_future(up()), asyncio.ensure_future(down())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for writer in (back, there):
                writer.close()
            await asyncio.gather(*ways, return_exceptions=True)
            self._conversations.discard(asyncio.current_task())
