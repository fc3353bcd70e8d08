"""A thousand lanes over ten thousand distinct receivers: what a delivery costs then, and whether anything grows.

Beside 64 lanes over a hundred of them, in the same run. Every endpoint is an origin of its own, a loopback address. A round is
ten thousand deliveries: one for each of many, a hundred for each of few. So with many nearly every delivery takes a connection
that was kept for it, out of thousands; the first rounds, in which they are made, are not measured. Files and memory of the
worker are taken after those rounds and at the end; a million deliveries after, with few. What counts is CPU: `per_second`
includes the producer's part of a round.
"""

import subprocess
import time
from typing import Any, NamedTuple

from benchmarks.report import Report, progress
from benchmarks.stage import (
    ROOT,
    Cost,
    CountingReceiver,
    counting_receiver,
    cpu_seconds,
    interpreters,
    memory_mb,
    migrated_database,
    on_database,
    open_files,
    wait_for,
    worker_environment,
)
from worker.store.database import Database

TIMES_MAX = 2.0
GROWS_MAX = 1.2
SIZES = {"few": (64, 100), "many": (1_000, 10_000)}
"""Lanes, origins."""

ROUNDS = {"few": 100, "many": 20}
QUICK_ROUNDS = 6
FIRST_ROUNDS_MAX = 10
RSS_MB_MAX = {"CPython": 80.0, "PyPy": 300.0}
"""With few."""

ROUND = 10_000
"""Deliveries."""

TARGET = (
    f"1,000 lanes over 10,000 origins cost at most {TIMES_MAX:g} times what 64 over 100 do; files and memory do not grow; "
    f"64 over 100 take at most {RSS_MB_MAX['CPython']:g} MB on CPython, {RSS_MB_MAX['PyPy']:g} on PyPy"
)


class Measured(NamedTuple):
    """One size on one runtime: the cost, and files and MB of memory after the first rounds and at the end."""

    cost: Cost
    files: tuple[int, int]
    rss_mb: tuple[float, float]


def run(*, quick: bool, scale: float) -> Report:
    """Deliver to few, then to many, on each runtime."""
    measured: dict[str, dict[str, Measured]] = {}
    for name, python in interpreters().items():
        measured[name] = {}
        for size, (lanes, origins) in SIZES.items():
            rounds = max(1, round((QUICK_ROUNDS if quick else ROUNDS[size]) * scale))
            measured[name][size] = _measure(python, lanes, origins, rounds)
            progress(f"{name}, {size}: {measured[name][size]}")
    return _judge(measured)


def _judge(measured: dict[str, dict[str, Measured]]) -> Report:
    rows: list[dict[str, Any]] = []
    holds = True
    for name, sizes in measured.items():
        for size, one in sizes.items():
            times = one.cost.cpu_us / sizes["few"].cost.cpu_us
            grown = max(one.files[1] / one.files[0], one.rss_mb[1] / one.rss_mb[0])
            holds &= times <= TIMES_MAX and grown <= GROWS_MAX
            holds &= size != "few" or one.rss_mb[1] <= RSS_MB_MAX[name]
            lanes, origins = SIZES[size]
            rows.append(
                {
                    "runtime": name,
                    "lanes": lanes,
                    "origins": origins,
                    "cpu_us": round(one.cost.cpu_us, 1),
                    "per_second": round(one.cost.per_second),
                    "times": round(times, 2),
                    "files_first": one.files[0],
                    "files_last": one.files[1],
                    "rss_first_mb": round(one.rss_mb[0]),
                    "rss_last_mb": round(one.rss_mb[1]),
                }
            )
    return Report(TARGET, holds, rows)


def _measure(python: str, lanes: int, origins: int, rounds: int) -> Measured:
    with migrated_database() as dsn, counting_receiver() as receiver:
        _add_endpoints(dsn, receiver, origins)
        command = [python, "-m", "worker", "run", "--concurrency", str(lanes)]
        with subprocess.Popen(command, cwd=ROOT, env=worker_environment(dsn), stderr=subprocess.DEVNULL) as worker:
            try:
                for _ in range(min(max(2, rounds // 2), FIRST_ROUNDS_MAX)):  # make every connection, and warm up
                    _round(dsn, worker, receiver, ROUND // origins)
                files, rss = open_files(worker.pid), memory_mb(worker.pid)[0]
                used, started = cpu_seconds(worker.pid), time.monotonic()
                for _ in range(rounds):
                    _round(dsn, worker, receiver, ROUND // origins)
                cost = Cost(
                    (cpu_seconds(worker.pid) - used) / rounds / ROUND * 1e6, rounds * ROUND / (time.monotonic() - started)
                )
                return Measured(cost, (files, open_files(worker.pid)), (rss, memory_mb(worker.pid)[0]))
            finally:
                worker.terminate()


def _round(dsn: str, worker: subprocess.Popen[bytes], receiver: CountingReceiver, events: int) -> None:
    before = receiver.count()
    _enqueue(dsn, events)
    wait_for(worker, receiver, before + ROUND)


def _add_endpoints(dsn: str, receiver: CountingReceiver, origins: int) -> None:
    async def add(database: Database) -> None:
        await database.script(["update webhook.meta set fan_out_max = 100000"])
        await database.value(
            "select count(*) from generate_series(0, $2::int - 1) as n cross join lateral webhook.create_endpoint("
            "format('http://127.%s.%s.%s:%s/', 1 + n / 62500, n / 250 % 250, 1 + n % 250, $1::int))",
            receiver.port, origins,
        )  # fmt: skip

    on_database(dsn, add)


def _enqueue(dsn: str, events: int) -> None:
    async def work(database: Database) -> None:
        await database.value(
            "select count(*) from webhook.enqueue_many("
            "array_fill('a'::text, array[$1::int]), array_fill(repeat('x', 1024), array[$1::int]))",
            events,
        )  # fmt: skip

    on_database(dsn, work)
