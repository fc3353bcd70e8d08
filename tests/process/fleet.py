"""Worker processes and a fast receiver, for the tests that need real ones."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import anyio

ROOT = Path(__file__).parents[2]


def pythons() -> list[str]:
    """The interpreters that workers run on: both runtimes where both environments are set up, else this one."""
    both = [ROOT / ".venv/bin/python", ROOT / ".venv-pypy/bin/python"]
    return [str(path) for path in both] if all(path.exists() for path in both) else [sys.executable]


@dataclass
class Arrival:
    """One request. `at` is monotonic seconds, when its last byte was read."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Receiver:
    """Answers 204 to everything, at once, or after `pause` seconds; keeps a log."""

    pause: float = 0.0
    arrivals: list[Arrival] = field(default_factory=list)
    port: int = 0

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Receiver"]:
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", self.port, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for connection in list(_Connection.open):
                connection.transport.abort()
            await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    open: "set[_Connection]" = set()  # noqa: RUF012 - all of them, to be closed at the end

    def __init__(self, receiver: Receiver) -> None:
        self.receiver, self.buffer = receiver, b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.open.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.open.discard(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            lines = self.buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            length = int(headers["content-length"])
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            self.receiver.arrivals.append(Arrival(lines[0].split(" ")[1], headers, body, time.monotonic()))
            if self.receiver.pause:
                asyncio.get_running_loop().call_later(self.receiver.pause, self._answer)
            else:
                self._answer()

    def _answer(self) -> None:
        self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")


class Worker:
    """One `webhook-worker run` process, of this release unless `root` is another's; `environment` is beside ours."""

    def __init__(
        self,
        dsn: str,
        *options: str,
        python: str = sys.executable,
        root: Path = ROOT,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [python, "-m", "worker", "run", *options],
            cwd=root,
            env={
                **os.environ,
                **(environment or {}),
                "DATABASE_URL": dsn,
                "WEBHOOK_WORKER_ALLOW_NETWORKS": "127.0.0.0/8",
                "WEBHOOK_WORKER_ALLOW_HTTP": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def wait(self, seconds: float = 30) -> tuple[int, str]:
        """Return the exit status and what it said."""
        with anyio.fail_after(seconds):
            _, said = await anyio.to_thread.run_sync(self.process.communicate, abandon_on_cancel=True)
        return self.process.returncode, said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        elif self.process.stderr:
            self.process.stderr.close()


_given_ports: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on, another one each time: the system may name one that it has just named."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = int(listener.getsockname()[1])
        if port not in _given_ports:
            _given_ports.add(port)
            return port


async def until(condition: Callable[[], object], seconds: float = 30, every: float = 0.05) -> None:
    """Wait until `condition()`, which may be async, is true; fail after so many seconds."""
    with anyio.fail_after(seconds):
        while True:
            result = condition()
            if isinstance(result, Awaitable):
                result = await result
            if result:
                return
            await anyio.sleep(every)
