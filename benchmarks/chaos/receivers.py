"""Receivers in a process of their own, which write down every request as soon as it is answered.

    python -m benchmarks.chaos.receivers ADDRESS LOG KEY PREFIX

Prints its port. A path is /BEHAVIOUR/ENDPOINT; `moody` has its hours, until SIGUSR1. A line of the log has: the event's id,
or 0 for another database's; the endpoint; when the request had arrived and when it was answered, in Unix seconds; the SHA-256
of the body; whether its signature was valid, by the public package `standardwebhooks`; and the status of the answer.
"""

import asyncio
import hashlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple, cast

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

SLOW_SECONDS, UNHURRIED_SECONDS, LAZY_SECONDS = 0.1, 0.5, 1.0
MOODS: Sequence[tuple[str, float]] = (("well", 14.0), ("500", 1.0), ("overloaded", 1.0), ("lazy", 2.0))

_EPOCH = time.time() - time.monotonic()
"""Unix time that goes on evenly."""


class Answer(NamedTuple):
    """What a receiver says, and after how long."""

    status: int
    seconds: float = 0.0
    headers: bytes = b""
    closes: bool = False


ANSWERS = {
    "well": Answer(200),
    "slow": Answer(200, SLOW_SECONDS),
    "unhurried": Answer(200, UNHURRIED_SECONDS),
    "lazy": Answer(200, LAZY_SECONDS),
    "closes": Answer(200, headers=b"Connection: close\r\n", closes=True),
    "500": Answer(500),
    "overloaded": Answer(429, headers=b"Retry-After: 1\r\n"),
}


class Book:
    """The log, and what signatures are judged by."""

    def __init__(self, log: IO[str], key: str, prefix: str) -> None:
        self._log, self._webhook, self._prefix = log, Webhook(key), f"msg_{prefix}_"

    def judge(self, headers: dict[str, str], body: bytes) -> bool:
        """Whether it is signed, for this moment."""
        try:
            self._webhook.verify(body, headers)
        except WebhookVerificationError:
            return False
        return True

    def write(self, path: str, headers: dict[str, str], body: bytes, at: float, answer: Answer) -> None:
        """Add a request, now that it is answered."""
        message = headers.get("webhook-id", "")
        event = message.removeprefix(self._prefix) if message.startswith(self._prefix) else "0"
        digest, signed = hashlib.sha256(body).hexdigest(), int(self.judge(headers, body))
        endpoint = path.rpartition("/")[2]
        self._log.write(f"{event} {endpoint} {at:.6f} {_now():.6f} {digest} {signed} {answer.status}\n")
        self._log.flush()


class Connection(asyncio.Protocol):
    """One connection. Requests on it are answered in turn."""

    moods = MOODS

    def __init__(self, book: Book) -> None:
        self._book, self._buffer = book, b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer what is whole."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            lines = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            whole = end + 4 + int(headers["content-length"])
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            self._meet(lines[0].split(" ")[1], headers, body)

    def _meet(self, path: str, headers: dict[str, str], body: bytes) -> None:
        at = _now()
        behaviour = path.split("/")[1]
        answer = ANSWERS[_mood(self.moods, at) if behaviour == "moody" else behaviour]

        def respond() -> None:
            self._book.write(path, headers, body, at, answer)
            self._transport.write(b"HTTP/1.1 %d Said\r\n%sContent-Length: 0\r\n\r\n" % (answer.status, answer.headers))
            if answer.closes:
                self._transport.close()

        if answer.seconds:
            asyncio.get_running_loop().call_later(answer.seconds, respond)
        else:
            respond()


def _mood(moods: Sequence[tuple[str, float]], at: float) -> str:
    """Return which of these, each with its seconds in turn, it is at a moment."""
    into = at % sum(seconds for _, seconds in moods)
    ends = itertools.accumulate(seconds for _, seconds in moods)
    return next(mood for (mood, _), end in zip(moods, ends, strict=True) if into < end)


def _be_well() -> None:
    Connection.moods = MOODS[:1]


def _now() -> float:
    return _EPOCH + time.monotonic()


async def main(address: str, log: str, key: str, prefix: str) -> None:
    """Serve until SIGTERM."""
    with suppress(PermissionError):  # it is the clock of the limits: it should not wait for a processor
        os.nice(-15)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, _be_well)
    with Path(log).open("a") as file:  # noqa: ASYNC230 - at the start
        book = Book(file, key, prefix)
        server = await loop.create_server(lambda: Connection(book), address, 0, backlog=10_000)
        print(server.sockets[0].getsockname()[1], flush=True)
        await stop.wait()
        server.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
