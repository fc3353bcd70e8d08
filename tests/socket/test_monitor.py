"""The listener for metrics, with peers that are slow, many, or write nonsense. It answers others, and never falls."""

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from worker.core.model import Delivery, Exchange, Outcome, Request
from worker.pipeline.limits import Limits
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.ports import NOBODY, Avoid, Claimed
from worker.pipeline.tally import Tally
from worker.service import monitor as subject
from worker.service.health import Health
from worker.service.housekeeping import HouseCounts
from worker.service.measured import Measured
from worker.service.monitor import CONNECTIONS_MAX, HEAD_BYTES_MAX, monitor
from worker.service.sampler import Sampler
from worker.settings import ListenAddress
from worker.store.database import DatabaseUnavailableError
from worker.store.migrate import IncompatibleSchemaError, Schema

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


class Nothing:
    """A store and a sender that are never asked; and a database that says what it is told to."""

    def __init__(self) -> None:
        self.problem: Exception | None = None

    async def read_schema(self) -> Schema:
        if self.problem is not None:
            raise self.problem
        return Schema(1, "0.1.0", "abc", "")

    async def sample_queue(self) -> dict[str, Any]:
        raise NotImplementedError

    async def claim(self, rows_max: int, bytes_max: int, avoid: Avoid = NOBODY, wait_seconds: float = 0.0) -> Claimed:
        raise NotImplementedError

    async def record(self, outcomes: list[Outcome], now: float) -> int:
        raise NotImplementedError

    async def extend(self, claims: list[int]) -> set[int]:
        raise NotImplementedError

    async def plan_again(self, delivery: Delivery) -> float | None:
        raise NotImplementedError

    async def has_due(self) -> bool:
        raise NotImplementedError

    def lead_seconds(self, url: str, transport: str) -> float:
        raise NotImplementedError

    async def send(self, request: Request, before_write: Callable[[bool], Awaitable[None]]) -> Exchange:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


class Shown:
    """A monitor that runs, of a worker that does nothing."""

    def __init__(self) -> None:
        self.nothing, self.tally = Nothing(), Tally()
        self.pipeline = Pipeline(self.nothing, self.nothing, Limits(), "abc", tally=self.tally)  # type: ignore[arg-type]
        self.sampler = Sampler(self.nothing, lambda: 0)
        self.health = Health(self.nothing, self.pipeline)
        self.measured = Measured(self.pipeline, self.tally, HouseCounts(), self.sampler, self.health)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])

    async def ask(self, request: bytes = GET) -> bytes:
        """Send it, and return all that comes, after the monitor has begun to listen."""
        with anyio.fail_after(30):
            stream = await self.connect()
            async with stream:
                await stream.send(request)
                answer = b""
                try:
                    async for chunk in stream:
                        answer += chunk
                except anyio.BrokenResourceError:  # what we wrote beyond what was read resets the connection
                    pass
                return answer

    async def connect(self) -> anyio.abc.SocketStream:
        while True:
            try:
                return await anyio.connect_tcp("127.0.0.1", self.port)
            except OSError:
                await anyio.sleep(0.01)


@pytest.fixture
async def shown() -> AsyncIterator[Shown]:
    """A monitor that listens."""
    one = Shown()
    async with anyio.create_task_group() as group:
        group.start_soon(monitor, one.measured, ListenAddress("127.0.0.1", one.port))
        with anyio.fail_after(30):
            while 503 == status(await one.ask()):  # noqa: ASYNC110 - a thread imports what writes the text
                await anyio.sleep(0.01)
        yield one
        group.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await anyio.sleep(0.01)


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


async def test_it_answers_what_it_knows(shown: Shown) -> None:
    """A whole answer with its length, for GET; the same without its body for HEAD; a status that says what is wrong else."""
    answer = await shown.ask()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"webhook_worker_lanes 64.0\n" in body
    assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head
    assert head + b"\r\n\r\n" == await shown.ask(GET.replace(b"GET", b"HEAD"))
    assert 200 == status(await shown.ask(GET.replace(b"metrics", b"metrics?name[]=x")))
    assert 200 == status(await shown.ask(GET.replace(b"metrics", b"livez")))
    assert 404 == status(await shown.ask(GET.replace(b"metrics", b"")))
    assert 405 == status(await shown.ask(GET.replace(b"GET", b"POST")))
    assert 400 == status(await shown.ask(b"nonsense\r\n\r\n"))
    assert 431 == status(await shown.ask(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * HEAD_BYTES_MAX))


async def test_it_says_why_it_is_not_ready(shown: Shown) -> None:
    """The schema, the database, the drain: in words."""
    readyz = GET.replace(b"metrics", b"readyz")
    assert b"ready\n" == (await shown.ask(readyz)).partition(b"\r\n\r\n")[2]
    for problem, words in {
        IncompatibleSchemaError("migration 1 is needed"): b"not ready: the schema does not fit: migration 1 is needed\n",
        DatabaseUnavailableError("refused"): b"not ready: the database does not answer: refused\n",
    }.items():
        shown.nothing.problem = problem
        await shown.health.look()
        answer = await shown.ask(readyz)
        assert (503, words) == (status(answer), answer.partition(b"\r\n\r\n")[2])
    shown.pipeline.stop()
    assert b"not ready: draining: " in await shown.ask(readyz)


async def test_the_slow_make_room(shown: Shown) -> None:
    """More than may be connected write half a request, and wait: another one is answered at once all the same."""
    slow = [await shown.connect() for _ in range(2 * CONNECTIONS_MAX)]
    for stream in slow:
        await stream.send(b"GET /met")
    with anyio.fail_after(2):
        assert 200 == status(await shown.ask())
    for stream in slow:
        await stream.aclose()


async def test_a_slow_request_ends_at_its_deadline(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not prolong it."""
    monkeypatch.setattr(subject, "DEADLINE_SECONDS", 0.2)
    with anyio.fail_after(30):
        stream = await shown.connect()
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:  # until it is hung up, or this takes too long
                    await stream.send(b"x")
                    with anyio.move_on_after(0.02):
                        await stream.receive()


async def test_a_flood_takes_little_of_the_loop(shown: Shown) -> None:
    """A thousand connections that write nothing: the loop is never late by much, and who asks afterwards is answered."""
    await shown.ask()
    before = sum(shown.measured.loop_lag.counts)
    flood = [socket.socket() for _ in range(1000)]
    try:
        for one in flood:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", shown.port))
        await until(lambda: sum(shown.measured.loop_lag.counts) >= before + 4)
    finally:
        for one in flood:
            one.close()
    assert 200 == status(await shown.ask())
    late = shown.measured.loop_lag
    assert 0 == sum(count for bound, count in zip((*late.bounds, float("inf")), late.counts, strict=True) if bound > 1.0)


async def test_many_scrapes_are_computed_once(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is fresh, all get the same text."""
    monkeypatch.setattr(subject, "FRESH_SECONDS", 60.0)
    first = await shown.ask()
    shown.pipeline.counts.claimed += 1
    assert {first} == {await shown.ask() for _ in range(5)}


async def test_a_bug_in_what_is_shown_is_said_and_does_not_spread(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500 for who asked; the next question is answered again."""
    monkeypatch.setattr(subject, "FRESH_SECONDS", 0.0)
    with caplog.at_level(logging.ERROR), monkeypatch.context() as broken:
        broken.setattr(shown.measured, "house", None)
        assert 500 == status(await shown.ask())
    assert "a request could not be answered" in caplog.text
    assert 200 == status(await shown.ask())


@asynccontextmanager
async def taken(port: int) -> AsyncIterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


async def test_a_port_that_becomes_free_is_taken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once that it was taken, and tried again."""
    monkeypatch.setattr(subject, "LISTEN_AGAIN_SECONDS", 0.01)
    tries, listen = 0, anyio.create_tcp_listener

    async def counted(**options: Any) -> Any:
        nonlocal tries
        tries += 1
        return await listen(**options)

    monkeypatch.setattr(anyio, "create_tcp_listener", counted)
    one = Shown()
    async with anyio.create_task_group() as group:
        async with taken(one.port):
            group.start_soon(monitor, one.measured, ListenAddress("127.0.0.1", one.port))
            await until(lambda: "cannot listen on" in caplog.text)
            await until(lambda: tries >= 3)
        assert 200 == status(await one.ask(GET.replace(b"metrics", b"livez")))
        group.cancel_scope.cancel()
    assert 1 == caplog.text.count("cannot listen on")
