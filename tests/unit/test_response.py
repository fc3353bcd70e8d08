"""Responses as they come: whole, in pieces, wrong."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.http.head import HEAD_BYTES_MAX, ProtocolError, headers
from worker.http.response import Response

BODY_MAX, KEPT_MAX = 200, 20


def read(*pieces: bytes) -> tuple[Response, int]:
    """Feed pieces until it is over; return how many were needed, 0 if it was never over."""
    response = Response(BODY_MAX, KEPT_MAX)
    for number, piece in enumerate(pieces, 1):
        if response.feed(piece):
            return response, number
    return response, 0


WHOLE = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", True),
    (b"HTTP/1.1 200 OK\r\ncontent-length:2 \t\r\nX: y\r\n\r\nok", 200, b"ok", True),
    (b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", 200, b"", True),
    (b"HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n", 200, b"", True),
    (b"HTTP/1.1 204 No\r\n\r\n", 204, b"", True),
    (b"HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n", 204, b"", True),
    (b"HTTP/1.1 304 No\r\ncontent-length: 5\r\n\r\n", 304, b"", True),
    (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, b"ok", False),
    (b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length:\r\n 2\r\n\r\nok", 200, b"ok", True),
    (b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 103 X\r\nL: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", True),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, b"ok", True),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1;a=b\r\no\r\n001\r\nk\r\n0\r\nT: x\r\n\r\n", 200, b"ok", True),
    (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False),
    (b"HTTP/1.1 200 OK\r\nConnection: keep-alive, Close\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False),
    (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", 200, b"ok", False),
    (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", 101, b"", False),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, b"ok", False),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n", 200, b"ok", False),
    (b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\n", 204, b"", False),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nmore", 200, b"ok", False),
]  # fmt: skip


@pytest.mark.parametrize(("data", "status", "body", "reusable"), WHOLE)
def test_whole(data: bytes, status: int, body: bytes, reusable: bool) -> None:
    """What it says, where it ends, and whether another may follow it."""
    response, pieces = read(data)
    assert (status, body, reusable, True, None, 1) == (
        response.status, response.body, response.reusable, response.complete, response.note, pieces,
    )  # fmt: skip


@pytest.mark.parametrize(("data", "status", "body", "reusable"), WHOLE)
@given(cuts=st.lists(st.integers(0, 250)))
def test_in_pieces(data: bytes, status: int, body: bytes, reusable: bool, cuts: list[int]) -> None:
    """However it is cut, it is the same response. What comes after its end is a piece that is not asked for."""
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    response, pieces = read(*(data[a:b] for a, b in pairwise(places)))
    assert (status, body, None) == (response.status, response.body, response.note)
    assert reusable is response.reusable or pieces < len(places) - 1


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: -1", b"Content-Length: +2", b"Content-Length: 2\r\nContent-Length: 3", b"Content-Length: 2, 3",
        b"Content-Length: 0x2", b"Content-Length: 1e1", b"Content-Length:", b"Content-Length: " + b"9" * 19,
        "Content-Length: ٣".encode(), b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity",
        b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: xchunked",
    ],
)  # fmt: skip
def test_a_length_that_cannot_be_told(fields: bytes) -> None:
    """The status counts, the rest is left, and the connection with it."""
    response, pieces = read(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\nok")
    assert (200, b"", False, False, 1) == (response.status, response.body, response.reusable, response.complete, pieces)
    assert "the body was not read" in (response.note or "")


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n", b"\r\nHTTP/1.1 200 OK\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.2 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 000 No\r\n\r\n", b"HTTP/1.1 099 No\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", b"HTTP/1.1 200 OK\r\nspace : x\r\n\r\n", b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n fold: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n", b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n",
    ],
)  # fmt: skip
def test_no_response(data: bytes) -> None:
    """What is not the head of a response is an error as soon as it can be told, also when it comes byte by byte."""
    with pytest.raises(ProtocolError):
        read(data)
    with pytest.raises(ProtocolError):
        read(*(data[n : n + 1] for n in range(len(data))))


@pytest.mark.fault(21)
@pytest.mark.parametrize("filler", [b"x: " + b"a" * 1000, b"x: y\r\n", b"a"])
def test_a_head_that_does_not_end(filler: bytes) -> None:
    """Memory is bounded, and a head that is too long is none, even if it comes whole."""
    response = Response(BODY_MAX, KEPT_MAX)
    response.feed(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(ProtocolError, match="longer than"):  # noqa: PT012 - at some time
        for _ in range(HEAD_BYTES_MAX):
            response.feed(filler)
    with pytest.raises(ProtocolError, match="longer than"):
        read(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (HEAD_BYTES_MAX // 6) + b"\r\n")


@pytest.mark.parametrize(
    ("body", "note"),
    [
        (b"x\r\n", "malformed"), (b"-1\r\n", "malformed"), (b"0x1\r\n", "malformed"), (b"1" * 17 + b"\r\n", "malformed"),
        (b"1\n", "malformed"),
        (b"\r\n", "malformed"), (b"1\r\nab\r\n", "longer than it said"), (b"1\r\na\n", "longer than it said"),
        (b"0\r\nno colon\r\n\r\n", "malformed"),
        (b"1;" + b"x" * 70_000, "extensions"), (b"0\r\n" + b"a: b\r\n" * 20_000, "trailers"),
        (b"0\r\na: " + b"b" * 70_000, "trailers"),
        (b"1;x=1234567890\r\na\r\n" * 10_000, "extensions"),
    ],
)  # fmt: skip
def test_chunks_that_cannot_be_read(body: bytes, note: str) -> None:
    """The status counts; where the body ends is not known, so the connection is not used again."""
    response = Response(1_000_000, KEPT_MAX)
    response.feed(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert response.feed(body)
    assert note in (response.note or "")
    assert not response.reusable


@pytest.mark.fault(23)
@pytest.mark.parametrize(
    "start",
    [b"Content-Length: 1000\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"],
    ids=["length", "close", "chunks"],
)
def test_a_long_body(start: bytes) -> None:
    """It is read so far, kept so far, and then left."""
    response = Response(BODY_MAX, KEPT_MAX)
    assert not response.feed(b"HTTP/1.1 200 OK\r\n" + start)
    assert not response.feed(b"x" * BODY_MAX)
    assert response.feed(b"x")
    assert (b"x" * KEPT_MAX, False, False) == (response.body, response.reusable, response.complete)
    assert f"longer than {BODY_MAX} bytes" in (response.note or "")


@pytest.mark.fault(27)
def test_ends() -> None:
    """A body that ends with the connection is complete, one that was cut off is noted, and without a head there is nothing."""
    until_close, _ = read(b"HTTP/1.1 200 OK\r\n\r\nok")
    assert until_close.end("closed", clean=True)
    assert (b"ok", True, None) == (until_close.body, until_close.complete, until_close.note)
    cut, _ = read(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok")
    assert cut.end("closed", clean=True)
    assert (b"ok", False, "the response ended early: closed") == (cut.body, cut.complete, cut.note)
    assert not read(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n")[0].end("closed", clean=True)
    assert not read(b"HTTP/1.1 100 Continue\r\n\r\n")[0].end("closed", clean=True)


def test_fields() -> None:
    """As they came, in order, unfolded; Retry-After is at hand."""
    response, _ = read(b"HTTP/1.1 503 No\r\nA: b\r\n  c \r\nrEtry-aFter: Wed, 21 Oct 2015 07:28:00 GMT\r\nA: \xe9\r\n\r\n")
    assert [(b"A", b"b c"), (b"rEtry-aFter", b"Wed, 21 Oct 2015 07:28:00 GMT"), (b"A", b"\xe9")] == headers(response.fields)
    assert b"Wed, 21 Oct 2015 07:28:00 GMT" == response.retry_after
