"""Throughput while somebody holds a transaction open for the whole run, beside the same without.

The store's own calls, 500 rows a claim, all of them recorded as delivered, as fast as they go, from 100 hot endpoints; a
producer enqueues on a connection of its own whenever the backlog falls below 10,000, so it never runs dry; housekeeping
runs as in a worker. Two databases of one server, each worked on for ten minutes (`--quick`: one) in ten turns that
alternate, so that a noisy machine is noisy for both. Autovacuum looks at a database once a minute, as is Postgres's
default, and in a shorter run as often as in one of ten minutes; before it came, dead rows cost the same on either side. The
side without a holder may slow down too, and that must not make the other look well: so what is compared with is its last
tenth or its median, whichever is more. The holder of one of them has an open REPEATABLE READ transaction
that has written, so that it has a snapshot and a transaction id: no dead row of its database can be removed. Producer,
Postgres and the store's process share the machine: the figures are for comparing with each other.
"""

import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from benchmarks.report import Report, progress
from benchmarks.stage import copy_database, migrated_database, on_database
from worker.core.model import Decision, Outcome
from worker.core.retention import Retention
from worker.service.housekeeping import HouseCounts, keep_house
from worker.store.database import Database, connect
from worker.store.postgres import PostgresStore

SHARE_MIN = 0.8
TURNS = 10
ENDPOINTS = 100
ROWS = 500
BACKLOG = 10_000
PRODUCED = 2_500

TARGET = "in the last tenth, rows a second with the transaction held are at least 0.8 of those without (last tenth or median)"


@dataclass
class Side:
    """One of the two databases: rows a second by turn, and what the statistics say of its hot tables at the end."""

    dsn: str
    store: PostgresStore
    enqueued: int = 0
    claimed: int = 0
    dry_claims: int = 0
    supplied: anyio.Event = field(default_factory=anyio.Event)
    per_second: list[float] = field(default_factory=list)
    dead: dict[str, int] = field(default_factory=dict)
    vacuums: dict[str, int] = field(default_factory=dict)


def run(*, quick: bool, scale: float) -> Report:
    """Work on both databases in turns."""
    turn_seconds = (60.0 if quick else 600.0) * scale / TURNS
    sides: dict[str, Side] = {}
    with migrated_database() as dsn:

        async def prepare(database: Database) -> None:
            naptime = max(1, round(60 * turn_seconds * TURNS / 600))
            await database.script([f"alter system set autovacuum_naptime = '{naptime}s'", "select pg_reload_conf()"])
            for n in range(ENDPOINTS):
                await database.rows(
                    "select webhook.create_endpoint($1, settings => $2::text::jsonb)",
                    f"https://receiver.example/{n}",
                    f'{{"max_in_flight": 1000, "event_types": ["hot.{n}"]}}',
                )
            await database.script(["vacuum analyze"])

        async def work(_: Database) -> None:
            async with _transaction_held(sides["held"].dsn):
                for turn in range(TURNS):
                    for name, side in sides.items():
                        await _turn(side, turn_seconds)
                        progress(f"{turn + 1}/{TURNS} {name}: {side.per_second[-1]:.0f} rows/s")
                for side in sides.values():
                    await _look_at_tables(side)
                    await side.store.close()

        on_database(dsn, prepare)
        for name in ("free", "held"):
            copy = copy_database(dsn, name)
            sides[name] = Side(copy, PostgresStore(copy, "benchmark"))
        on_database(dsn, work)
    return _judge(sides, turn_seconds)


@asynccontextmanager
async def _transaction_held(dsn: str) -> AsyncIterator[None]:
    holder = connect(dsn)
    try:
        await holder.script(["begin isolation level repeatable read", "create table public.held ()"])
        yield
        await holder.script(["rollback"])  # fails if the transaction was not held to the end
    finally:
        await holder.close()


async def _turn(side: Side, seconds: float) -> None:
    """Claim and record for so long, with a producer and housekeeping beside it."""
    async with anyio.create_task_group() as beside:
        beside.start_soon(_produce, side)
        beside.start_soon(keep_house, side.store, Retention(), HouseCounts())
        await side.supplied.wait()
        recorded, started = 0, time.monotonic()
        while (now := time.monotonic()) - started < seconds:
            claimed = await side.store.claim(ROWS, 1 << 30)
            side.claimed += len(claimed.deliveries)
            side.dry_claims += side.enqueued - side.claimed < ROWS
            if claimed.deliveries:
                outcomes = [Outcome(delivery, Decision("delivered", "ok"), now, 0.01) for delivery in claimed.deliveries]
                recorded += await side.store.record(outcomes, time.monotonic())
        side.per_second.append(recorded / (time.monotonic() - started))
        beside.cancel_scope.cancel()


async def _produce(side: Side) -> None:
    database = connect(side.dsn)
    try:
        while True:
            if side.enqueued - side.claimed >= BACKLOG:
                side.supplied.set()
                await anyio.sleep(0.002)
                continue
            with anyio.CancelScope(shield=True):  # what is counted was committed
                await database.value(
                    "select count(*) from webhook.enqueue_many("
                    "(select array_agg('hot.' || n % $2::int) from generate_series(1, $1::int) as n), "
                    "array_fill(repeat('x', 100), array[$1::int]))",
                    PRODUCED,
                    ENDPOINTS,
                )
                side.enqueued += PRODUCED
    finally:
        with anyio.CancelScope(shield=True):
            await database.close()


async def _look_at_tables(side: Side) -> None:
    """Note dead rows of the hot tables, by the statistics (which lag by up to a second), and how often they were vacuumed."""
    database = connect(side.dsn)
    try:
        await anyio.sleep(1.5)
        for row in await database.rows(
            "select regexp_replace(t.relname, '[_0-9]+$', '') as name, "
            "sum(t.n_dead_tup)::bigint as dead, sum(t.autovacuum_count)::bigint as vacuums "
            "from pg_stat_user_tables as t where t.schemaname = 'webhook' "
            "and t.relname ~ '^(pending|inflight|claim_batch|endpoint_sched|wake)' group by 1 order by 1"
        ):
            side.dead[row["name"]], side.vacuums[row["name"]] = row["dead"], row["vacuums"]
    finally:
        await database.close()


def _judge(sides: dict[str, Side], turn_seconds: float) -> Report:
    free, held = sides["free"], sides["held"]
    rows: list[dict[str, Any]] = [
        {
            "tenth": turn + 1,
            "minutes": round((turn + 1) * turn_seconds / 60, 2),
            "free_per_second": round(free.per_second[turn]),
            "held_per_second": round(held.per_second[turn]),
            "held_share": round(held.per_second[turn] / free.per_second[turn], 3),
        }
        for turn in range(TURNS)
    ]
    reference = max(free.per_second[-1], statistics.median(free.per_second))
    share = held.per_second[-1] / reference
    notes = [
        f"share {share:.3f} of {reference:.0f} rows a second",
        *(
            f"{name}: dead rows at the end {side.dead}, autovacuums {side.vacuums}, claims short of supply {side.dry_claims}"
            for name, side in sides.items()
        ),
    ]
    return Report(TARGET, share >= SHARE_MIN, rows, notes)
