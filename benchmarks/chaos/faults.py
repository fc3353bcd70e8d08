"""The faults: what begins each, and what ends it. Each is a context; it yields what it was done to."""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import anyio

from benchmarks.chaos.evidence import LEASE_SECONDS
from benchmarks.chaos.names import Mode
from benchmarks.chaos.proxy import Bandwidth, BlackHole, Clean, HalfOpen, Latency, Reset, Slice, Toxic
from benchmarks.chaos.schedule import Kind
from benchmarks.chaos.stage import CABLED, Stage
from worker.pipeline.ports import StoreError
from worker.store.database import connect
from worker.store.sql import statements

Inject = Callable[[Stage, random.Random], AbstractAsyncContextManager[str]]

HOUR_SECONDS = 3600


@dataclass(frozen=True)
class Fault:
    """A kind of fault, how it is made, and what the stage must have for it."""

    kind: Kind
    inject: Inject
    needs: str = ""


def _toxic(toxic: Toxic) -> Inject:
    @asynccontextmanager
    async def inject(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
        n = chance.randrange(len(stage.proxies))
        stage.proxies[n].toxic = toxic
        yield f"proxied-{n + 1}"
        stage.proxies[n].toxic = Clean()

    return inject


@asynccontextmanager
async def _sigkill(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    worker = await stage.fleet.choose(chance)
    stage.fleet.kill(worker)
    yield worker.name


@asynccontextmanager
async def _sigstop(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    worker = await stage.fleet.choose(chance)
    frozen = stage.fleet.stop(worker)
    yield worker.name
    stage.fleet.proceed(frozen)


def _restart(mode: Literal["fast", "immediate"]) -> Inject:
    @asynccontextmanager
    async def inject(stage: Stage, _: random.Random) -> AsyncIterator[str]:
        await stage.postgres.stop(mode)
        yield "Postgres"
        await stage.postgres.start()

    return inject


def _statement(name: str, on: str) -> Inject:
    @asynccontextmanager
    async def inject(stage: Stage, _: random.Random) -> AsyncIterator[str]:
        database = connect(stage.dsn)
        try:
            await database.value(statements()[name])
        except StoreError:
            pass  # something else has it down just now, or it was quicker
        finally:
            await database.close()
        yield on

    return inject


@asynccontextmanager
async def _full_disk(stage: Stage, _: random.Random) -> AsyncIterator[str]:
    await anyio.to_thread.run_sync(stage.postgres.fill_disk)
    yield "Postgres"
    await stage.postgres.free_disk()


@asynccontextmanager
async def _cut(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    assert stage.network is not None
    worker = await stage.fleet.choose(chance, CABLED)
    await stage.network.cut()
    yield worker.name
    await stage.network.mend()


def _names(mode: Mode) -> Inject:
    @asynccontextmanager
    async def inject(stage: Stage, _: random.Random) -> AsyncIterator[str]:
        assert stage.names is not None
        stage.names.mode = mode
        yield "named"
        stage.names.mode = "answers"

    return inject


def _clock(seconds: int) -> Inject:
    @asynccontextmanager
    async def inject(stage: Stage, _: random.Random) -> AsyncIterator[str]:
        assert stage.clock is not None
        stage.clock.move(seconds)
        yield "CPython-clock"
        stage.clock.move(0)

    return inject


_ALL = (
    Fault(Kind("latency", "receivers", 5, 8), _toxic(Latency(0.4, 0.3))),
    Fault(Kind("reset in the request", "receivers", 3, 6), _toxic(Reset("request"))),
    Fault(Kind("reset before the response", "receivers", 3, 6), _toxic(Reset("response", share=0.0))),
    Fault(Kind("reset in the response", "receivers", 3, 6), _toxic(Reset("response"))),
    Fault(Kind("half-open", "receivers", 5, 8), _toxic(HalfOpen())),
    Fault(Kind("slice", "receivers", 5, 8), _toxic(Slice(40, 0.005))),
    Fault(Kind("bandwidth", "receivers", 5, 8), _toxic(Bandwidth(2000))),
    Fault(Kind("black hole", "receivers", 6, 9), _toxic(BlackHole())),
    Fault(Kind("SIGKILL", "processes", times=2), _sigkill),
    Fault(Kind("SIGSTOP past the lease", "processes", LEASE_SECONDS + 4, LEASE_SECONDS + 8), _sigstop),
    Fault(Kind("restart, fast", "database", 0, 3), _restart("fast")),
    Fault(Kind("restart, immediate", "database", 0, 3), _restart("immediate")),
    Fault(Kind("pg_terminate_backend", "database"), _statement("chaos_terminate", "two thirds of the connections")),
    Fault(Kind("full disk", "database", 4, 8), _full_disk, "disk"),
    Fault(Kind("cut from the database", "network", LEASE_SECONDS + 2, LEASE_SECONDS + 6), _cut, "network"),
    Fault(Kind("DNS fails", "names", 12, 16), _names("fails"), "names"),
    Fault(Kind("DNS is silent", "names", 12, 16), _names("silent"), "names"),
    Fault(Kind("clock + 1 h", "clock", 15, 20), _clock(HOUR_SECONDS), "clock"),
    Fault(Kind("clock − 1 h", "clock", 15, 20), _clock(-HOUR_SECONDS), "clock"),
    Fault(Kind("forced retry", "operator"), _statement("chaos_force_retry", "a delivered delivery")),
)
FAULTS: Mapping[Kind, Fault] = {fault.kind: fault for fault in _ALL}
