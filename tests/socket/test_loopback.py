"""The small server of `dev` and the demo, with peers that close early, speak an older HTTP, or write nonsense."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest

from worker.dev.loopback import Posted, open_loopback, serve_loopback

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def serving(status: int = 204) -> AsyncIterator[tuple[str, list[Posted]]]:
    """Yield the URL of a server that answers so, and what it was sent."""
    came: list[Posted] = []

    async def answer(request: Posted) -> int:
        came.append(request)
        return status

    listener, url = await open_loopback()
    async with anyio.create_task_group() as group:
        group.start_soon(serve_loopback, listener, answer)
        yield url, came
        group.cancel_scope.cancel()


async def said(url: str, request: bytes) -> bytes:
    """Return all that is answered until the server closes the connection."""
    answer = b""
    async with await anyio.connect_tcp("127.0.0.1", httpx.URL(url).port or 0) as stream:
        await stream.send(request)
        with anyio.fail_after(10):
            try:
                while True:
                    answer += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return answer


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", [204]),
        (b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", [204]),
        (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", []),
        (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n", [204]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS \r\n\r\n", []),
        (b"GET / HTTP/1.1\r\n\r\n", []),  # no Host
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}no request\r\n\r\n", [204]),
    ],
)
async def test_whatever_comes_it_serves_on(request_: bytes, statuses: list[int]) -> None:
    """The connection ends, the server does not; nothing is printed as an error of its own."""
    async with serving() as (url, came):
        answer = await said(url, request_)
        async with httpx.AsyncClient(trust_env=False) as client:
            after = await client.post(url, content=b"after")
    assert statuses == [int(line.split()[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert 204 == after.status_code
    assert b"after" == came[-1].body


async def test_a_connect_that_is_refused_is_answered() -> None:
    """As `dev` does with what nobody has signed."""
    async with serving(401) as (url, _):
        answer = await said(url, b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_connection_is_used_again() -> None:
    async with serving() as (url, came):
        with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0)) as one:
            for _ in range(3):
                one.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
                answer = await anyio.to_thread.run_sync(one.recv, 65536)
                assert answer.startswith(b"HTTP/1.1 204 ")
    assert 3 == len(came)


async def test_a_peer_that_leaves_in_the_middle_is_nobodys_error() -> None:
    """In its head, in its body, or before it has read the answer."""
    async with serving() as (url, came):
        for text in (b"POST / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", GET):
            one = socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0))
            one.sendall(text)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            one.close()
        async with httpx.AsyncClient(trust_env=False) as client:
            assert 204 == (await client.post(url, content=b"after")).status_code
    assert b"after" == came[-1].body
