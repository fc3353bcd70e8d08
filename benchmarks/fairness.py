"""Whether the healthy notice the others: latency from enqueue to arrival, with and without bad neighbours.

Healthy endpoints (10,000, `--quick` 1,000) receive 100 events a second in all, and a tenant with one endpoint 10 a second,
through two workers of 64 lanes. In the phases `with`, all of these are there as well:

- in the healthy ones' own tenant: an endpoint with a million pending, whose receiver takes 0.25 s; one that hangs until
  its deadline, and a group of ten that do; one that answers 500 at once;
- a tenant with as many endpoints as there are healthy ones, all of them busy, whose receivers take 0.5 s.

Together they want far more lanes than there are. But they do not saturate the processors: slow answers bound what they
can have to a few hundred deliveries a second, and the endpoints with a million and with quick failures have rates (100 and
50 a second). Fairness is not the absence of load, so a phase `without` carries as many deliveries a second as the bad ones
made in the `with` just before it, to healthy endpoints of yet another tenant; these two are compared. For who wants to
know what the load itself costs, the phase `alone` has neither. Phases alternate, each in a fresh copy of the same database
(circuits that opened in one are closed in the next), and the rounds are pooled. Events that did not arrive count with the
time waited for them, and fail the benchmark.
"""

import functools
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from benchmarks.arrivals import first_arrivals, latencies, percentile, read_arrivals
from benchmarks.report import Report, progress
from benchmarks.stage import (
    copy_database,
    drop_database,
    interpreters,
    migrated_database,
    on_database,
    receiver,
    running_workers,
    stop_workers,
)
from benchmarks.stream import steady_stream
from worker.store.database import Database
from worker.store.sql import statements

RATIO_MAX = 1.5
WORKERS = 2
ROUNDS = 2
HEALTHY_PER_SECOND, SMALL_PER_SECOND = 100.0, 10.0
HANGING_GROUP = 10
ELSEWHERE = 100
PILE_ROWS = 100_000
"""Rows of one statement, and the backlog of everybody who is not the one with a million."""
WARM_UP_SECONDS = 2.0
GRACE_SECONDS = 3.0

TARGET = (
    "p50 and p99 of the healthy endpoints, and of the small tenant, with bad neighbours are at most 1.5 times those with "
    "the same load elsewhere"
)


@dataclass
class Phase:
    """What was sent in one phase, and how many other deliveries a second there were. Moments are monotonic seconds."""

    kind: str
    healthy: list[float] = field(default_factory=list)
    small: list[float] = field(default_factory=list)
    since: float = 0.0
    until: float = 0.0
    others_per_second: float = 0.0


def run(*, quick: bool, scale: float) -> Report:
    """Alternate the phases, then read the receiver's log."""
    endpoints = max(1, round((1_000 if quick else 10_000) * scale))
    million = max(1, round((100_000 if quick else 1_000_000) * scale))
    seconds = 20.0 if quick else 40.0
    phases: list[Phase] = []
    with tempfile.TemporaryDirectory() as directory, migrated_database() as base:
        log = Path(directory) / "arrivals"
        with receiver(str(log)) as port:
            on_database(base, functools.partial(_add_good, port=port, endpoints=endpoints))
            bad = copy_database(base, "bad")
            on_database(bad, functools.partial(_add_bad, port=port, endpoints=endpoints, million=million))
            progress(f"{2 * endpoints} endpoints, a backlog of {million} for one of them")
            for number in range(ROUNDS):
                others = 0.0
                for kind in ("with", "without", "alone"):
                    dsn = copy_database(bad if kind == "with" else base, f"{kind}_{number}")
                    if kind == "without":
                        on_database(dsn, functools.partial(_add_load, per_second=others, seconds=seconds))
                    phases.append(_play(kind, dsn, endpoints, seconds))
                    drop_database(dsn)
                    others = phases[-1].others_per_second
                    progress(f"{kind}: {others:.0f} other deliveries a second")
        first = first_arrivals(read_arrivals(log))
    return _judge(phases, first)


async def _add(database: Database, path: str, count: int, tenant: str, event_type: str, settings: str = "{}") -> None:
    """Add endpoints whose URLs, and event types, end in a number."""
    for start in range(1, count + 1, 1000):  # a statement each, far from any timeout
        await database.value(
            "select count(*) from generate_series($5::int, $6::int) as n, lateral webhook.create_endpoint("
            "$1::text || n, $2::text, $4::text::jsonb || jsonb_build_object('event_types', array[$3::text || n]))",
            path,
            tenant,
            event_type,
            settings,
            start,
            min(start + 999, count),
        )


async def _add_good(database: Database, port: int, endpoints: int) -> None:
    receiver = f"http://127.0.0.1:{port}"
    await _add(database, f"{receiver}/healthy/", endpoints, "", "healthy.")
    await _add(database, f"{receiver}/small/", 1, "small", "small.")
    await _add(database, f"{receiver}/elsewhere/", ELSEWHERE, "elsewhere", "elsewhere.")
    await database.script(["vacuum analyze"])


async def _add_bad(database: Database, port: int, endpoints: int, million: int) -> None:
    receiver = f"http://127.0.0.1:{port}"
    await _add(database, f"{receiver}/slow/0.25/million/", 1, "", "million.", '{"rate": 100, "burst": 50}')
    await _add(database, f"{receiver}/hang/", 1 + HANGING_GROUP, "", "hang.")
    await _add(database, f"{receiver}/fail/", 1, "", "fail.", '{"rate": 50, "burst": 50}')
    await _add(database, f"{receiver}/slow/0.5/crowd/", endpoints, "crowd", "crowd.")
    for start in range(0, million, PILE_ROWS):
        await _pile(database, "/slow/0.25/million/", min(PILE_ROWS, million - start), -1e-6)
    await _pile(database, "/hang/", PILE_ROWS // (1 + HANGING_GROUP), -1e-6)
    await _pile(database, "/fail/", PILE_ROWS, -1e-6)
    await _pile(database, "/slow/0.5/crowd/", max(5, PILE_ROWS // endpoints), -1e-6)
    await database.script(["vacuum analyze"])


async def _add_load(database: Database, per_second: float, seconds: float) -> None:
    """Pile up what will become due little by little: a steady load that needs no producer, as a backlog needs none."""
    if per_second:
        spacing = ELSEWHERE / per_second
        await _pile(database, "/elsewhere/", int((seconds + WARM_UP_SECONDS + GRACE_SECONDS + 3) / spacing) + 1, spacing)


async def _pile(database: Database, path: str, each: int, spacing: float) -> None:
    await database.value(statements()["bench_pile"], each, path, spacing)


def _play(kind: str, dsn: str, endpoints: int, seconds: float) -> Phase:
    phase = Phase(kind)

    async def stream(database: Database) -> None:
        began = time.monotonic()
        stop = anyio.Event()
        types = [f"healthy.{n + 1}" for n in range(endpoints)]
        async with anyio.create_task_group() as producers:
            producers.start_soon(steady_stream, dsn, types, HEALTHY_PER_SECOND, phase.healthy, stop)
            producers.start_soon(
                functools.partial(steady_stream, dsn, ["small.1"], SMALL_PER_SECOND, phase.small, stop, tenant="small")
            )
            await anyio.sleep(WARM_UP_SECONDS)
            phase.since = time.monotonic()
            await anyio.sleep(seconds)
            stop.set()
        await anyio.sleep(GRACE_SECONDS)
        phase.until = time.monotonic()
        others = await database.value(
            "select count(*) from webhook.attempt as a join webhook.endpoint as e on e.id = a.endpoint_id "
            "where e.url !~ '/(healthy|small)/'"
        )
        phase.others_per_second = others / (time.monotonic() - began)

    with running_workers(dsn, [interpreters()["CPython"]] * WORKERS, "--drain-timeout", "1") as workers:
        on_database(dsn, stream)
        stop_workers(workers)
    return phase


def _judge(phases: list[Phase], first: dict[float, float]) -> Report:
    took: dict[tuple[str, str], list[float]] = defaultdict(list)
    lost: dict[tuple[str, str], int] = defaultdict(int)
    for phase in phases:
        for who, sent in (("healthy", phase.healthy), ("small tenant", phase.small)):
            seconds, missing = latencies((at for at in sent if at >= phase.since), first, phase.until)
            took[who, phase.kind] += seconds
            lost[who, phase.kind] += missing
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for (who, kind), seconds in sorted(took.items()):
        row = {"who": who, "phase": kind, "events": len(seconds), "missing": lost[who, kind]}
        for percent in (50, 99):
            value, base = (percentile(took[who, of], percent) for of in (kind, "without"))
            row[f"p{percent}_ms"] = round(value * 1e3, 1)
            row[f"p{percent}_ratio"] = round(value / base, 2)
            if kind == "with":
                ratios[f"{who} p{percent}"] = value / base
        row["other_deliveries_per_second"] = round(
            sum(phase.others_per_second for phase in phases if phase.kind == kind) / ROUNDS
        )
        rows.append(row)
    notes = [f"with / without: {', '.join(f'{name} {ratio:.2f}' for name, ratio in ratios.items())}"]
    holds = all(ratio <= RATIO_MAX for ratio in ratios.values()) and not any(lost.values())
    return Report(TARGET, holds, rows, notes)
