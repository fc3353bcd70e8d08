"""What a worker costs that has nothing to do, and how soon it notices that it has.

First nothing is due: transactions a second (each call of a worker is one) by the database's own count, and CPU of the
worker's process. Then single events come to an otherwise idle system, and the time from just before `enqueue` to their
arrival is taken.
"""

import functools
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio

from benchmarks.arrivals import first_arrivals, latencies, percentile, read_arrivals
from benchmarks.report import Report, progress
from benchmarks.stage import interpreters, migrated_database, on_database, receiver, running_workers, stop_workers
from benchmarks.stream import steady_stream
from worker.store.database import Database

TRANSACTIONS_MAX = 50.0
CPU_PERCENT_MAX = 2.0
P99_MS_MAX = 50.0
EVENTS, EVENTS_PER_SECOND = 100, 10.0
WARM_UP_SECONDS = {"CPython": 3.0, "PyPy": 10.0}
GRACE_SECONDS = 2.0
TARGET = "idle: at most 50 transactions a second and 2 % of a core; from enqueue to arrival at most 50 ms at p99"


def run(*, quick: bool, scale: float) -> Report:
    """Watch one worker on each runtime, each on a database of its own."""
    seconds = (8.0 if quick else 20.0) * scale
    rows: list[dict[str, Any]] = []
    for name, python in interpreters().items():
        rows.append({"runtime": name, **_watch(name, python, seconds, max(1, round(EVENTS * scale)))})
        progress(str(rows[-1]))
    return _judge(rows)


def _judge(rows: list[dict[str, Any]]) -> Report:
    holds = all(
        row["transactions_per_second"] <= TRANSACTIONS_MAX
        and row["cpu_percent"] <= CPU_PERCENT_MAX
        and row["p99_ms"] <= P99_MS_MAX
        and row["missing"] == 0
        for row in rows
    )
    return Report(TARGET, holds, rows)


def _watch(name: str, python: str, seconds: float, events: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    sent: list[float] = []
    with tempfile.TemporaryDirectory() as directory, migrated_database() as dsn:
        log = Path(directory) / "arrivals"
        with receiver(str(log)) as port:

            async def add_endpoint(database: Database) -> None:
                await database.rows("select webhook.create_endpoint($1)", f"http://127.0.0.1:{port}/")

            on_database(dsn, add_endpoint)
            with running_workers(dsn, [python]) as workers:
                time.sleep(WARM_UP_SECONDS.get(name, 10.0))
                on_database(dsn, functools.partial(_idle, worker=workers[0], seconds=seconds, figures=figures))

                async def stream(_: Database) -> None:
                    stop = anyio.Event()
                    async with anyio.create_task_group() as producer:
                        producer.start_soon(steady_stream, dsn, ["idle"], EVENTS_PER_SECOND, sent, stop)
                        await anyio.sleep(events / EVENTS_PER_SECOND)
                        stop.set()
                    await anyio.sleep(GRACE_SECONDS)

                on_database(dsn, stream)
                until = time.monotonic()
                stop_workers(workers)
        took, missing = latencies(sent, first_arrivals(read_arrivals(log)), until)
    return {
        **figures,
        "idle_seconds": seconds,
        "p50_ms": round(percentile(took, 50) * 1e3, 1),
        "p99_ms": round(percentile(took, 99) * 1e3, 1),
        "events": len(sent),
        "missing": missing,
    }


async def _idle(database: Database, worker: "subprocess.Popen[bytes]", seconds: float, figures: dict[str, Any]) -> None:
    own = "select xact_commit from pg_stat_database where datname = current_database()"
    before, cpu, started = await database.value(own), _cpu_seconds(worker.pid), time.monotonic()
    await anyio.sleep(seconds)
    passed, cpu = time.monotonic() - started, _cpu_seconds(worker.pid) - cpu
    after = await database.value(own)
    figures["transactions_per_second"] = round((after - before - 1) / passed, 1)  # one of them was the first look
    figures["cpu_percent"] = round(100 * cpu / passed, 2)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
