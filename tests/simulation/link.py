"""A process's way to the database: slow, lossy, or cut. What it asks for may be done and the answer lost, or be done late."""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import trio
from history import Brought, Failed, NotExtended, TakenBack
from network import REFUSED_BODY

from worker.core.model import Delivery, Outcome
from worker.core.retention import Retention
from worker.pipeline.ports import NOBODY, Avoid, Claimed, StoreError
from worker.store.database import QUERY_SECONDS_MAX

if TYPE_CHECKING:
    from process import Process
    from world import World

_T = TypeVar("_T")


class RefusedError(StoreError):
    """It is the content: the same call would fail again."""

    refused = True


class Link:
    """`worker.pipeline.ports.Store`, and what housekeeping needs, over a network."""

    def __init__(self, world: "World", process: "Process") -> None:
        self._world, self._process = world, process
        self._chance = random.Random(f"{world.scenario.seed} link {process.name}")

    async def claim(self, rows_max: int, bytes_max: int, avoid: Avoid = NOBODY, wait_seconds: float = 0.0) -> Claimed:
        """See the port."""
        world, store, asked = self._world, self._world.store, trio.current_time()

        async def ask() -> Claimed:
            return await world.claim(self._process, lambda: store.claim(rows_max, bytes_max, avoid))

        claimed = await self._call(ask)
        if claimed.claim is None and not claimed.more and wait_seconds:
            with trio.move_on_after(wait_seconds):
                await world.work_came.wait()
            waited = trio.current_time() - asked
            claimed = await self._call(ask)
            claimed.waited_seconds = waited  # Postgres waits within one call
        if claimed.claim is not None:
            world.log(Brought(*world.now(), self._process.name, claimed.claim.id))
        return claimed

    async def record(self, outcomes: Sequence[Outcome], now: float) -> int:
        """See the port."""
        world, batch = self._world, list(outcomes)

        async def ask() -> int:
            if (locked := world.locked_until - trio.current_time()) > 0:
                await trio.sleep(min(locked, QUERY_SECONDS_MAX))
                if locked > QUERY_SECONDS_MAX:
                    await self._fail("the record waited too long for a lock")
            if any(outcome.exchange.body == REFUSED_BODY for outcome in batch):
                raise RefusedError("words that no database takes")
            return await world.record(self._process, batch, lambda: world.store.record(batch, now))

        return await self._call(ask)

    async def extend(self, claims: Sequence[int]) -> set[int]:
        """See the port."""
        world = self._world
        try:
            kept = await self._call(lambda: world.extend(lambda: world.store.extend(claims)))
        except (StoreError, trio.Cancelled):
            world.log(NotExtended(*world.now(), self._process.name, tuple(claims)))
            raise
        for claim in claims:
            if claim not in kept:
                world.log(TakenBack(*world.now(), self._process.name, claim))
        return kept

    async def plan_again(self, delivery: Delivery) -> float | None:
        """See the port."""
        return await self._call(lambda: self._world.store.plan_again(delivery))

    async def has_due(self) -> bool:
        """See the port."""
        return await self._call(self._world.store.has_due)

    async def reap(self) -> int:
        """See `worker.service.housekeeping.House`."""
        return await self._call(lambda: self._world.reap(self._world.store.reap))

    async def maintain(self, _retention: Retention) -> dict[str, Any]:
        """Do nothing: neither retention, nor the reconcile, which would make good what should not have gone wrong."""
        await trio.lowlevel.checkpoint()
        return {}

    async def _call(self, work: Callable[[], Awaitable[_T]]) -> _T:
        world, process, chance = self._world, self._process, self._chance
        await process.thawed()
        await trio.sleep(self._latency())
        lose = 0.0 if world.mended else world.scenario.lose_replies
        fate = chance.random()
        if world.is_away(process) or fate < lose / 3:
            await self._fail("the database was not reached")
        if fate < lose * 2 / 3:
            world.later(process, chance.choice((0.01, 1.0, 10.0, 45.0)), work)
            await self._fail("the database answered too late")
        result = await work()
        await trio.sleep(self._latency())
        if world.is_away(process) or fate < lose:
            await self._fail("the database's reply was lost")
        await process.thawed()
        return result

    async def _fail(self, how: str) -> NoReturn:
        await trio.sleep(self._chance.choice((0.0, 0.1, 1.0)))
        await self._process.thawed()
        self._world.log(Failed(*self._world.now(), self._process.name, how))
        raise StoreError(how)

    def _latency(self) -> float:
        if not self._world.mended and self._chance.random() < self._world.scenario.hang_database:
            return self._chance.choice((self._chance.uniform(0.5, 3.0), self._chance.uniform(5.0, QUERY_SECONDS_MAX - 2)))
        return self._chance.choice((0.0002, 0.0005, 0.002, 0.01))
