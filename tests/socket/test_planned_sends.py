"""Planned sends over connections that take their time."""

import time
from collections.abc import Iterable
from typing import Any

import anyio
import anyio.abc
import httpcore
import pytest
from test_sender import LOOPBACK, OK, Peer, answer

from worker.core.audit import worst_excess
from worker.http.dial import GuardedBackend
from worker.http.sender import HttpxSender
from worker.http.transport import KeepAliveTransport
from worker.pipeline.limits import Limits
from worker.pipeline.pipeline import Pipeline
from worker.store.memory import MemoryStore

RATE = 5.0


class FarBackend(GuardedBackend):
    """Every connection takes 150 ms to make, as TLS to another continent does."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        await anyio.sleep(0.15)
        return await super().connect_tcp(host, port, timeout, local_address, socket_options)


@pytest.mark.fault(62)
@pytest.mark.parametrize("keep", [True, False], ids=["keep-alive", "closing"])
async def test_slow_connections_keep_their_moments(keep: bool) -> None:
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
        sender = HttpxSender(KeepAliveTransport(FarBackend(LOOPBACK)), allow_http=True)
        store.add_endpoint(peer.url, rate=RATE, burst=1)
        for _ in range(8):
            store.enqueue("a", b"{}")
        pipeline = Pipeline(store, sender, Limits(concurrency=4), "test", once=True)
        with anyio.fail_after(10):
            await pipeline.run()
        await sender.aclose()
        group.cancel_scope.cancel()
    assert 8 == len(arrived) == pipeline.counts.delivered
    assert worst_excess(arrived, RATE, 1) <= 0
