"""100,000 events committed within one second, over 100 endpoints: how fast they go, and who notices.

Eight producers insert in open transactions, then commit together; two workers of 64 lanes are running and warm. Beside it
three endpoints that are no part of the burst, of the same tenant, receive a steady stream each: 20 a second, which is less
than an equal share of what the workers reach (one that wants more than its share waits, and should). A burst takes all the
processor there is, and that is no fault: so the bystanders' latency, and the workers' peak memory, are compared with those of
a run without a backlog but not without work: a steady supply of three tenths of the deliveries a second that the burst
reached.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import anyio

from benchmarks.arrivals import Arrival, first_arrivals, latencies, percentile, read_arrivals
from benchmarks.report import Report, progress
from benchmarks.stage import (
    copy_database,
    interpreters,
    migrated_database,
    on_database,
    receiver,
    running_workers,
    stop_workers,
)
from benchmarks.stream import steady_stream
from worker.store.database import Database, connect

WORKERS = 2
ENDPOINTS = 100
PRODUCERS = 8
BYSTANDERS = 3
BYSTANDERS_PER_SECOND = 60.0
COMMIT_SECONDS_MAX = 1.0
MEMORY_RATIO_MAX = 1.5
LATENCY_RATIO_MAX = 1.5
STEADY_SHARE = 0.3
STEADY_SECONDS_MIN, STEADY_SECONDS_MAX = 10.0, 60.0
WARM_UP_SECONDS = 3.0
GRACE_SECONDS = 3.0
DRAIN_SECONDS_MAX = 3600.0

_BYSTANDERS = [f"bystander.{n}" for n in range(BYSTANDERS)]

TARGET = (
    "the commits take at most 1 s, each event arrives and is recorded once; a worker's peak memory and the bystanders' p99 "
    "are at most 1.5 times those of a steady supply"
)

Supply = Callable[[Database], Awaitable[None]]


@dataclass
class Phase:
    """One run of the fleet. Moments are monotonic seconds."""

    name: str
    sent: list[float] = field(default_factory=list)
    supplied_at: float = 0.0
    drained_at: float = 0.0
    until: float = 0.0
    claims: int = 0
    events: int = 0
    delivered: int = 0
    attempts: int = 0
    peak_mb: float = 0.0


def run(*, quick: bool, scale: float) -> Report:
    """Burst first, then supply steadily what the burst reached."""
    each = max(1, round((20_000 if quick else 100_000) * scale / PRODUCERS))
    commits: list[float] = []
    with tempfile.TemporaryDirectory() as directory, migrated_database() as dsn:
        log = Path(directory) / "arrivals"
        with receiver(str(log)) as port:

            async def add_endpoints(database: Database) -> None:
                for n in range(ENDPOINTS):
                    await _add(database, f"http://127.0.0.1:{port}/burst/{n}", f"burst.{n}")
                for name in _BYSTANDERS:
                    await _add(database, f"http://127.0.0.1:{port}/{name}", name)
                await database.script(["vacuum analyze"])

            on_database(dsn, add_endpoints)
            burst_dsn, steady_dsn = copy_database(dsn, "burst"), copy_database(dsn, "steady")

            async def together(_: Database) -> None:
                commits.extend(await _commit_together(burst_dsn, each))

            burst = _play("burst", burst_dsn, together)
            seconds = burst.drained_at - burst.supplied_at
            progress(f"{burst.events} events committed in {commits[2] - commits[1]:.3f} s, recorded {seconds:.1f} s later")
            rate = STEADY_SHARE * burst.events / seconds
            lasting = min(max(seconds, STEADY_SECONDS_MIN), STEADY_SECONDS_MAX)
            steady = _play("steady supply", steady_dsn, lambda database: _supply(database, rate, lasting))
        arrivals = read_arrivals(log)
    return _judge(burst, steady, commits, arrivals)


async def _add(database: Database, url: str, event_type: str) -> None:
    settings = f'{{"event_types": ["{event_type}"]}}'
    await database.rows("select webhook.create_endpoint($1, settings => $2::text::jsonb)", url, settings)


def _play(name: str, dsn: str, supply: Supply) -> Phase:
    phase = Phase(name)

    async def work(database: Database) -> None:
        await anyio.sleep(WARM_UP_SECONDS)
        before = await _counted(database)
        stop = anyio.Event()
        async with anyio.create_task_group() as bystander:
            bystander.start_soon(steady_stream, dsn, _BYSTANDERS, BYSTANDERS_PER_SECOND, phase.sent, stop)
            await supply(database)
            phase.supplied_at = time.monotonic()
            await _drain(database)
            phase.drained_at = time.monotonic()
            stop.set()
        await anyio.sleep(GRACE_SECONDS)
        phase.until = time.monotonic()
        phase.claims, phase.events, phase.delivered, phase.attempts = (
            after - earlier for after, earlier in zip(await _counted(database), before, strict=True)
        )

    with running_workers(dsn, islice(cycle([interpreters()["CPython"]]), WORKERS)) as workers:
        on_database(dsn, work)
        phase.peak_mb = max(ended.rss_mb for ended in stop_workers(workers))
    return phase


_UNFINISHED = """
    with burst as (select e.id from webhook.endpoint as e where e.url like '%/burst/%')
    select exists (select from burst as b where exists (select from webhook.pending as p where p.endpoint_id = b.id))
        or exists (select from burst as b join webhook.inflight as i on i.endpoint_id = b.id)
"""

_COUNTED = """
    with burst as (select e.id from webhook.endpoint as e where e.url like '%/burst/%')
    select (select last_value from webhook.claim_id) as claims,
           (select count(*) from webhook.event as e where e.event_type like 'burst.%') as events,
           (select count(*) from webhook.finished as f join burst as b on b.id = f.endpoint_id
            where f.state = 'delivered') as delivered,
           (select count(*) from webhook.attempt as a join burst as b on b.id = a.endpoint_id) as attempts
"""


async def _drain(database: Database) -> None:
    """Wait until nothing of the burst is left to do."""
    with anyio.fail_after(DRAIN_SECONDS_MAX):
        while await database.value(_UNFINISHED):  # noqa: ASYNC110 - other processes do the work
            await anyio.sleep(0.2)


async def _counted(database: Database) -> list[int]:
    (row,) = await database.rows(_COUNTED)
    return list(row.values())


async def _enqueue(database: Database, events: int) -> None:
    await database.value(
        "select count(*) from webhook.enqueue_many("
        "(select array_agg('burst.' || n % $2::int) from generate_series(1, $1::int) as n), "
        "array_fill(repeat('x', 200), array[$1::int]))",
        events,
        ENDPOINTS,
    )


async def _commit_together(dsn: str, each: int) -> tuple[float, float, float]:
    """Insert over several connections, then commit on all; return when it began, the first commit, and after the last."""
    producers = [connect(dsn) for _ in range(PRODUCERS)]

    async def insert(producer: Database) -> None:
        await producer.script(["begin"])
        await _enqueue(producer, each)

    began = time.monotonic()
    async with anyio.create_task_group() as inserting:
        for producer in producers:
            inserting.start_soon(insert, producer)
    first = time.monotonic()
    async with anyio.create_task_group() as committing:
        for producer in producers:
            committing.start_soon(producer.script, ["commit"])
    last = time.monotonic()
    for producer in producers:
        await producer.close()
    return began, first, last


async def _supply(database: Database, per_second: float, seconds: float) -> None:
    started, done = time.monotonic(), 0
    while (passed := time.monotonic() - started) < seconds:
        if due := int(passed * per_second) - done:
            await _enqueue(database, due)
            done += due
        await anyio.sleep(0.05)


def _judge(burst: Phase, steady: Phase, commits: list[float], arrivals: list[Arrival]) -> Report:
    first = first_arrivals(arrivals)
    rows: list[dict[str, Any]] = []
    for phase, since in ((burst, commits[1]), (steady, 0.0)):
        # Those sent while the producers still insert, or after the end, meet no burst.
        took, missing = latencies((at for at in phase.sent if since <= at < phase.drained_at), first, phase.until)
        rows.append(
            {
                "phase": phase.name,
                "events": phase.events,
                "drain_seconds": round(phase.drained_at - phase.supplied_at, 1),
                "claims": phase.claims,
                "rows_per_claim": round(phase.events / max(1, phase.claims), 1),
                "peak_mb": round(phase.peak_mb, 1),
                "bystander_p50_ms": round(percentile(took, 50) * 1e3, 1),
                "bystander_p99_ms": round(percentile(took, 99) * 1e3, 1),
                "bystander_events": len(took),
                "missing": missing,
            }
        )
    # The copies of one database count events from the same number: the same id may come in both phases.
    load = [(arrival.at < burst.until, arrival) for arrival in arrivals if arrival.path.startswith("/burst/")]
    came = Counter((in_burst, arrival.path, arrival.message) for in_burst, arrival in load)
    last = max((arrival.at for in_burst, arrival in load if in_burst), default=burst.until)
    events = burst.events + steady.events
    delivered, attempts = burst.delivered + steady.delivered, burst.attempts + steady.attempts
    once = len(came) == came.total() == delivered == attempts == events
    inserting, committing, draining = commits[1] - commits[0], commits[2] - commits[1], last - commits[2]
    memory = burst.peak_mb / steady.peak_mb
    latency = rows[0]["bystander_p99_ms"] / rows[1]["bystander_p99_ms"]
    speed = burst.events / draining
    notes = [
        f"inserted in {inserting:.1f} s, then committed within {committing:.3f} s",
        f"last arrival {draining:.1f} s after the last commit: {speed:.0f} deliveries a second",
        f"requests {came.total()}, different ones {len(came)}, recorded as delivered {delivered}, attempts {attempts}",
        f"peak memory {memory:.2f} times, bystanders' p99 {latency:.2f} times",
        "claims are numbers drawn by claims that found an endpoint due, for the bystanders too",
    ]
    holds = (
        committing <= COMMIT_SECONDS_MAX
        and once
        and memory <= MEMORY_RATIO_MAX
        and latency <= LATENCY_RATIO_MAX
        and not any(row["missing"] for row in rows)
    )
    return Report(TARGET, holds, rows, notes)
