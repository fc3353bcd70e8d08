"""The sender against real sockets, plain and TLS, that behave as receivers on the internet do."""

import anyio
import anyio.abc
import pytest
from peer import LOOPBACK, OK, answer, answer_and_close, drip, send, talking

from worker.core.model import Request
from worker.http.client import Client
from worker.http.dial import Dialer
from worker.http.resolver import Resolver
from worker.http.sender import HttpSender
from worker.pipeline.ports import NotSentError


@pytest.mark.parametrize("tls", [None, "good"])
async def test_exact_bytes_and_headers(tls: str | None) -> None:
    """The payload arrives byte for byte, with its own headers and no others than HTTP needs."""
    async with talking(answer(OK), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url, "{ \"é\": '✓' }\n".encode())
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    assert "{ \"é\": '✓' }\n".encode() == body
    lines = head.lower().split(b"\r\n")
    assert b"post /hook?x=1 http/1.1" == lines[0]
    names = sorted(line.partition(b":")[0] for line in lines[1:])
    assert [b"accept-encoding", b"content-length", b"content-type", b"host", b"webhook-id"] == names
    assert b"accept-encoding: identity" in lines
    assert (200, b"ok", None) == (exchange.status, exchange.body, exchange.error)


@pytest.mark.parametrize("tls", [None, "good"])
async def test_a_connection_is_kept_for_its_origin(tls: str | None) -> None:
    """Ten requests one after another take one connection."""
    async with talking(answer(OK), tls=tls) as (peer, sender):
        assert [200] * 10 == [(await send(sender, peer.url)).status for _ in range(10)]
        assert 1 == peer.connections


@pytest.mark.fault(19)
@pytest.mark.parametrize("tls", [None, "good"])
async def test_dribbled_headers_meet_the_deadline(tls: str | None) -> None:
    """One deadline covers the whole attempt, however busy the receiver keeps the line."""
    async with talking(drip(b"HTTP/1.1 200 OK\r\nx: ", b"a"), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url, seconds=0.3)
    assert (None, "timeout") == (exchange.status, exchange.outcome)


@pytest.mark.fault(27)
async def test_a_success_that_drips_its_body_is_a_success() -> None:
    """A complete 2xx head decides; that the body never ended is a note."""
    async with talking(drip(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", b"a")) as (peer, sender):
        exchange = await send(sender, peer.url, seconds=0.3)
        assert (200, True) == (exchange.status, "deadline" in (exchange.error or ""))
        await send(sender, peer.url, seconds=0.3)
        assert 2 == peer.connections


@pytest.mark.fault(27)
async def test_a_truncated_body_is_a_note() -> None:
    """200 and then the connection closes too early: delivered, with a note, and the connection is gone."""
    async with talking(answer_and_close(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")) as (peer, sender):
        exchange = await send(sender, peer.url)
    assert (200, b"abc", True) == (exchange.status, exchange.body, bool(exchange.error))


@pytest.mark.fault(20)
async def test_endless_informational_responses_are_no_answer() -> None:
    """A few 100 Continue are waited through, until the deadline; a flood of them is a protocol error."""
    async with talking(drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n")) as (peer, sender):
        exchange = await send(sender, peer.url, seconds=0.2)
        assert (None, "timeout") == (exchange.status, exchange.outcome)
    async with talking(answer(b"HTTP/1.1 100 Continue\r\n\r\n" * 21)) as (peer, sender):
        exchange = await send(sender, peer.url)
        assert (None, "protocol_error") == (exchange.status, exchange.outcome)


@pytest.mark.fault(20)
@pytest.mark.fault(23)
async def test_an_endless_body_is_cut_at_64_kib() -> None:
    """Neither the line nor the memory is theirs: the first KiB is kept, 64 KiB are read, the connection is closed."""

    async def script(stream: anyio.abc.ByteStream, _: bytes) -> None:
        await stream.send(b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await stream.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    async with talking(script) as (peer, sender):
        exchange = await send(sender, peer.url)
        assert (500, 1024) == (exchange.status, len(exchange.body))
        assert "65536" in (exchange.error or "")
        await send(sender, peer.url)
        assert 2 == peer.connections


@pytest.mark.fault(21)
@pytest.mark.parametrize("head", [b"x: " + b"a" * 300_000, b"a: b\r\n" * 60_000], ids=["one long", "many"])
async def test_a_flood_of_headers_is_a_protocol_error(head: bytes) -> None:
    """A head that does not end is given up, with memory bounded."""
    async with talking(answer(b"HTTP/1.1 200 OK\r\n" + head)) as (peer, sender):
        exchange = await send(sender, peer.url)
    assert (None, "protocol_error") == (exchange.status, exchange.outcome)


@pytest.mark.fault(22)
async def test_nothing_is_ever_decoded() -> None:
    """A body that says it is gzip is kept as the bytes it is."""
    response = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 8\r\n\r\nnot gzip"
    async with talking(answer(response)) as (peer, sender):
        exchange = await send(sender, peer.url)
    assert (200, b"not gzip", None) == (exchange.status, exchange.body, exchange.error)


@pytest.mark.fault(24)
@pytest.mark.parametrize("response", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 000 No\r\n\r\n", b"\x00\x01\x02\r\n\r\n"])
async def test_garbage_is_a_protocol_error(response: bytes) -> None:
    """What is not HTTP is a failure with a name."""
    async with talking(answer(response)) as (peer, sender):
        exchange = await send(sender, peer.url)
    assert (None, "protocol_error") == (exchange.status, exchange.outcome)


@pytest.mark.fault(25)
async def test_an_odd_status_is_kept_exactly() -> None:
    """999 is 999."""
    async with talking(answer(b"HTTP/1.1 999 Whatever\r\ncontent-length: 0\r\n\r\n")) as (peer, sender):
        assert 999 == (await send(sender, peer.url)).status


@pytest.mark.fault(28)
async def test_bytes_after_a_response_poison_nothing() -> None:
    """A receiver cannot answer the next webhook in advance."""

    async def script(stream: anyio.abc.ByteStream, _: bytes) -> None:
        await stream.send(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n" + OK)

    async with talking(script) as (peer, sender):
        assert [500, 500] == [(await send(sender, peer.url)).status for _ in range(2)]
        assert 2 == peer.connections


@pytest.mark.fault(16)
async def test_a_redirect_is_an_answer_like_any_other() -> None:
    """Nothing is followed."""
    response = b"HTTP/1.1 308 Permanent Redirect\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"
    async with talking(answer(response)) as (peer, sender):
        exchange = await send(sender, peer.url)
        assert (308, 1) == (exchange.status, len(peer.requests))


@pytest.mark.fault(29)
async def test_cookies_are_not_kept() -> None:
    """What a receiver sets never comes back to it."""
    response = b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n"
    async with talking(answer(response)) as (peer, sender):
        await send(sender, peer.url)
        await send(sender, peer.url)
    assert b"cookie" not in peer.requests[1].lower()


@pytest.mark.fault(17)
async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY and its kin decide nothing."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with talking(answer(OK)) as (peer, sender):
        assert 200 == (await send(sender, peer.url)).status


@pytest.mark.fault(31)
async def test_an_early_answer_counts() -> None:
    """413 before the body was read is an answer; a reset without one is a failure."""

    async def script(stream: anyio.abc.ByteStream, _: bytes) -> None:
        await stream.send(b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")

    async with talking(script) as (peer, sender):
        assert 413 == (await send(sender, peer.url, b"x" * 100_000)).status

    async with talking(answer_and_close(b"")) as (peer, sender):
        exchange = await send(sender, peer.url)
    assert (None, "disconnected") == (exchange.status, exchange.outcome)


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    ("certificate", "reason"),
    [("expired", "tls_expired"), ("wrong-host", "tls_hostname"), ("self-signed", "tls_self_signed")],
)
async def test_each_bad_certificate_has_its_reason(certificate: str, reason: str) -> None:
    """An operator sees what is wrong with a receiver's certificate."""
    async with talking(answer(OK), tls=certificate) as (peer, sender):
        exchange = await send(sender, peer.url)
    assert (None, reason, []) == (exchange.status, exchange.outcome, peer.requests)


@pytest.mark.fault(32)
async def test_plain_http_behind_https_is_a_handshake_failure() -> None:
    """A receiver that does not speak TLS has a reason of its own."""

    async def hello(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, hello)
        sender = HttpSender(Client(Dialer(Resolver(LOOPBACK))))
        exchange = await send(sender, f"https://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/")
        group.cancel_scope.cancel()
    assert (None, "tls_handshake") == (exchange.status, exchange.outcome)


@pytest.mark.fault(11)
async def test_private_addresses_are_blocked_by_default() -> None:
    """Without a word from the operator, nothing on loopback is dialled: not one connection."""
    async with talking(answer(OK)) as (peer, _):
        sender = HttpSender(Client(Dialer(Resolver())), allow_http=True)
        exchange = await send(sender, peer.url)
        assert (None, "blocked_address", 0) == (exchange.status, exchange.outcome, peer.connections)


async def test_plain_http_is_refused_by_default() -> None:
    """Plain http has to be allowed."""
    exchange = await send(HttpSender(Client(Dialer(Resolver(LOOPBACK)))), "http://127.0.0.1:1/")
    assert (None, "bad_url") == (exchange.status, exchange.outcome)


async def test_a_refused_connection_is_named() -> None:
    """Nobody listening is a failure to connect."""
    sender = HttpSender(Client(Dialer(Resolver(LOOPBACK))), allow_http=True)
    exchange = await send(sender, "http://127.0.0.1:1/")
    assert (None, "connect") == (exchange.status, exchange.outcome)


@pytest.mark.fault(15)
async def test_a_name_that_does_not_resolve_is_named() -> None:
    """`.invalid` never resolves (RFC 6761)."""
    exchange = await send(HttpSender(Client(Dialer(Resolver()))), "https://receiver.invalid/", seconds=10)
    assert (None, "dns") == (exchange.status, exchange.outcome)


async def test_before_write_can_stop_the_first_byte() -> None:
    """The last check comes after connecting and before writing: nothing of the request is seen."""
    calls = 0

    async def never(_: bool) -> None:
        nonlocal calls
        calls += 1
        raise NotSentError

    async with talking(answer(OK)) as (peer, sender):
        with pytest.raises(NotSentError):
            await sender.send(Request(peer.url, (), b"{}", 5.0), never)
        assert ([], 1) == (peer.requests, calls)
        assert 200 == (await send(sender, peer.url)).status
        assert 1 == peer.connections  # which was kept: the next planned moment finds it warm
