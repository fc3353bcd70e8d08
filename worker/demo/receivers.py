"""Receivers of five kinds, on sockets of their own. They verify every signature with the public `standardwebhooks` package."""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import anyio.abc
import h11
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

Behaviour = Callable[[], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request as a receiver saw it. `at` is monotonic seconds."""

    message_id: str
    body: str
    status: int
    at: float


@dataclass
class Receiver:
    """A local HTTP server that keeps a log. `behave` says what it answers; 2xx means accepted."""

    behave: Behaviour
    key: str = ""
    arrivals: list[Arrival] = field(default_factory=list)
    bad_signatures: int = 0
    url: str = ""

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen on a free port of the loopback interface, for ever."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - a socket, no Django
        self.url = f"http://127.0.0.1:{port}/webhooks"
        async with listener:
            task_status.started()
            await listener.serve(self._converse)

    async def _converse(self, stream: anyio.abc.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        async with stream:
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream, h11.RemoteProtocolError):
                while True:
                    await self._exchange(stream, connection)
                    connection.start_next_cycle()

    async def _exchange(self, stream: anyio.abc.SocketStream, connection: h11.Connection) -> None:
        headers: dict[str, str] = {}
        body = b""
        at = 0.0
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive())
            elif isinstance(event, h11.Request):
                at = time.monotonic()
                headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            else:  # the worker closed the connection
                raise anyio.EndOfStream
        status = await self._judge(headers, body, at)
        response = h11.Response(status_code=status, headers=[("content-length", "0")])
        await stream.send((connection.send(response) or b"") + (connection.send(h11.EndOfMessage()) or b""))

    async def _judge(self, headers: dict[str, str], body: bytes, at: float) -> int:
        try:
            Webhook(self.key).verify(body, headers)
        except (WebhookVerificationError, ValueError):
            self.bad_signatures += 1
            return 401
        status = await self.behave()
        self.arrivals.append(Arrival(headers["webhook-id"], body.decode(), status, at))
        return status


def healthy() -> Behaviour:
    """Answer 204 at once."""

    async def behave() -> int:
        return 204

    return behave


def flaky(chance: Callable[[], float]) -> Behaviour:
    """Answer 500 half of the time."""

    async def behave() -> int:
        return 500 if chance() < 0.5 else 204

    return behave


def slow(seconds: float) -> Behaviour:
    """Answer 204 after a while."""

    async def behave() -> int:
        await anyio.sleep(seconds)
        return 204

    return behave


def gone() -> Behaviour:
    """Answer 410: do not come back."""

    async def behave() -> int:
        return 410

    return behave
