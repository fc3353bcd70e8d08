"""Our reading of responses beside h11's (both runtimes) and httptools', which is llhttp's (CPython): a differential fuzz.

Where the two agree that there is a response, ours is the same; and what we would use a connection again after, both of them
would. Where we differ on purpose is in `LEFT`: there a complete head counts for us, and the connection is closed.
"""

import re
import sys
from dataclasses import dataclass, field
from itertools import pairwise

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.http.head import ProtocolError
from worker.http.response import Response

if sys.implementation.name == "cpython":  # it has no build for PyPy
    import httptools


@dataclass
class Read:
    """What a reader made of some bytes. No `status`: none; `complete`: its end was seen; `reusable`: nothing after it."""

    status: int | None = None
    body: bytes = b""
    complete: bool = False
    reusable: bool = False
    note: str = ""
    informational: list[int] = field(default_factory=list)


def ours(data: bytes, cuts: list[int]) -> Read:
    """Read in pieces, then close."""
    response = Response(10_000, 10_000)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    over = False
    try:
        for start, end in pairwise(places):
            if over:
                response.reusable = False  # as the connection does
                break
            over = response.feed(data[start:end])
    except ProtocolError as error:
        return Read(note=str(error))
    if not over:
        response.end("closed", clean=True)
    return Read(response.status, response.body, response.complete, response.reusable, response.note or "")


def h11s(data: bytes) -> Read:
    """Read as httpx and httpcore do."""
    read = Read()
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    connection.send(h11.EndOfMessage())
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(b"")
                read.complete = False  # what ends now, ends with the connection
                event = connection.next_event()
                if isinstance(event, h11.EndOfMessage):
                    read.complete = True
                return read
            if isinstance(event, h11.InformationalResponse):
                read.informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                read.status = event.status_code
            elif isinstance(event, h11.Data):
                read.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                read.complete = True
                read.reusable = connection.their_state is h11.DONE and not connection.trailing_data[0]
                return read
            else:
                return read
    except h11.RemoteProtocolError as error:
        read.note = str(error)
        return read


class Llhttp:
    """Read as Node does, and uvicorn."""

    def __init__(self, data: bytes) -> None:
        self.read = Read()
        self._left = len(data)
        self._parser = httptools.HttpResponseParser(self)
        try:
            for number in range(len(data)):
                self._parser.feed_data(data[number : number + 1])
                self._left -= 1
                if self.read.complete:
                    break
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.read.note = str(error)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self.read.status = status
        else:
            self.read.informational.append(status)

    def on_body(self, body: bytes) -> None:
        self.read.body += body

    def on_message_complete(self) -> None:
        if self.read.status is not None:
            self.read.complete = True
            self.read.reusable = self._left == 1 and self._parser.should_keep_alive()


token = st.sampled_from(
    [b"\r\n", b"\n", b" ", b"\t", b":", b";", b",", b"\x00", b"\r", b"0", b"5", b"chunked", b"close", b"\xff", b"HTTP/1.1 "]
)
line_end = st.sampled_from([b"\r\n"] * 12 + [b"\n"])
status_line = st.one_of(
    st.sampled_from(
        [b"HTTP/1.1 200 OK"] * 5
        + [b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified", b"HTTP/1.0 200 OK", b"HTTP/1.1 500"]
    ),
    st.integers(0, 1100).map(lambda status: b"HTTP/1.1 %03d x" % status),
)
name = st.sampled_from([b"Content-Length", b"Transfer-Encoding", b"Connection", b"X", b"content-length", b"Retry-After"])
value = st.one_of(
    st.sampled_from(
        [
            b"0",
            b"2",
            b"5",
            b"5, 5",
            b"+5",
            b"-1",
            b"chunked",
            b"gzip, chunked",
            b"close",
            b"keep-alive",
            b"",
            b"identity",
            b"x y",
        ]
    ),
    st.binary(max_size=4),
)
header = st.tuples(name, st.sampled_from([b": ", b":", b" : ", b":\t"]), value).map(b"".join)
chunk = st.binary(max_size=6).flatmap(
    lambda data: st.sampled_from([b"%x\r\n%b\r\n", b"%x;a=b\r\n%b\r\n", b"%x \r\n%b\r\n", b"%x\n%b\r\n"]).map(
        lambda form: form % (len(data), data)
    )
)
body = st.one_of(st.binary(max_size=12), st.lists(chunk, max_size=3).map(lambda chunks: b"".join(chunks) + b"0\r\n\r\n"))


@st.composite
def response(draw: st.DrawFn) -> bytes:
    """Something like a response, perhaps with a few things put in or left out."""
    lines = [draw(status_line), *draw(st.lists(header, max_size=4))]
    data = b"".join(line + draw(line_end) for line in lines) + draw(line_end) + draw(body)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.one_of(token, st.just(b""))) + data[place + draw(st.integers(0, 2)) :]
    return (
        draw(st.sampled_from([b""] * 5 + [b"HTTP/1.1 100 Continue\r\n\r\n"]))
        + data
        + draw(st.sampled_from([b""] * 5 + [b"x", b"HTTP/1.1 "]))
    )


REFUSED = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n[ \t]")  # control characters, lines folded after LF alone
LEFT = "the body was not read"
"""Said where the length cannot be told: others call that no response."""


@settings(max_examples=2000)
@given(data=response(), cuts=st.lists(st.integers(0, 120), max_size=6))
@example(data=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", cuts=[])
def test_agrees(data: bytes, cuts: list[int]) -> None:
    """See above."""
    mine = ours(data, cuts)
    others = [h11s(data)] + ([Llhttp(data).read] if sys.implementation.name == "cpython" else [])
    assert_agreement(data, mine, others)


def assert_agreement(data: bytes, mine: Read, others: list[Read]) -> None:
    if any(101 in other.informational for other in others) or mine.status == 101:
        return  # to us it is an answer, if a useless one
    if mine.reusable:
        for other in others:
            assert (mine.status, mine.body, True, True) == (other.status, other.body, other.complete, other.reusable), (
                mine,
                other,
            )
    first = others[0]
    agreed = all((first.status, first.body, True) == (other.status, other.body, other.complete) for other in others)
    refused = LEFT in mine.note or (len(others) == 1 and REFUSED.search(data))  # as llhttp does, which is not here to ask
    if agreed and not refused:
        assert (first.status, first.body, True) == (mine.status, mine.body, mine.complete), (mine, others)
    if mine.complete and mine.status not in (204, 304):
        assert any(mine.status == other.status and mine.body == other.body for other in others), (mine, others)
