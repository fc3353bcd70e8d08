"""A TCP proxy that can be made to misbehave while it runs, one port a receiver.

The names of what it does are those of Toxiproxy's toxics, where it has them. A toxic acts on what passes from the moment it is
set: connections that are open then are hit as well.
"""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal, Protocol

CHUNK_BYTES = 65_536
BANDWIDTH_TICK_SECONDS = 0.05

Direction = Literal["request", "response"]


class Toxic(Protocol):
    """What becomes of the bytes that a client or its server has sent."""

    async def carry(self, data: bytes, direction: Direction, through: "Connection") -> None:
        """Pass these bytes on, or do not."""


@dataclass(frozen=True)
class Clean:
    """Passes everything on at once."""

    async def carry(self, data: bytes, direction: Direction, through: "Connection") -> None:
        """See `Toxic`."""
        await through.send(data, direction)


@dataclass(frozen=True)
class Latency:
    """Passes everything on late, in each direction."""

    seconds: float
    jitter_seconds: float = 0.0

    async def carry(self, data: bytes, direction: Direction, through: "Connection") -> None:
        """See `Toxic`."""
        await asyncio.sleep(self.seconds + random.uniform(-self.jitter_seconds, self.jitter_seconds))
        await through.send(data, direction)


@dataclass(frozen=True)
class Reset:
    """Passes a share of what comes in one direction on, then resets both sides (RST)."""

    within: Direction
    share: float = 0.5

    async def carry(self, data: bytes, direction: Direction, through: "Connection") -> None:
        """See `Toxic`."""
        if direction != self.within:
            await through.send(data, direction)
            return
        await through.send(data[: int(self.share * len(data))], direction)
        through.reset()


@dataclass(frozen=True)
class HalfOpen:
    """Swallows what comes, and never closes: as if the other side had vanished. What it has touched stays so."""

    async def carry(self, data: bytes, direction: Direction, through: "Connection") -> None:  # noqa: ARG002 - it is swallowed
        """See `Toxic`."""
        through.vanished = True


@dataclass(frozen=True)
class Slice:
    """Passes a few bytes on at a time."""

    size: int
    pause_seconds: float

    async def carry(self, data: bytes, direction: Direction, through: "Connection") -> None:
        """See `Toxic`."""
        for start in range(0, len(data), self.size):
            await through.send(data[start : start + self.size], direction)
            await asyncio.sleep(self.pause_seconds)


@dataclass(frozen=True)
class Bandwidth:
    """Passes so many bytes a second on, in each direction of each connection."""

    bytes_per_second: float

    async def carry(self, data: bytes, direction: Direction, through: "Connection") -> None:
        """See `Toxic`."""
        await Slice(max(1, round(self.bytes_per_second * BANDWIDTH_TICK_SECONDS)), BANDWIDTH_TICK_SECONDS).carry(
            data, direction, through
        )


@dataclass(frozen=True)
class BlackHole:
    """Passes nothing on as long as it is set; then what was sent arrives after all, as from a network that comes back."""

    async def carry(self, data: bytes, direction: Direction, through: "Connection") -> None:
        """See `Toxic`."""
        await through.proxy.switched.wait()
        await through.proxy.toxic.carry(data, direction, through)


class Connection:
    """A client, and the connection to its server that was made for it."""

    def __init__(self, proxy: "Proxy", client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.vanished = False
        self._to: dict[Direction, asyncio.StreamWriter] = {"request": server, "response": client}

    async def send(self, data: bytes, direction: Direction) -> None:
        """Pass bytes on, and wait until the other side takes them."""
        if not self.vanished:
            self._to[direction].write(data)
            await self._to[direction].drain()

    def reset(self) -> None:
        """Reset both sides."""
        for writer in self._to.values():
            with suppress(OSError):  # closed already
                connected: socket.socket = writer.get_extra_info("socket")
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def close(self) -> None:
        """Close both sides, once what was passed on has been sent."""
        for writer in self._to.values():
            writer.close()

    def abort(self) -> None:
        """Close both sides at once."""
        for writer in self._to.values():
            writer.transport.abort()

    async def pump(self, reader: asyncio.StreamReader, direction: Direction) -> None:
        """Carry everything that comes from one side, as the proxy is set by then."""
        while data := await reader.read(CHUNK_BYTES):
            await self.proxy.toxic.carry(data, direction, self)


class Proxy:
    """One listening port in front of one server. Assign `toxic` at any moment."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.switched = asyncio.Event()
        """Set when another toxic is; each has an event of its own."""
        self._upstream = host, port
        self._toxic: Toxic = Clean()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def toxic(self) -> Toxic:
        """What it does now."""
        return self._toxic

    @toxic.setter
    def toxic(self, toxic: Toxic) -> None:
        self._toxic = toxic
        self.switched.set()
        self.switched = asyncio.Event()

    @asynccontextmanager
    async def listening(self, host: str) -> AsyncIterator["Proxy"]:
        """Listen on a free port of this address."""
        server = await asyncio.start_server(self._accept, host, 0, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)  # aborted transports close in the loop's next turn

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._converse(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            return
        connection = Connection(self, writer, server)
        requests = asyncio.ensure_future(connection.pump(reader, "request"))
        responses = asyncio.ensure_future(connection.pump(answers, "response"))
        try:
            done, _ = await asyncio.wait({requests, responses}, return_when=asyncio.FIRST_COMPLETED)
            if connection.vanished and requests not in done:
                await asyncio.wait({requests})  # the server's end is not heard of
            connection.close()
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            for pump in (requests, responses):
                pump.cancel()
            await asyncio.gather(requests, responses, return_exceptions=True)
