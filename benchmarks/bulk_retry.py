"""100,000 dead deliveries are retried at 500 a second by a job, while both workers are restarted again and again.

The deliveries are those of twenty endpoints, each of an event of its own; `deliveries retry --rate 500` starts the job, and
follows it. The fleet is a worker on each runtime. In turn they get SIGTERM, and are started again when they have ended, so that
one is up at any moment. Then three logs are read: the audit log, for when each was planned, which is the rate that the job
promises; the receiver's, for when each arrived, which is what receivers see; and the table, for how each ended. Where a worker
ends or the machine is busy, what is late comes with what is not: so arrivals may be a second's worth ahead of the rate.
"""

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import anyio

from benchmarks.arrivals import read_arrivals
from benchmarks.report import Report, progress
from benchmarks.stage import (
    ROOT,
    interpreters,
    migrated_database,
    on_database,
    receiver,
    running_workers,
    start_worker,
    stop_workers,
    worker_environment,
)
from worker.core.audit import worst_excess
from worker.store.database import Database
from worker.store.sql import statements

DEAD, ENDPOINTS, WORKERS = 100_000, 20, 2
RATE = 500.0
BATCH = 5_000
RESTARTS_EVERY_SECONDS = 4.0
AHEAD_SECONDS_MAX = 1.0
SECONDS_RATIO_MAX = 1.05
PATIENCE_SECONDS = 60.0
TARGET = (
    f"each arrives exactly once more; no second has more than {RATE:g} planned; no window has more arrivals than the rate "
    f"allows and {AHEAD_SECONDS_MAX:g} s of it; all together take at most {SECONDS_RATIO_MAX:g} times as long as they should"
)


def run(*, quick: bool, scale: float) -> Report:
    """Let them die, then retry them."""
    dead = round((DEAD / 10 if quick else DEAD) * scale / ENDPOINTS) * ENDPOINTS
    planned: list[float] = []
    states: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as directory, migrated_database() as dsn:
        log = Path(directory) / "arrivals"
        with receiver(str(log)) as port:
            on_database(dsn, lambda database: _let_die(database, port, dead))
            pythons = list(islice(cycle(interpreters().values()), WORKERS))
            with running_workers(dsn, pythons) as workers:
                exited, restarts = _retry(dsn, workers, pythons, dead / RATE)

                async def read(database: Database) -> None:
                    await _drain(database)
                    rows = await database.rows(
                        "select extract(epoch from (a.details ->> 'planned_at')::timestamptz)::float8 as at "
                        "from webhook.audit as a where a.action = 'delivery.retry' order by 1"
                    )
                    planned.extend(row["at"] for row in rows)
                    counted = await database.rows("select state, count(*)::int as n from webhook.deliveries group by state")
                    states.update((row["state"], row["n"]) for row in counted)

                on_database(dsn, read)
                stop_workers(workers)
        arrivals = read_arrivals(log)
    progress(f"the command ended with {exited}; {restarts} restarts; {states}")
    once = Counter(arrival.message for arrival in arrivals)
    return _judge(
        dead, exited, restarts, states, planned, sorted(arrival.at for arrival in arrivals), max(once.values(), default=0)
    )


async def _let_die(database: Database, port: int, dead: int) -> None:
    for n in range(ENDPOINTS):
        settings = f'{{"event_types": ["t{n}"]}}'
        url = f"http://127.0.0.1:{port}/{n}"
        await database.rows("select webhook.create_endpoint($1, settings => $2::text::jsonb)", url, settings)
    for first in range(0, dead, BATCH):
        await database.value(
            "select count(*) from webhook.enqueue_many("
            "(select array_agg('t' || n % $2::int) from generate_series(1, $1::int) as n), "
            "array_fill('{}'::text, array[$1::int]))",
            min(BATCH, dead - first),
            ENDPOINTS,
        )
    await database.script([statements()["bench_all_dead"]])
    await database.script(["vacuum analyze"])


def _retry(dsn: str, workers: list[subprocess.Popen[bytes]], pythons: list[str], seconds: float) -> tuple[int, int]:
    """Start the job, and restart a worker after the other until it is done; return the command's exit code, and how many."""
    command = ["deliveries", "retry", "--state", "dead", "--rate", f"{RATE:g}", "--yes", "--reason", "benchmark"]
    restarts, started = 0, time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "worker", *command], cwd=ROOT, env=worker_environment(dsn), stdout=subprocess.DEVNULL
    ) as retry:
        while retry.poll() is None:
            if time.monotonic() > started + seconds + PATIENCE_SECONDS:
                retry.kill()
            time.sleep(RESTARTS_EVERY_SECONDS)
            nth = restarts % len(workers)
            workers[nth].terminate()
            if workers[nth].wait(PATIENCE_SECONDS):
                raise RuntimeError("a worker did not end in an orderly way")
            workers[nth] = start_worker(dsn, pythons[nth])
            restarts += 1
    return retry.returncode, restarts


async def _drain(database: Database) -> None:
    with anyio.move_on_after(PATIENCE_SECONDS):
        while await database.value(  # noqa: ASYNC110 - other processes do the work
            "select exists (select from webhook.pending) or exists (select from webhook.inflight)"
        ):
            await anyio.sleep(0.2)


def _most_in_a_second(moments: Sequence[float]) -> int:
    """Return the most moments that any window of a second holds."""
    most, first = 0, 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


def _judge(
    dead: int, exited: int, restarts: int, states: dict[str, int], planned: list[float], arrived: list[float], most_times: int
) -> Report:
    seconds = arrived[-1] - arrived[0] if arrived else 0.0
    row: dict[str, Any] = {
        "deliveries": dead,
        "restarts": restarts,
        "retried": len(planned),
        "requests": len(arrived),
        "most_of_one": most_times,
        "most_planned_in_1_s": _most_in_a_second(planned),
        "most_arrived_in_1_s": _most_in_a_second(arrived),
        "arrivals_excess": round(worst_excess(arrived, RATE, round(AHEAD_SECONDS_MAX * RATE)), 1) if arrived else 0.0,
        "seconds": round(seconds, 1),
    }
    holds = (
        exited == 0
        and restarts >= WORKERS
        and states == {"delivered": dead}
        and len(planned) == len(arrived) == dead
        and most_times == 1
        and row["most_planned_in_1_s"] <= RATE + 1
        and row["arrivals_excess"] <= 0
        and seconds <= SECONDS_RATIO_MAX * dead / RATE
    )
    return Report(TARGET, holds, [row])
