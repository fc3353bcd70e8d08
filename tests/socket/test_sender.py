"""The sender against real sockets, plain and TLS, that behave as receivers on the internet do."""

import anyio
import anyio.abc
import httpx
import pytest
from peer import CERTIFICATES, LOOPBACK, OK, answer, no_files, send, talking

from worker.core.model import Request
from worker.http.client import Client
from worker.http.dial import Dialer
from worker.http.foreign import ForeignSender
from worker.http.resolver import Resolver
from worker.http.sender import HttpSender
from worker.pipeline.ports import NotSentError, OutOfFilesError


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


@pytest.mark.fault(17)
async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY and its kin decide nothing."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with talking(answer(OK)) as (peer, sender):
        assert 200 == (await send(sender, peer.url)).status


@pytest.mark.fault(17)
async def test_authorities_of_the_environment_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE and its kin decide nothing: whoever sets a worker's environment cannot make it trust an authority."""
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(CERTIFICATES / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(CERTIFICATES))
    sender = HttpSender(Client(Dialer(Resolver(LOOPBACK))))
    async with talking(answer(OK), tls="good") as (peer, _):
        exchange = await send(sender, peer.url)
        await sender.aclose()
    assert (None, []) == (exchange.status, peer.requests)
    assert exchange.outcome.startswith("tls_")


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


@pytest.mark.fault(59)
@pytest.mark.parametrize("tls", [None, "good"])
async def test_want_of_files_is_no_attempt(tls: str | None) -> None:
    """Without a file to spare no connection can be made, which is nobody else's fault; one that was kept still serves."""
    async with talking(answer(OK), tls=tls) as (peer, sender):
        await anyio.wait_all_tasks_blocked()  # the peer waits for connections: to begin to wait takes a file
        with no_files():
            for url in (peer.url, peer.url.replace("localhost", "127.0.0.1")):
                with pytest.raises(OutOfFilesError):
                    await send(sender, url)
        assert 200 == (await send(sender, peer.url)).status
        with no_files():
            assert 200 == (await send(sender, peer.url)).status
        assert 1 == peer.connections


@pytest.mark.fault(59)
async def test_want_of_files_under_a_foreign_transport() -> None:
    """The same for any httpx transport that says so."""
    sender = ForeignSender(httpx.AsyncHTTPTransport(), allow_http=True)
    with no_files(), pytest.raises(OutOfFilesError):
        await send(sender, "http://127.0.0.1:1/")
    await sender.aclose()


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
