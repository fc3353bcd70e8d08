"""Chaos: real Postgres, real workers on both runtimes, real receivers, and every fault that there is a way to make.

Two producers enqueue in transactions, some rolled back, some retried after a lost reply. Faults come by a schedule that the
seed draws: connections to receivers that lag, break, vanish or trickle; workers killed, and frozen past their lease; Postgres
restarted in order and out of order, its connections ended, its disk full; a worker cut off from it; names that do not resolve;
a wall clock that jumps; some workers reach Postgres through PgBouncer. Then the faults end, the fleet drains, and what
producers, database and receivers say is joined: nothing may be lost, nothing may arrive that was not committed, each duplicate
has its cause, no limit is exceeded, and everything has come to an end.
"""

import argparse
import random
import secrets
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from benchmarks.chaos.collect import collect
from benchmarks.chaos.endpoints import RETRY_SECONDS_MAX, TIMEOUT_SECONDS
from benchmarks.chaos.evidence import LEASE_SECONDS, Evidence
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.reconcile import Verdict, reconcile
from benchmarks.chaos.schedule import Planned, plan
from benchmarks.chaos.stage import Stage, producer, stage
from benchmarks.chaos.table import as_rows
from benchmarks.report import Report, progress
from worker.pipeline.ports import StoreError
from worker.store.database import connect
from worker.store.sql import statements

PRODUCERS = 2
EVENTS_PER_SECOND = 40.0
MINUTES, MINUTES_QUICK = 10.0, 2.0
SAMPLE_SECONDS = 1.0
EXAMPLES_MAX = 5

DRAIN_SECONDS_MAX = LEASE_SECONDS + 15 + RETRY_SECONDS_MAX * 2 + TIMEOUT_SECONDS + 30
"""A lease has to run out, and be noticed and taken back; then a retry, a circuit's pause, a deadline; and a receiver whose
circuit was open gets its backlog at a rate that grows for twenty seconds."""

TARGET = (
    "nothing lost, nothing unexpected, no duplicate without a cause, nothing out of bounds, "
    f"and all of it at an end {DRAIN_SECONDS_MAX:g} s after the last fault"
)


class Happened(NamedTuple):
    """A fault that was made: its kind, what it was done to, from when until when (Unix seconds)."""

    kind: str
    target: str
    since: float
    until: float


class Sample(NamedTuple):
    """How many deliveries had not ended at a moment (Unix seconds)."""

    at: float
    backlog: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what only this one has."""
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help=f"how long faults are made (default {MINUTES:g}, with --quick {MINUTES_QUICK:g})",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="draws the faults (default: another one each time; it is told)")


def run(*, quick: bool, scale: float, minutes: float | None, seed: int | None) -> Report:
    """Play it all, and judge. `scale` multiplies the producers' pace."""
    seconds = 60 * (minutes or (MINUTES_QUICK if quick else MINUTES))
    seed = secrets.randbelow(10_000) if seed is None else seed
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is set up has to be taken down
    return anyio.run(_play, seconds, scale, seed)


async def _play(seconds: float, scale: float, seed: int) -> Report:
    progress(f"seed {seed}")
    happened: list[Happened] = []
    samples: list[Sample] = []
    async with stage() as world:
        kinds = [kind for kind, fault in FAULTS.items() if fault.needs not in world.missing]
        planned = plan(seed, seconds, kinds)
        logs = [world.folder / f"producer-{n}" for n in range(PRODUCERS)]
        started = time.time()
        async with anyio.create_task_group() as watch:
            watch.start_soon(world.fleet.supervise)
            watch.start_soon(_sample, world.dsn, samples)
            async with AsyncExitStack() as producers, anyio.create_task_group() as tracks:
                for n, log in enumerate(logs):
                    await producers.enter_async_context(
                        producer(n, EVENTS_PER_SECOND * scale / PRODUCERS, seconds, world.dsn, log)
                    )
                for track in {kind.track for kind in kinds}:
                    mine = [one for one in planned if one.kind.track == track]
                    tracks.start_soon(_make, world, mine, started, happened)
            progress("the faults are over, the fleet drains")
            world.calm()
            drained = await _drain(world)
            watch.cancel_scope.cancel()
        statuses = Counter(await world.fleet.drain())
        evidence = await collect(world.dsn, world.endpoints, logs, world.arrivals, world.fleet)
        verdict = reconcile(evidence)
        rows = as_rows(verdict, [one.kind for one in happened], drained, world.fleet.exits, statuses)
        notes = [*_not_run(world, planned), f"seed {seed}", *_examples(verdict)]
        holds = verdict.holds and drained is not None
        if not holds:
            notes.append(f"the logs are in {_kept(world.folder)}")
    return Report(TARGET, holds, rows, notes, _series(started, happened, samples, evidence))


async def _make(world: Stage, planned: list[Planned], started: float, happened: list[Happened]) -> None:
    """Make the faults of one track, one after the other."""
    for one in planned:
        await anyio.sleep(max(0.0, started + one.at - time.time()))
        since = time.time()
        async with FAULTS[one.kind].inject(world, random.Random(one.seed)) as target:
            progress(f"{since - started:6.1f} s  {one.kind.name}: {target}")
            await anyio.sleep(one.seconds)
        happened.append(Happened(one.kind.name, target, since, time.time()))


async def _sample(dsn: str, samples: list[Sample]) -> None:
    """Count the backlog, as long as there is a database to ask."""
    database = connect(dsn)
    try:
        while True:
            with suppress(StoreError):
                samples.append(Sample(time.time(), await database.value(statements()["chaos_backlog"])))
            await anyio.sleep(SAMPLE_SECONDS)
    finally:
        with anyio.CancelScope(shield=True):
            await database.close()


async def _drain(world: Stage) -> float | None:
    """Wait until every delivery has ended; return how long that took, or None if it takes too long."""
    began = time.monotonic()
    database = connect(world.dsn)
    try:
        with anyio.move_on_after(DRAIN_SECONDS_MAX):
            while True:
                with suppress(StoreError):
                    if not await database.value(statements()["chaos_backlog"]):
                        return time.monotonic() - began
                await anyio.sleep(SAMPLE_SECONDS)
    finally:
        await database.close()
    return None


def _not_run(world: Stage, planned: list[Planned]) -> list[str]:
    """Say what this machine could not do, or the time had no room for."""
    made = {one.kind for one in planned}
    notes = [
        f"not run: {kind.name}: {world.missing.get(fault.needs, 'it does not fit into so short a run')}"
        for kind, fault in FAULTS.items()
        if kind not in made
    ]
    if "pgbouncer" in world.missing:
        notes.append(f"not run: workers through PgBouncer: {world.missing['pgbouncer']}")
    return notes


def _examples(verdict: Verdict) -> list[str]:
    """Return some lines of each kind of what is wrong."""
    wrong = {
        "lost": verdict.lost,
        "unexpected": verdict.unexpected,
        "no cause": verdict.without_cause,
        "out of bounds": verdict.out_of_bounds,
        "unsettled": verdict.unsettled,
    }
    return [f"{name}: {line}" for name, lines in wrong.items() for line in lines[:EXAMPLES_MAX]]


def _kept(folder: Path) -> Path:
    """Move the logs out of the folder that is about to be removed."""
    kept = folder.with_name(f"{folder.name}-logs")
    kept.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            file.rename(kept / file.name)
    return kept


def _series(started: float, happened: list[Happened], samples: list[Sample], evidence: Evidence) -> dict[str, Any]:
    """Return what `plot.py` draws, in seconds from the start."""
    arrivals = Counter(int(arrival.at - started) for arrival in evidence.arrivals)
    return {
        "faults": [
            {
                "kind": one.kind,
                "target": one.target,
                "since": round(one.since - started, 1),
                "until": round(one.until - started, 1),
            }
            for one in sorted(happened, key=lambda one: one.since)
        ],
        "arrivals_per_second": [arrivals[second] for second in range(max(arrivals, default=-1) + 1)],
        "backlog": [[round(sample.at - started, 1), sample.backlog] for sample in samples],
    }
