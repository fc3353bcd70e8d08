"""A receiver that does as it is told, plain or TLS, and a sender that may talk to it."""

import os
import resource
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.streams.tls import TLSListener, TLSStream

from worker.core.address import AddressRules, parse_networks, parse_ports
from worker.core.model import Exchange, Request
from worker.http.client import Client
from worker.http.dial import Dialer
from worker.http.pool import Pool
from worker.http.resolver import Resolver
from worker.http.sender import HttpSender
from worker.pipeline.ports import Sender

CERTIFICATES = Path(__file__).parent / "certificates"
LOOPBACK = AddressRules(allow=parse_networks("127.0.0.0/8 ::1/128"), ports=parse_ports("any"))

Script = Callable[[anyio.abc.ByteStream, bytes], Awaitable[None]]


class Peer:
    """A receiver that runs a script once it has read a request; it counts connections and keeps what it read."""

    def __init__(
        self,
        script: Script,
        *,
        tls: str | None = None,
        tls_max: ssl.TLSVersion | None = None,
        client_ca: str | None = None,
    ) -> None:
        self.script, self.tls, self.tls_max, self.client_ca = script, tls, tls_max, client_ca
        self.resumed: list[bool] = []
        self.requests: list[bytes] = []
        self.streams: list[anyio.abc.ByteStream] = []
        self.gone = 0
        self.closing = anyio.Event()
        """Set it, and nobody can connect any more."""
        self.converse: Callable[[anyio.abc.ByteStream], Awaitable[None]] = self._answer_requests
        self.connections = 0
        self.url = ""

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        tcp = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = tcp.extra(anyio.abc.SocketAttribute.local_port)
        self.url = f"{'https' if self.tls else 'http'}://localhost:{port}/hook?x=1"
        listener: anyio.abc.Listener[anyio.abc.ByteStream] = tcp
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATES / f"{self.tls}.pem")
            if self.client_ca:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(CERTIFICATES / f"{self.client_ca}.pem")
            if self.tls_max:
                context.maximum_version = self.tls_max
            listener = TLSListener(tcp, context, standard_compatible=False)
        async with listener, anyio.create_task_group() as group:
            task_status.started()
            with anyio.CancelScope() as accepting:
                group.start_soon(self._stop_accepting, accepting)
                await listener.serve(self._converse, group)
            await listener.aclose()

    async def _stop_accepting(self, accepting: anyio.CancelScope) -> None:
        await self.closing.wait()
        accepting.cancel()

    async def _converse(self, stream: anyio.abc.ByteStream) -> None:
        self.connections += 1
        self.streams.append(stream)
        if isinstance(stream, TLSStream):
            self.resumed.append(bool(stream._ssl_object.session_reused))
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError):
                await self.converse(stream)
        self.gone += 1

    async def _answer_requests(self, stream: anyio.abc.ByteStream) -> None:
        while True:
            request = await stream.receive()
            while b"\r\n\r\n" not in request:
                request += await stream.receive()
            head, _, body = request.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(body) < length:
                body += await stream.receive()
            self.requests.append(head + b"\r\n\r\n" + body)
            await self.script(stream, body)


def answer(data: bytes) -> Script:
    async def script(stream: anyio.abc.ByteStream, _: bytes) -> None:
        await stream.send(data)

    return script


def answer_and_close(data: bytes) -> Script:
    async def script(stream: anyio.abc.ByteStream, _: bytes) -> None:
        await stream.send(data)
        raise anyio.EndOfStream

    return script


def drip(start: bytes, drop: bytes) -> Script:
    """Send `start`, then `drop` for ever."""

    async def script(stream: anyio.abc.ByteStream, _: bytes) -> None:
        await stream.send(start)
        while True:
            await stream.send(drop)
            await anyio.sleep(0.02)

    return script


def trusting() -> ssl.SSLContext:
    """Trust the tests' own authority."""
    return ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))


@asynccontextmanager
async def talking(
    script: Script, *, tls: str | None = None, tls_max: ssl.TLSVersion | None = None, pool: Pool | None = None
) -> AsyncIterator[tuple[Peer, HttpSender]]:
    """Run a receiver, and yield it with a sender that may reach it."""
    sender = HttpSender(Client(Dialer(Resolver(LOOPBACK), trusting), pool), allow_http=True)
    async with serving(Peer(script, tls=tls, tls_max=tls_max)) as peer:
        yield peer, sender
        await sender.aclose()


@asynccontextmanager
async def serving(peer: Peer) -> AsyncIterator[Peer]:
    """Run a receiver."""
    async with anyio.create_task_group() as group:
        await group.start(peer.serve)
        yield peer
        group.cancel_scope.cancel()


async def send(sender: Sender, url: str, body: bytes = b"{}", seconds: float = 5.0) -> Exchange:
    request = Request(url, (("content-type", "application/json"), ("webhook-id", "msg_1")), body, seconds)
    return await sender.send(request, lambda _: anyio.lowlevel.checkpoint())


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


FILES_SPARED = 16


@contextmanager
def no_files() -> Iterator[None]:
    """Let this process open no more files: not one connection, nor accept one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(file.name) for file in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + FILES_SPARED, hard))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for file in taken:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
