"""Claims keep the lanes supplied, and leave room for others: a backlog of one tenant on a virtual clock."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest
import trio.testing

from worker.core.model import Claim, Delivery, Endpoint, Exchange, Outcome, Request
from worker.core.signing import SigningKey
from worker.pipeline.limits import Limits
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.ports import NOBODY, Avoid, Claimed

LANES = 64
PER_SECOND = 9_000.0
ROWS = 3
"""That an endpoint gives in a claim."""

HANGS_AT = 3.0
ENDPOINT = Endpoint(1, 1, "big", "http://127.0.0.1/", (), 15.0, (5.0,), (SigningKey(b"k" * 32),))
SMALL = replace(ENDPOINT, id=0, tenant="small")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """A clock that jumps to the next timer when nothing else is left to do."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Backlog:
    """A store with no end of deliveries for a big tenant's endpoints, and one every 0.1 s for a small tenant's only one."""

    def __init__(self, endpoints: int, small_from: float) -> None:
        self.empty = 0
        """Claims that brought nothing."""
        self._endpoints = [replace(ENDPOINT, id=1 + n) for n in range(endpoints)]
        self._small_at = small_from
        self._ids = self._turns = 0

    def _delivery(self, claim: Claim, endpoint: Endpoint) -> Delivery:
        self._ids += 1
        return Delivery(claim, self._ids, endpoint, 1, 0, None, self._ids, "text/plain", b"")

    async def claim(self, rows_max: int, bytes_max: int, avoid: Avoid = NOBODY, wait_seconds: float = 0.0) -> Claimed:  # noqa: ARG002 - the port's
        claim, found = Claim(1, 60.0, 0.0), []
        while self._small_at < anyio.current_time() and "small" not in avoid.tenants:
            found.append(self._delivery(claim, SMALL))
            self._small_at += 0.1
        big = "big" not in avoid.tenants
        for _ in range(len(self._endpoints) if big else 0):
            endpoint = self._endpoints[self._turns % len(self._endpoints)]
            self._turns += 1
            if endpoint.id not in avoid.endpoints:
                found += [self._delivery(claim, endpoint) for _ in range(min(ROWS, rows_max - len(found)))]
        self.empty += not found
        await anyio.sleep(0.01 + len(found) * 50e-6)
        return Claimed(anyio.current_time(), claim if found else None, found, big and bool(found))

    async def record(self, outcomes: Sequence[Outcome], now: float) -> int:  # noqa: ARG002 - the port's
        await anyio.sleep(0.004 + len(outcomes) * 20e-6)
        return len(outcomes)

    async def extend(self, claims: Sequence[int]) -> set[int]:
        return set(claims)

    async def plan_again(self, delivery: Delivery) -> float | None:
        raise NotImplementedError

    async def has_due(self) -> bool:
        return True


class Receivers:
    """All answer at once, so that the lanes could carry PER_SECOND; the big tenant's hang from a moment on."""

    def __init__(self, hang_at: float) -> None:
        self.small: list[float] = []
        self._hang_at = hang_at

    def lead_seconds(self, _url: str, _transport: str) -> float:
        return 0.0

    async def send(self, request: Request, before_write: Callable[[bool], Awaitable[None]]) -> Exchange:
        await before_write(False)
        assert request.delivery is not None
        if request.delivery.endpoint is SMALL:
            self.small.append(anyio.current_time())
        elif anyio.current_time() >= self._hang_at:
            await anyio.sleep(15)
            return Exchange(None, "timeout", "no answer")
        await anyio.sleep(LANES / PER_SECOND)
        return Exchange(200)

    async def aclose(self) -> None:
        """Nothing to close."""


async def deliver(store: Backlog, receivers: Receivers, *seconds: float) -> list[int]:
    """Have it delivered until the last of these moments; return how many deliveries were at each."""
    pipeline = Pipeline(store, receivers, Limits.for_lanes(LANES), "test", clock=anyio.current_time, chance=lambda: 0.5)
    delivered = []
    async with anyio.create_task_group() as group:
        group.start_soon(pipeline.run)
        for moment in seconds:
            await anyio.sleep_until(moment)
            delivered.append(pipeline.counts.delivered)
        group.cancel_scope.cancel()
    return delivered


async def test_a_backlog_of_one_tenant_leaves_no_lane_without_work() -> None:
    """Seven eighths of the lanes are for a tenant that is alone; they carry what they can, though claims leave it out."""
    store = Backlog(endpoints=100, small_from=100.0)
    before, after = await deliver(store, Receivers(100.0), 1.0, 3.0)
    assert store.empty > 20  # or this shows nothing
    assert after - before > 0.97 * 2.0 * PER_SECOND * 55 / LANES


@pytest.mark.parametrize("phase", [0, 3, 6])
async def test_a_backlog_that_hangs_leaves_room_for_others(phase: int) -> None:
    """When everything that a big tenant has in hand turns to hang at once, a small one's deliveries still find their way."""
    hangs_at = HANGS_AT + phase * 0.014
    receivers = Receivers(hangs_at)
    await deliver(Backlog(endpoints=2_000, small_from=2.0), receivers, hangs_at + 2.0)
    assert sum(hangs_at < at for at in receivers.small) >= 15  # of twenty
