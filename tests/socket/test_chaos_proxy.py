"""The proxy of `python -m benchmarks chaos`: each toxic does what its name says."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

import anyio
import pytest

from benchmarks.chaos.proxy import Bandwidth, BlackHole, Clean, HalfOpen, Latency, Proxy, Reset, Slice

pytestmark = pytest.mark.alone

HELLO = b"x" * 1000
WAIT_SECONDS = 0.3
PATIENCE_SECONDS = 10


@dataclass
class Stage:
    """A proxy in front of a server that echoes, which keeps what it has read."""

    proxy: Proxy
    read: bytearray = field(default_factory=bytearray)
    was_reset: anyio.Event = field(default_factory=anyio.Event)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Yield it, running."""
    tasks: set[asyncio.Task[None]] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                made.read += data
                writer.write(data)
        except ConnectionResetError:
            made.was_reset.set()
        finally:
            await close(writer)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(echo(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    made = Stage(Proxy(*server.sockets[0].getsockname()[:2]))
    async with made.proxy.listening("127.0.0.1"):
        yield made
    server.close()
    await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def exchange(self, data: bytes = HELLO) -> bytes:
        self.writer.write(data)
        with anyio.fail_after(PATIENCE_SECONDS):
            return await self.reader.readexactly(len(data))

    async def hears(self, seconds: float = WAIT_SECONDS) -> bytes | None:
        """Return what comes within so long: b"" for an orderly end, None for silence."""
        with anyio.move_on_after(seconds):
            return await self.reader.read(65_536)
        return None


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[Client]:
    """Yield a connection to the proxy."""
    async with AsyncExitStack() as stack:
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.proxy.port)
        stack.push_async_callback(close, writer)
        yield Client(reader, writer)


async def test_a_clean_proxy_passes_everything_on(client: Client, stage: Stage) -> None:
    """Both ways, and the end as well."""
    large = bytes(range(256)) * 4000
    assert large == await client.exchange(large)
    client.writer.write_eof()
    assert b"" == await client.hears(PATIENCE_SECONDS)
    assert large == stage.read


async def test_latency(client: Client, stage: Stage) -> None:
    """Once for the request, and once for the response."""
    stage.proxy.toxic = Latency(0.1, 0.02)
    started = time.monotonic()
    assert HELLO == await client.exchange()
    assert time.monotonic() - started >= 0.16


async def test_reset_within_the_request(client: Client, stage: Stage) -> None:
    """The server reads half of it, and both are reset."""
    stage.proxy.toxic = Reset("request")
    with pytest.raises(ConnectionResetError):
        await client.exchange()
    with anyio.fail_after(PATIENCE_SECONDS):
        await stage.was_reset.wait()
    assert len(stage.read) <= len(HELLO) // 2


async def test_reset_within_the_response(client: Client, stage: Stage) -> None:
    """The server has all of the request, the client not all of the response."""
    stage.proxy.toxic = Reset("response")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await client.exchange()
    assert HELLO == stage.read


async def test_half_open(client: Client, stage: Stage) -> None:
    """What comes is swallowed for good, nothing is answered, and nothing is closed; new connections are well again after it."""
    assert HELLO == await client.exchange()
    stage.proxy.toxic = HalfOpen()
    client.writer.write(HELLO)
    assert await client.hears() is None
    stage.proxy.toxic = Clean()
    client.writer.write(HELLO)
    assert await client.hears() is None
    assert HELLO == stage.read
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.proxy.port)
    assert HELLO == await Client(reader, writer).exchange()
    await close(writer)


async def test_slice(client: Client, stage: Stage) -> None:
    """It arrives in parts of so many bytes."""
    stage.proxy.toxic = Slice(400, 0.05)
    client.writer.write(HELLO)
    parts = [await client.hears(PATIENCE_SECONDS) for _ in range(3)]
    assert HELLO == b"".join(filter(None, parts))
    assert len(parts[0] or b"") <= 400


async def test_bandwidth(client: Client, stage: Stage) -> None:
    """1,000 bytes there and back at 10,000 a second, each way while the other is under way: a tenth of a second at least."""
    stage.proxy.toxic = Bandwidth(10_000)
    started = time.monotonic()
    assert HELLO == await client.exchange()
    assert 0.05 <= time.monotonic() - started < 1


async def test_black_hole(client: Client, stage: Stage) -> None:
    """Nothing passes while it lasts, on old connections and new ones; then everything does."""
    stage.proxy.toxic = BlackHole()
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.proxy.port)
    late = Client(reader, writer)
    for one in (client, late):
        one.writer.write(HELLO)
        assert await one.hears() is None
    assert b"" == stage.read
    stage.proxy.toxic = Clean()
    for one in (client, late):
        assert HELLO == await one.reader.readexactly(len(HELLO))
    await close(writer)
