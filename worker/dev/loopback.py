"""A small HTTP/1.1 server on the loopback interface: of `dev`, and of the demo's receivers. h11 comes with httpx."""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio
import anyio.abc
import h11

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Posted:
    """One request. The names of `headers` are in lower case; `at` is monotonic seconds, when its head had come."""

    headers: dict[str, str]
    body: bytes
    at: float


Answer = Callable[[Posted], Awaitable[int]]
"""Says with which status a request is answered."""

Listener = anyio.abc.Listener[anyio.abc.SocketStream]


async def open_loopback(port: int = 0) -> tuple[Listener, str]:
    """Listen on a port, 0 for any that is free; return the listener and its URL. OSError if the port is taken."""
    listener = await anyio.create_tcp_listener(local_host=HOST, local_port=port)
    return listener, f"http://{HOST}:{listener.extra(anyio.abc.SocketAttribute.local_port)}"  # noqa: S610 - a socket, no Django


async def serve_loopback(listener: Listener, answer: Answer) -> None:
    """Answer requests for ever."""

    async def converse(stream: anyio.abc.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        async with stream:
            # Whatever comes, only its own connection may end by it: the worker of `dev` is in the same group of tasks.
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream, h11.ProtocolError):
                while connection.our_state is h11.IDLE:
                    status = await answer(await _request(stream, connection))
                    response = h11.Response(status_code=status, headers=[("content-length", "0")])
                    await stream.send((connection.send(response) or b"") + (connection.send(h11.EndOfMessage()) or b""))
                    if connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:  # else it is the connection's last
                        connection.start_next_cycle()

    async with listener:
        await listener.serve(converse)


async def _request(stream: anyio.abc.SocketStream, connection: h11.Connection) -> Posted:
    headers: dict[str, str] = {}
    body = b""
    at = 0.0
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive())
        elif isinstance(event, h11.Request):
            at = time.monotonic()
            headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        elif isinstance(event, h11.Data):
            body += event.data
        else:  # the other side closed the connection
            raise anyio.EndOfStream
    return Posted(headers, body, at)
