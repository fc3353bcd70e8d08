"""Connections: kept, closed, made again, encrypted, resumed."""

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from anyio.streams.tls import TLSStream
from peer import LOOPBACK, OK, Peer, Script, answer, answer_and_close, send, serving, talking, trusting

from worker.core.model import Request
from worker.http import pool
from worker.http import tls as tls_module
from worker.http.client import Client
from worker.http.connection import Connection, WireError
from worker.http.dial import Dialer
from worker.http.foreign import ForeignSender
from worker.http.pool import Origin, Pool
from worker.http.resolver import Resolver
from worker.http.sender import HttpSender
from worker.http.transport import HttpTransport
from worker.pipeline.ports import NotSentError

BOTH = pytest.mark.parametrize("tls", [None, "good"])


def in_turn(*answers: bytes) -> Script:
    """Give one answer after another; an empty one closes the connection instead."""
    left = list(answers)

    async def script(stream: anyio.abc.ByteStream, _: bytes) -> None:
        data = left.pop(0)
        if not data:
            raise anyio.EndOfStream
        await stream.send(data)

    return script


@BOTH
@pytest.mark.fault(36)
async def test_a_stale_connection_is_replaced_once(tls: str | None) -> None:
    """An idle connection that is closed as we send costs nothing but a connection, and the attempt says so."""
    asked: list[bool] = []

    async def before_write(again: bool) -> None:
        asked.append(again)

    async with talking(in_turn(OK, b"", OK), tls=tls) as (peer, sender):
        await send(sender, peer.url)
        exchange = await sender.send(Request(peer.url, (), b"{}", 5.0), before_write)
        assert (200, 2, 3) == (exchange.status, peer.connections, len(peer.requests))
        assert "written again on a new connection" in (exchange.error or "")
        assert [False, True] == asked  # each time it is written, it is asked whether it may be


@BOTH
@pytest.mark.fault(36)
async def test_it_is_replaced_once_only(tls: str | None) -> None:
    """A new connection that is closed without an answer is a failure; the receiver may have both, and the attempt says so."""
    async with talking(in_turn(OK, b"", b""), tls=tls) as (peer, sender):
        await send(sender, peer.url)
        exchange = await send(sender, peer.url)
        assert (None, "disconnected", 2) == (exchange.status, exchange.outcome, peer.connections)
        assert 3 == len(peer.requests)
        assert "written again on a new connection" in (exchange.error or "")


@BOTH
@pytest.mark.fault(36)
async def test_it_is_not_replaced_once_a_byte_has_come(tls: str | None) -> None:
    """Then the receiver has seen the request."""

    async def script(stream: anyio.abc.ByteStream, _: bytes) -> None:
        await stream.send(OK if len(peer.requests) == 1 else b"HTTP")
        if len(peer.requests) == 2:
            raise anyio.EndOfStream

    async with talking(script, tls=tls) as (peer, sender):
        await send(sender, peer.url)
        exchange = await send(sender, peer.url)
        assert (None, "disconnected", 1) == (exchange.status, exchange.outcome, peer.connections)


@BOTH
@pytest.mark.fault(36)
async def test_a_second_writing_may_be_refused(tls: str | None) -> None:
    """If it may not be written again, the attempt ends as one that was cut off: it was written once."""
    allowed = [True, False]

    async def before_write(_: bool) -> None:
        if not allowed.pop(0):
            raise NotSentError("not again")

    async with talking(in_turn(OK, b"", OK), tls=tls) as (peer, sender):
        await send(sender, peer.url)
        exchange = await sender.send(Request(peer.url, (), b"{}", 5.0), before_write)
        assert (None, "disconnected", 2) == (exchange.status, exchange.outcome, len(peer.requests))
        assert 200 == (await send(sender, peer.url)).status
        assert 2 == peer.connections  # the new one was kept


async def test_a_connection_closed_while_it_waits_is_replaced() -> None:
    """A planned moment may come after the receiver has lost its patience with a connection on which nothing was written."""
    dialled: list[Connection] = []

    class Dialing(Dialer):
        async def dial(self, origin: Origin, lost: Callable[[Connection], None], deadline: float) -> Connection:
            dialled.append(await super().dial(origin, lost, deadline))
            return dialled[-1]

    async def before_write(again: bool) -> None:
        assert not again  # not a byte was written
        if len(dialled) == 1:
            while not peer.streams:
                await anyio.lowlevel.checkpoint()
            await peer.streams[0].aclose()
            while dialled[0].reusable:
                await anyio.lowlevel.checkpoint()

    async with serving(Peer(in_turn(OK, OK))) as peer:
        sender = HttpSender(Client(Dialing(Resolver(LOOPBACK))), allow_http=True)
        exchange = await sender.send(Request(peer.url, (), b"{}", 5.0), before_write)
        assert (200, None, 2, 1) == (exchange.status, exchange.error, peer.connections, len(peer.requests))
        await sender.aclose()


@BOTH
async def test_what_comes_unasked_closes_a_kept_connection(tls: str | None) -> None:
    """Bytes between two exchanges belong to nobody."""
    async with talking(answer(OK), tls=tls) as (peer, sender):
        await send(sender, peer.url)
        await peer.streams[0].send(OK)
        await anyio.wait_all_tasks_blocked()
        assert 200 == (await send(sender, peer.url)).status
        assert 2 == peer.connections


async def test_idle_connections_are_bounded_in_all() -> None:
    """When there are too many, the one that was idle for longest goes; but nobody's only one for another's second."""
    connections = Pool(idle_max=2)
    async with serving(Peer(answer(OK))) as peer:
        sender = HttpSender(Client(Dialer(Resolver(LOOPBACK, lambda _: ["127.0.0.1"])), connections), allow_http=True)
        urls = [peer.url.replace("localhost", name) for name in ("a.example", "b.example", "c.example")]
        await send(sender, urls[0])
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(send, sender, urls[1])
        assert (2, 5) == (len(connections), peer.connections)
        for url in urls[:2]:
            await send(sender, url)
        assert (2, 5) == (len(connections), peer.connections)
        await send(sender, urls[2])  # takes the place of the first
        await send(sender, urls[1])
        assert (2, 6) == (len(connections), peer.connections)
        await send(sender, urls[0])
        assert (2, 7) == (len(connections), peer.connections)
        await sender.aclose()
    assert 0 == len(connections)


async def test_idle_and_old_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle for too long: closed without being asked for. Too old: not kept."""
    monkeypatch.setattr(pool, "IDLE_SECONDS_MAX", 0.05)
    connections = Pool()
    async with talking(answer(OK), pool=connections) as (peer, sender):
        await send(sender, peer.url)
        with anyio.fail_after(5):
            while len(connections) or not peer.gone:
                await anyio.lowlevel.checkpoint()
        monkeypatch.setattr(pool, "AGE_SECONDS_MAX", -1.0)
        await send(sender, peer.url)
        assert (0, 2) == (len(connections), peer.connections)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_sessions_are_resumed(version: ssl.TLSVersion) -> None:
    """The second connection to an origin skips most of the handshake."""
    closing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    async with talking(answer_and_close(closing), tls="good", tls_max=version) as (peer, sender):
        for _ in range(3):
            assert 200 == (await send(sender, peer.url)).status
        assert [False, True, True] == peer.resumed


@BOTH
async def test_large_bodies_both_ways(tls: str | None) -> None:
    """A megabyte goes out exactly, and an answer of many records comes in."""
    body = bytes(range(256)) * 4096
    async with talking(answer(b"HTTP/1.1 200 OK\r\ncontent-length: 65536\r\n\r\n" + body[:65536]), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url, body)
        assert (200, None, body[:1024]) == (exchange.status, exchange.error, exchange.body)
        assert peer.requests[0].endswith(b"\r\n\r\n" + body)
        assert 200 == (await send(sender, peer.url)).status
        assert 1 == peer.connections


@BOTH
async def test_an_answer_before_the_request_was_read_costs_the_connection(tls: str | None) -> None:
    """What is still to be written would be taken for the next request."""

    async def impatient(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
            await anyio.sleep_forever()

    async with talking(answer(OK), tls=tls) as (peer, sender):
        peer.converse = impatient
        assert 413 == (await send(sender, peer.url, b"x" * 20_000_000)).status
        assert 413 == (await send(sender, peer.url)).status
        assert 2 == peer.connections


@pytest.mark.fault(32)
async def test_a_handshake_that_stalls_has_a_reason() -> None:
    """Someone who accepts and then says nothing is told apart from someone who does not answer the request."""
    async with talking(answer(OK)) as (peer, sender):
        exchange = await send(sender, peer.url.replace("http:", "https:"), seconds=0.2)
        assert (None, "tls_handshake") == (exchange.status, exchange.outcome)


@pytest.mark.fault(32)
async def test_old_tls_is_refused() -> None:
    """1.2 is the least."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    sender_context = Dialer(Resolver())._make_tls()
    assert ssl.TLSVersion.TLSv1_2 == sender_context.minimum_version
    assert ssl.CERT_REQUIRED == sender_context.verify_mode == context.verify_mode
    assert sender_context.check_hostname


async def test_the_next_address_joins_in() -> None:
    """An address that does not answer is not waited for (RFC 8305)."""
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.2", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        for filler in (first, second):  # its queue is full now: whoever comes is not answered
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.2", port))
        with anyio.fail_after(4):
            tcp = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
            async with tcp, anyio.create_task_group() as group:
                group.start_soon(tcp.serve, Peer(answer(OK))._converse)
                resolver = Resolver(LOOPBACK, lambda _: ["127.0.0.2", "127.0.0.1"])
                sender = HttpSender(Client(Dialer(resolver)), allow_http=True)
                assert 200 == (await send(sender, f"http://receiver.example:{port}/")).status
                await sender.aclose()
                group.cancel_scope.cancel()


async def test_the_host_keeps_its_name() -> None:
    """What is dialled is the address that was judged; Host and SNI say the name."""
    async with talking(answer(OK), tls="good") as (peer, _):
        resolver = Resolver(LOOPBACK, lambda _: ["127.0.0.1"])
        sender = HttpSender(Client(Dialer(resolver, trusting)))
        exchange = await send(sender, peer.url.replace("localhost", "elsewhere.test"))
        assert "tls_hostname" == exchange.outcome
        port = peer.url.split(":")[2].split("/")[0]
        await send(sender, peer.url)
        assert f"host: localhost:{port}".encode() in peer.requests[0].lower()
        await sender.aclose()


@BOTH
async def test_as_an_httpx_transport(tls: str | None) -> None:
    """Whoever has an httpx client can have our connections under it."""
    response = b"HTTP/1.1 201 Created\r\nX-A: b\r\ntransfer-encoding: chunked\r\n\r\n7\r\n[1,2,3]\r\n0\r\n\r\n"

    async def parts() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async with talking(answer(response), tls=tls) as (peer, _):
        transport = HttpTransport(Client(Dialer(Resolver(LOOPBACK), trusting, body_max=10**6, kept_max=10**6)))
        async with httpx.AsyncClient(transport=transport) as client:
            for _ in range(2):
                answered = await client.post(peer.url, content=parts(), headers={"x-c": "d"})
                assert (201, [1, 2, 3], "b") == (answered.status_code, answered.json(), answered.headers["x-a"])
            assert 1 == peer.connections
            assert peer.requests[1].endswith(b"\r\n\r\none two")
            assert b"\r\nx-c: d\r\n" in peer.requests[1]
            assert b"transfer-encoding" not in peer.requests[1].lower()
            with pytest.raises(httpx.UnsupportedProtocol):
                await client.head(peer.url)
            with pytest.raises(httpx.ConnectError):
                await client.post("http://127.0.0.1:1/")
            peer.script = answer_and_close(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
            with pytest.raises(httpx.RemoteProtocolError, match="ended early"):
                await client.post(peer.url)


async def test_any_httpx_transport_in_our_place() -> None:
    """A MockTransport, a forward proxy, HTTP/2: whatever httpx can use."""

    def handle(request: httpx.Request) -> httpx.Response:
        assert "identity" == request.headers["accept-encoding"]
        return httpx.Response(202, content=request.content, headers={"retry-after": "7"})

    sender = ForeignSender(httpx.MockTransport(handle))
    exchange = await send(sender, "https://receiver.example/", b"echo")
    assert (202, b"echo", "7") == (exchange.status, exchange.body, exchange.retry_after)
    exchange = await send(sender, "http://receiver.example/", b"echo")
    assert (None, "bad_url") == (exchange.status, exchange.outcome)
    await sender.aclose()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (httpx.ConnectError("no"), "connect"),
        (httpx.ReadTimeout("no"), "timeout"),
        (httpx.ReadError("no"), "disconnected"),
        (httpx.LocalProtocolError("no"), "protocol_error"),
    ],
)
async def test_failures_of_a_foreign_transport_have_our_names(error: httpx.HTTPError, reason: str) -> None:
    """An operator sees the same words."""

    def handle(_: httpx.Request) -> httpx.Response:
        raise error

    exchange = await send(ForeignSender(httpx.MockTransport(handle)), "https://receiver.example/")
    assert (None, reason, "no") == (exchange.status, exchange.outcome, exchange.error)


async def test_a_foreign_transport_meets_the_deadline_and_the_limits() -> None:
    """A deadline for all of it, which httpx does not have, and no more read than of others."""

    async def hang(_: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    exchange = await send(ForeignSender(httpx.MockTransport(hang)), "https://receiver.example/", seconds=0.05)
    assert (None, "timeout") == (exchange.status, exchange.outcome)
    long = httpx.MockTransport(lambda _: httpx.Response(200, content=b"x" * 100_000))
    exchange = await send(ForeignSender(long), "https://receiver.example/")
    assert (200, 1024, True) == (exchange.status, len(exchange.body), "65536" in (exchange.error or ""))


@BOTH
async def test_a_planned_moment_is_not_the_receivers_time(tls: str | None) -> None:
    """However long it is waited for before the first byte, the receiver has its whole time after that."""

    async def before_write(_: bool) -> None:
        await anyio.sleep(0.3)

    async with talking(answer(OK), tls=tls) as (peer, sender):
        exchange = await sender.send(Request(peer.url, (), b"{}", 0.25), before_write)
        assert (200, None) == (exchange.status, exchange.error)


async def test_a_failed_second_connection_does_not_hide_the_first_writing() -> None:
    """The request may have been seen: who reads `connect` would think that it was not."""
    async with talking(in_turn(OK, b"")) as (peer, sender):
        await send(sender, peer.url)
        peer.closing.set()
        exchange = await send(sender, peer.url)
        assert (None, "disconnected") == (exchange.status, exchange.outcome)
        assert "it was not written again: no connection" in (exchange.error or "")


async def test_a_kept_connection_without_an_exchange_is_kept_all_the_same() -> None:
    """One that waited in vain for its planned moment may be closed under the next request, too."""

    async def never(_: bool) -> None:
        raise NotSentError

    async with talking(in_turn(b"", OK)) as (peer, sender):
        with pytest.raises(NotSentError):
            await sender.send(Request(peer.url, (), b"{}", 5.0), never)
        exchange = await send(sender, peer.url)
        assert (200, 2, True) == (exchange.status, peer.connections, "written again" in (exchange.error or ""))


@pytest.mark.fault(32)
@pytest.mark.parametrize("how", ["reset", "close", "banner", "alert"])
async def test_whatever_comes_in_place_of_a_handshake_has_a_reason(how: str) -> None:
    """Also when it comes before we have said a word."""

    async def rude(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            if how == "reset":
                raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif how != "close":
                await stream.send(b"220 mail.example ESMTP\r\n" if how == "banner" else b"\x15\x03\x03\x00\x02\x02\x28")

    async with talking(answer(OK)) as (peer, sender):
        peer.converse = rude
        for _ in range(10):
            exchange = await send(sender, peer.url.replace("http:", "https:"))
            assert (None, True) == (exchange.status, exchange.outcome in {"tls_handshake", "connect"}), exchange


@BOTH
@pytest.mark.fault(28)
async def test_an_answer_before_the_request_is_none(tls: str | None) -> None:
    """A receiver that answers as soon as somebody connects has not seen the webhook.

    In TLS 1.3 our last word of the handshake comes with the request, so there it cannot be told.
    """

    async def hasty(stream: anyio.abc.ByteStream) -> None:
        await stream.send(OK)
        async with stream:
            with suppress(anyio.EndOfStream):
                await stream.receive()

    async def before_write(_: bool) -> None:
        await anyio.wait_all_tasks_blocked()

    async with talking(answer(OK), tls=tls, tls_max=ssl.TLSVersion.TLSv1_2) as (peer, sender):
        peer.converse = hasty
        exchange = await sender.send(Request(peer.url, (), b"{}", 5.0), before_write)
        assert (None, "disconnected") == (exchange.status, exchange.outcome)


@BOTH
@pytest.mark.fault(27)
async def test_a_body_that_ends_with_the_connection_may_be_cut_off(tls: str | None) -> None:
    """Within TLS its end is said, or it is noted."""
    data = b"HTTP/1.1 200 OK\r\n\r\nall of it"
    async with talking(answer_and_close(data), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url)
        assert (200, b"all of it", tls is not None) == (exchange.status, exchange.body, bool(exchange.error))
    async with talking(answer(data), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url, seconds=0.2)
        assert (200, b"all of it", True) == (exchange.status, exchange.body, "deadline" in (exchange.error or ""))


async def test_a_goodbye_within_tls_closes_the_connection() -> None:
    """Also when the receiver leaves the socket open."""

    async def polite(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.send(OK)
        assert isinstance(stream, TLSStream)
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            await stream.unwrap()
        peer.gone += 1

    connections = Pool()
    async with talking(answer(OK), tls="good", pool=connections) as (peer, sender):
        peer.converse = polite
        assert 200 == (await send(sender, peer.url)).status
        with anyio.fail_after(5):
            while len(connections):
                await anyio.lowlevel.checkpoint()


async def test_a_session_does_not_outlive_its_certificates_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed session is not asked for a certificate, so from time to time there is a full handshake."""
    monkeypatch.setattr(tls_module, "SESSION_SECONDS_MAX", -1.0)
    closing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    async with talking(answer_and_close(closing), tls="good") as (peer, sender):
        for _ in range(2):
            assert 200 == (await send(sender, peer.url)).status
        assert [False, False] == peer.resumed


async def test_hosts_that_tls_cannot_name() -> None:
    """A failure to connect, not a crash."""
    async with talking(answer(OK), tls="good") as (peer, _):
        port = peer.url.split(":")[2].split("/")[0]
        client = Client(Dialer(Resolver(LOOPBACK, lambda _: ["127.0.0.1"]), trusting))
        with pytest.raises(WireError, match="no connection to port") as failed:
            await client.exchange(
                Origin("https", ".bad.test", int(port)), b"", anyio.current_time() + 5, lambda _: anyio.lowlevel.checkpoint()
            )
        assert "connect" == failed.value.reason
        await client.aclose()


async def test_nothing_is_kept_after_the_end() -> None:
    """A connection that comes back after the pool was closed is closed."""
    connections = Pool()
    async with talking(answer(OK), pool=connections) as (peer, sender):
        connections.close()
        assert 200 == (await send(sender, peer.url)).status
        assert 0 == len(connections)
