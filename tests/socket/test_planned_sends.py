"""Planned sends over connections that take their time."""

import time
from collections.abc import Callable

import anyio
import anyio.abc
import pytest
from peer import LOOPBACK, OK, Peer, answer
from stalls import Stalls

from worker.core.audit import worst_excess
from worker.http.client import Client
from worker.http.connection import Connection
from worker.http.dial import Dialer
from worker.http.pool import Origin
from worker.http.resolver import Resolver
from worker.http.sender import HttpSender
from worker.pipeline.limits import Limits
from worker.pipeline.pipeline import Pipeline
from worker.store.memory import MemoryStore

pytestmark = pytest.mark.alone

RATE = 5.0


class FarDialer(Dialer):
    """Every connection takes 150 ms to make, as TLS to another continent does."""

    async def dial(self, origin: Origin, lost: Callable[[Connection], None], deadline: float) -> Connection:
        await anyio.sleep(0.15)
        connection = await super().dial(origin, lost, deadline)
        assert origin.dial_seconds is not None
        origin.dial_seconds += 0.15
        return connection


@pytest.mark.fault(62)
@pytest.mark.parametrize("keep", [True, False], ids=["keep-alive", "closing"])
async def test_slow_connections_keep_their_moments(keep: bool, stalls: Stalls) -> None:
    """Dialling begins before the planned moment, so that a far receiver with a limit gets its webhooks, at its rate."""
    closing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
    arrived: list[float] = []

    async def script(stream: anyio.abc.ByteStream, body: bytes) -> None:
        arrived.append(time.monotonic())
        await answer(OK if keep else closing)(stream, body)
        if not keep:
            raise anyio.EndOfStream

    store = MemoryStore(time.time)
    peer = Peer(script)
    async with anyio.create_task_group() as group:
        await group.start(peer.serve)
        sender = HttpSender(Client(FarDialer(Resolver(LOOPBACK))), allow_http=True)
        store.add_endpoint(peer.url, rate=RATE, burst=1)
        for _ in range(8):
            store.enqueue("a", b"{}")
        pipeline = Pipeline(store, sender, Limits(concurrency=4), "test", once=True)
        with anyio.fail_after(10):
            await pipeline.run()
        await sender.aclose()
        group.cancel_scope.cancel()
    assert 8 == len(arrived) == pipeline.counts.delivered
    assert worst_excess(arrived, RATE, 1) <= RATE * stalls.measured()


@pytest.mark.fault(36)
@pytest.mark.fault(62)
async def test_what_is_written_again_counts_in_the_rate(stalls: Stalls) -> None:
    """A receiver that closes every kept connection under the next request gets no more requests than its rate allows."""
    arrived: list[float] = []

    async def script(stream: anyio.abc.ByteStream, body: bytes) -> None:
        arrived.append(time.monotonic())
        if stream in answered:
            raise anyio.EndOfStream
        answered.append(stream)
        await answer(OK)(stream, body)

    answered: list[anyio.abc.ByteStream] = []
    store = MemoryStore(time.time)
    peer = Peer(script)
    async with anyio.create_task_group() as group:
        await group.start(peer.serve)
        sender = HttpSender(Client(Dialer(Resolver(LOOPBACK))), allow_http=True)
        store.add_endpoint(peer.url, rate=RATE, burst=2)
        for _ in range(6):
            store.enqueue("a", b"{}")
        pipeline = Pipeline(store, sender, Limits(concurrency=4), "test", once=True)
        with anyio.fail_after(10):
            await pipeline.run()
        await sender.aclose()
        group.cancel_scope.cancel()
    counts = pipeline.counts
    assert 6 == counts.delivered + counts.retried  # those for which the rate had no other moment soon
    assert counts.delivered >= 4
    assert len(arrived) > 6
    assert worst_excess(arrived, RATE, 2) <= RATE * stalls.measured()
