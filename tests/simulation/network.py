"""A process's way to the receivers, and what these do."""

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

import trio
from history import Answered, Written
from scenario import Behaviour, EndpointPlan

from worker.core.model import Delivery, Exchange, Request
from worker.pipeline.ports import NotSentError, OutOfFilesError

if TYPE_CHECKING:
    from functools import partial

    from process import Process
    from world import World

MESSAGE_ID_PREFIX = "sim"

RETRY_AFTER_SECONDS = 8

REFUSED_BODY = b"words that no database takes"

_STATUS = {"ok": 200, "slow": 200, "stale": 200, "odd": 200, "fail": 500, "busy": 429, "gone": 410}

BeforeWrite = Callable[[bool], Awaitable[None]]


class Network:
    """`worker.pipeline.ports.Sender` over scripted receivers."""

    def __init__(self, world: "World", process: "Process") -> None:
        self._world, self._process = world, process
        self._chance = random.Random(f"{world.scenario.seed} network {process.name}")
        self._connected: set[str] = set()

    def lead_seconds(self, url: str, _transport: str) -> float:
        """See the port."""
        return 0.0 if url in self._connected else self._world.plan_of_url[url].dial_seconds

    async def aclose(self) -> None:
        """See the port."""

    async def send(self, request: Request, before_write: BeforeWrite) -> Exchange:
        """See the port."""
        world, process = self._world, self._process
        delivery = cast("partial[object]", before_write).args[0]  # the pipeline's own look, bound to its delivery
        await process.thawed()
        exchange = Exchange(None, "timeout", "the deadline passed")
        with trio.move_on_after(request.timeout_seconds):
            exchange = await self._exchange(delivery, request, before_write)
        await process.thawed()
        world.log(Answered(*world.now(), process.name, delivery.claim.id, delivery.id, exchange.status))
        return exchange

    async def _exchange(self, delivery: Delivery, request: Request, before_write: BeforeWrite) -> Exchange:
        plan = self._world.plan_of_url[request.url]
        behaviour = self._behaviour(plan)
        if request.url not in self._connected:
            if trio.current_time() < self._process.no_files_until:
                raise OutOfFilesError("too many open files")
            await trio.sleep(plan.dial_seconds)
        if behaviour == "refuse":
            self._connected.discard(request.url)
            return Exchange(None, "connect", "refused")
        self._connected.add(request.url)
        await self._look(before_write, again=False)
        await self._write(delivery, plan, request, again=False)
        if behaviour == "stale":
            await trio.sleep(plan.dial_seconds)
            try:
                await self._look(before_write, again=True)
            except NotSentError as error:
                return Exchange(None, "disconnected", str(error))
            await self._write(delivery, plan, request, again=True)
        if behaviour == "hang":
            await trio.sleep_forever()
        await trio.sleep(plan.latency_seconds * self._chance.uniform(0.5, 1.5) + (3.0 if behaviour == "slow" else 0.0))
        if behaviour == "cut":
            self._connected.discard(request.url)
            return Exchange(None, "disconnected", "reset")
        status = _STATUS[behaviour]
        words = REFUSED_BODY if behaviour == "odd" else b""
        return Exchange(status, body=words, retry_after=str(RETRY_AFTER_SECONDS) if status == 429 else None)

    async def _look(self, before_write: BeforeWrite, *, again: bool) -> None:
        """Let the pipeline have its last look, as a process that runs: one that stands still looks when it goes on."""
        while True:
            await self._process.thawed()
            await before_write(again)
            if not self._process.is_frozen:
                return

    async def _write(self, delivery: Delivery, plan: EndpointPlan, request: Request, *, again: bool) -> None:
        """The bytes leave, at once, unless the process is frozen just now."""
        world, process = self._world, self._process
        if process.freeze_at_write is not None:
            process.freeze(process.freeze_at_write)
            process.freeze_at_write = None
        frozen = await process.thawed()
        headers = dict(request.headers)
        event = int(headers["webhook-id"].removeprefix(f"msg_{MESSAGE_ID_PREFIX}_"))
        world.log(
            Written(
                *world.now(), process.name, delivery.claim.id, delivery.id, delivery.attempt, plan.number, event,
                request.body, world.verified(plan.number, request), again, frozen,
                int(headers["webhook-timestamp"]), process.knows_the_clock,
            )
        )  # fmt: skip
        if request.body in world.scenario.poisonous:
            process.kill()
            await trio.sleep_forever()

    def _behaviour(self, plan: EndpointPlan) -> Behaviour:
        found: Behaviour = "ok"
        now = trio.current_time()
        for since, behaviour in () if self._world.mended else plan.behaviours:
            if since <= now:
                found = behaviour
        return found
