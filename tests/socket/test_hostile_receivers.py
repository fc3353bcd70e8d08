"""Receivers that misbehave, each over plain and over TLS connections: rows 16 to 31 of the table of faults."""

import anyio
import anyio.abc
import pytest
from peer import OK, answer, answer_and_close, drip, send, talking


@pytest.fixture(params=[None, "good"], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> str | None:
    """Return the name of a certificate, or none."""
    certificate: str | None = request.param
    return certificate


@pytest.mark.fault(19)
async def test_dribbled_headers_meet_the_deadline(tls: str | None) -> None:
    """One deadline covers the whole attempt, however busy the receiver keeps the line."""
    async with talking(drip(b"HTTP/1.1 200 OK\r\nx: ", b"a"), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url, seconds=0.3)
    assert (None, "timeout") == (exchange.status, exchange.outcome)


@pytest.mark.fault(27)
async def test_a_success_that_drips_its_body_is_a_success(tls: str | None) -> None:
    """A complete 2xx head decides; that the body never ended is a note."""
    async with talking(drip(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", b"a"), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url, seconds=0.3)
        assert (200, True) == (exchange.status, "deadline" in (exchange.error or ""))
        await send(sender, peer.url, seconds=0.3)
        assert 2 == peer.connections


@pytest.mark.fault(27)
async def test_a_truncated_body_is_a_note(tls: str | None) -> None:
    """200 and then the connection closes too early: delivered, with a note, and the connection is gone."""
    async with talking(answer_and_close(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url)
    assert (200, b"abc", True) == (exchange.status, exchange.body, bool(exchange.error))


@pytest.mark.fault(20)
async def test_endless_informational_responses_are_no_answer(tls: str | None) -> None:
    """A few 100 Continue are waited through, until the deadline; a flood of them is a protocol error."""
    async with talking(drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url, seconds=0.2)
        assert (None, "timeout") == (exchange.status, exchange.outcome)
    async with talking(answer(b"HTTP/1.1 100 Continue\r\n\r\n" * 21), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url)
        assert (None, "protocol_error") == (exchange.status, exchange.outcome)


@pytest.mark.fault(20)
@pytest.mark.fault(23)
async def test_an_endless_body_is_cut_at_64_kib(tls: str | None) -> None:
    """Neither the line nor the memory is theirs: the first KiB is kept, 64 KiB are read, the connection is closed."""

    async def script(stream: anyio.abc.ByteStream, _: bytes) -> None:
        await stream.send(b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await stream.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    async with talking(script, tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url)
        assert (500, 1024) == (exchange.status, len(exchange.body))
        assert "65536" in (exchange.error or "")
        await send(sender, peer.url)
        assert 2 == peer.connections


@pytest.mark.fault(21)
@pytest.mark.parametrize("head", [b"x: " + b"a" * 300_000, b"a: b\r\n" * 60_000], ids=["one long", "many"])
async def test_a_flood_of_headers_is_a_protocol_error(tls: str | None, head: bytes) -> None:
    """A head that does not end is given up, with memory bounded."""
    async with talking(answer(b"HTTP/1.1 200 OK\r\n" + head), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url)
    assert (None, "protocol_error") == (exchange.status, exchange.outcome)


@pytest.mark.fault(22)
async def test_nothing_is_ever_decoded(tls: str | None) -> None:
    """A body that says it is gzip is kept as the bytes it is."""
    response = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 8\r\n\r\nnot gzip"
    async with talking(answer(response), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url)
    assert (200, b"not gzip", None) == (exchange.status, exchange.body, exchange.error)


@pytest.mark.fault(24)
@pytest.mark.parametrize("response", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 000 No\r\n\r\n", b"\x00\x01\x02\r\n\r\n"])
async def test_garbage_is_a_protocol_error(tls: str | None, response: bytes) -> None:
    """What is not HTTP is a failure with a name."""
    async with talking(answer(response), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url)
    assert (None, "protocol_error") == (exchange.status, exchange.outcome)


@pytest.mark.fault(25)
async def test_an_odd_status_is_kept_exactly(tls: str | None) -> None:
    """999 is 999."""
    async with talking(answer(b"HTTP/1.1 999 Whatever\r\ncontent-length: 0\r\n\r\n"), tls=tls) as (peer, sender):
        assert 999 == (await send(sender, peer.url)).status


@pytest.mark.fault(28)
async def test_bytes_after_a_response_poison_nothing(tls: str | None) -> None:
    """A receiver cannot answer the next webhook in advance."""

    async def script(stream: anyio.abc.ByteStream, _: bytes) -> None:
        await stream.send(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n" + OK)

    async with talking(script, tls=tls) as (peer, sender):
        assert [500, 500] == [(await send(sender, peer.url)).status for _ in range(2)]
        assert 2 == peer.connections


@pytest.mark.fault(16)
async def test_a_redirect_is_an_answer_like_any_other(tls: str | None) -> None:
    """Nothing is followed."""
    response = b"HTTP/1.1 308 Permanent Redirect\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"
    async with talking(answer(response), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url)
        assert (308, 1) == (exchange.status, len(peer.requests))


@pytest.mark.fault(29)
async def test_cookies_are_not_kept(tls: str | None) -> None:
    """What a receiver sets never comes back to it."""
    response = b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n"
    async with talking(answer(response), tls=tls) as (peer, sender):
        await send(sender, peer.url)
        await send(sender, peer.url)
    assert b"cookie" not in peer.requests[1].lower()


@pytest.mark.fault(31)
async def test_an_early_answer_counts(tls: str | None) -> None:
    """413 before the body was read is an answer; a reset without one is a failure."""

    async def script(stream: anyio.abc.ByteStream, _: bytes) -> None:
        await stream.send(b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")

    async with talking(script, tls=tls) as (peer, sender):
        assert 413 == (await send(sender, peer.url, b"x" * 100_000)).status

    async with talking(answer_and_close(b""), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url)
    assert (None, "disconnected") == (exchange.status, exchange.outcome)


@pytest.mark.fault(21)
async def test_an_endless_chunk_extension_is_given_up(tls: str | None) -> None:
    """The head was complete, so its status counts; what follows is not read for ever."""
    response = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;" + b"a" * 200_000
    async with talking(answer(response), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url)
        assert (200, True) == (exchange.status, bool(exchange.error))
        await send(sender, peer.url)
        assert 2 == peer.connections


@pytest.mark.fault(24)
async def test_another_protocol_is_not_switched_to(tls: str | None) -> None:
    """101 is no success, and its connection is closed."""
    response = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"
    async with talking(answer(response), tls=tls) as (peer, sender):
        assert [101, 101] == [(await send(sender, peer.url)).status for _ in range(2)]
        assert 2 == peer.connections


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"content-length: 2\r\ncontent-length: 3\r\n\r\nok",
        b"content-length: -2\r\n\r\nok",
    ],
    ids=["both", "two lengths", "negative"],
)
async def test_an_ambiguous_length_costs_the_connection(tls: str | None, framing: bytes) -> None:
    """The head decides; where the body ends nobody knows, so nothing else is read from there."""
    async with talking(answer(b"HTTP/1.1 200 OK\r\n" + framing), tls=tls) as (peer, sender):
        assert [200, 200] == [(await send(sender, peer.url)).status for _ in range(2)]
        assert 2 == peer.connections


@pytest.mark.fault(30)
async def test_a_body_is_kept_as_it_came(tls: str | None) -> None:
    """NUL, Latin-1 and half a character of UTF-8 are the store's to escape."""
    body = b"\x00caf\xe9\xe2\x82"
    async with talking(answer(b"HTTP/1.1 500 No\r\ncontent-length: 7\r\n\r\n" + body), tls=tls) as (peer, sender):
        exchange = await send(sender, peer.url)
    assert (500, body, None) == (exchange.status, exchange.body, exchange.error)
