"""An hour of half load: does anything grow?

One worker of 64 lanes on each runtime, together on one database. First what an event costs is measured, all processes together,
from the producer to the receiver; then a producer supplies what keeps half of the processors busy for an hour (`--quick`: a
minute), a kilobyte each, over a hundred endpoints of one receiver. 360 times (60) in between it is looked at what the workers
hold, how large the tables are whose rows come and go, how long `webhook.claim` and `webhook.record` take by the server's own
count (`track_functions`), what waits, and how long deliveries took.

What is judged is the last quarter against the second (`endurance_judge`). An hour of history would fill a small disk: if what
the first minute costs says so, the supply is lowered, and a note says by how much.

An idle claim waits in the server for something to do, so the mean of a claim has some waiting in it: as much at the end as in
the beginning, if nothing grows.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from benchmarks.endurance_judge import Run, judge_run
from benchmarks.report import Report, progress
from benchmarks.stage import (
    ROOT,
    CountingReceiver,
    copy_database,
    counting_receiver,
    cpu_seconds,
    drop_database,
    family_cpu_seconds,
    interpreters,
    memory_mb,
    migrated_database,
    on_database,
    open_files,
    parent,
    running_workers,
    stop_workers,
    threads,
)
from worker.store.database import Database
from worker.store.sql import statements

SECONDS, QUICK_SECONDS = 3600.0, 60.0
SAMPLES, QUICK_SAMPLES = 360, 60
ENDPOINTS = 100
TRIAL_PER_SECOND, TRIAL_SECONDS, QUICK_TRIAL_SECONDS = 2_000.0, 30.0, 10.0
"""How an event's cost is measured. More of them at once would cost a little less each."""

DISK_BYTES_MAX = 40e9
VACUUM_TURNS = 360
"""How often in a run the server looks for tables to vacuum: in an hour every ten seconds, as docs/sizing.md advises."""

SETTLE_SECONDS_MAX = 30.0


def run(*, quick: bool, scale: float) -> Report:
    """Measure what an event costs, then supply half of what the processors could bear for long."""
    seconds = (QUICK_SECONDS if quick else SECONDS) * scale
    every = seconds / (QUICK_SAMPLES if quick else SAMPLES)
    vacuum = f"alter system set autovacuum_naptime = '{max(1, round(seconds / VACUUM_TURNS))} s'"

    async def set_up(database: Database) -> None:
        await database.script([vacuum])
        await database.script(["select pg_reload_conf()"])

    with migrated_database() as base:
        on_database(base, set_up)
        cpu_each, bytes_each = _cost(copy_database(base, "trial"), QUICK_TRIAL_SECONDS if quick else TRIAL_SECONDS)
        half = len(os.sched_getaffinity(0)) / 2 / cpu_each
        per_second = min(half, DISK_BYTES_MAX / bytes_each / seconds)
        notes = [
            f"an event costs {cpu_each * 1e6:.0f} us, all processes together: {half:.0f} a second are half of this machine",
            f"supplied {per_second:.0f} a second; each leaves {bytes_each:.0f} bytes of history",
        ]
        if per_second < half:
            notes.append("that is less than half, for the disk's sake: it would be over 40 GB")
        for note in notes:
            progress(note)
        long = _long_run(copy_database(base, "half_load"), per_second, seconds, every)
    report = judge_run(long)
    report.notes = [*notes, *report.notes]
    return report


def _cost(dsn: str, seconds: float) -> tuple[float, float]:
    """Return what one event costs, enqueued, delivered and vacuumed: seconds of processor, and bytes of disk that stay."""
    kept: list[int] = []
    servers: list[int] = []

    async def begin(database: Database) -> None:
        servers.append(parent(await database.value("select pg_backend_pid()")))

    async def end(database: Database) -> None:
        kept.append(await database.value(statements()["bench_history_bytes"]))

    with counting_receiver() as receiver:
        _prepare(dsn, receiver)
        on_database(dsn, begin)
        with running_workers(dsn, interpreters().values()) as workers, _supply(dsn, TRIAL_PER_SECOND, 2 * seconds) as producer:

            def spent() -> tuple[int, float]:
                own = (*(worker.pid for worker in workers), producer.pid, receiver.pid)
                return receiver.count(), sum(map(cpu_seconds, own)) + family_cpu_seconds(servers[0])

            time.sleep(seconds)  # it warms up
            count, cpu = spent()
            time.sleep(seconds * 0.9)
            count_after, cpu_after = spent()
            producer.wait()
            stop_workers(workers)
        count_of_all = receiver.count()
        on_database(dsn, end)
    drop_database(dsn)
    return (cpu_after - cpu) / (count_after - count), kept[0] / count_of_all


@contextmanager
def _supply(dsn: str, per_second: float, seconds: float) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.stream", dsn, str(per_second), str(seconds), str(ENDPOINTS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as producer:
        try:
            yield producer
        finally:
            producer.terminate()


def _prepare(dsn: str, receiver: CountingReceiver) -> None:
    async def prepare(database: Database) -> None:
        await database.script(
            ["alter database " + await database.value("select current_database()") + " set track_functions = 'pl'"]
        )
        await database.value(
            "select count(*) from generate_series(0, $2::int - 1) as n cross join lateral webhook.create_endpoint("
            "format('http://127.0.0.1:%s/%s', $1::int, n), settings => jsonb_build_object('event_types', array['t' || n]))",
            receiver.port,
            ENDPOINTS,
        )

    on_database(dsn, prepare)


def _long_run(dsn: str, per_second: float, seconds: float, every: float) -> Run:
    found = Run(per_second)
    names = list(interpreters())
    with counting_receiver("--tally") as receiver:
        _prepare(dsn, receiver)
        with running_workers(dsn, interpreters().values()) as workers, _supply(dsn, per_second, seconds) as producer:
            pids = dict(zip(names, (worker.pid for worker in workers), strict=True))

            async def watch(database: Database) -> None:
                look = Look(database, receiver, pids)
                await look.take()
                while producer.poll() is None:
                    await anyio.sleep(max(0.0, look.started + (len(found.samples) + 1) * every - time.monotonic()))
                    if gone := [name for name, worker in zip(names, workers, strict=True) if worker.poll() is not None]:
                        raise RuntimeError(f"the worker on {gone[0]} ended by itself after {len(found.samples)} samples")
                    found.samples.append(await look.take())
                    progress(json.dumps(found.samples[-1]))

            on_database(dsn, watch)
            if producer.wait() != 0 or producer.stdout is None:
                raise RuntimeError(f"the producer ended with status {producer.returncode}")
            found.enqueued = int(producer.stdout.read())
            deadline = time.monotonic() + SETTLE_SECONDS_MAX
            while (told := receiver.tally())["different"] < found.enqueued and time.monotonic() < deadline:
                time.sleep(0.2)
            found.statuses = [ended.status for ended in stop_workers(workers)]
            told = receiver.tally()
            found.arrived, found.different = told["answered"], told["different"]
    return found


class Look:
    """Looks at everything, and says what is new since the last look."""

    def __init__(self, database: Database, receiver: CountingReceiver, pids: dict[str, int]) -> None:
        self.started = time.monotonic()
        self._database, self._receiver, self._pids = database, receiver, pids
        self._at = self.started
        self._cpu = dict.fromkeys(pids, 0.0)
        self._calls: dict[str, tuple[int, float]] = {}
        self._answered = 0
        self._idle, self._total = 0, 0

    async def take(self) -> dict[str, Any]:
        """Return one sample: of the interval since the last, or of this moment."""
        told = self._receiver.tally()
        tables = json.loads(await self._database.value(statements()["bench_endurance"]))
        now = time.monotonic()
        passed, self._at = now - self._at, now
        sample: dict[str, Any] = {"at": round(now - self.started, 1), **tables["sizes"], "backlog": tables["backlog"]}
        for function, (calls, milliseconds) in tables["functions"].items():
            before = self._calls.get(function, (0, 0.0))
            self._calls[function] = calls, milliseconds
            sample[f"{function}s_per_second"] = round((calls - before[0]) / passed, 1)
            sample[f"{function}_ms"] = (
                round((milliseconds - before[1]) / (calls - before[0]), 3) if calls > before[0] else None  # not yet told
            )
        took = Counter({int(milliseconds): count for milliseconds, count in told["took"].items()})
        sample |= {f"p{percent}_ms": percentile_of(took, percent) for percent in (50, 99)}
        sample["per_second"] = round((told["answered"] - self._answered) / passed)
        self._answered = told["answered"]
        idle, total = _processors()
        busy = 1 - (idle - self._idle) / (total - self._total)  # by whatever else is at work here, too
        sample["machine cpu_percent"] = round(100 * busy, 1)
        self._idle, self._total = idle, total
        for name, pid in self._pids.items():
            memory, cpu = memory_mb(pid), cpu_seconds(pid)
            sample[f"{name} rss_mb"], sample[f"{name} pss_mb"] = (round(size, 1) for size in memory)
            sample[f"{name} files"] = open_files(pid)
            sample[f"{name} threads"] = threads(pid)
            sample[f"{name} cpu_percent"] = round(100 * (cpu - self._cpu[name]) / passed, 1)
            self._cpu[name] = cpu
        return sample


def _processors() -> tuple[int, int]:
    """Return the ticks that the machine's processors have idled, and all there were."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def percentile_of(counts: Counter[int], percent: float) -> int | None:
    """Return the value that `percent` of those counted do not exceed; None if there are none."""
    left = counts.total() * percent / 100
    for value, count in sorted(counts.items()):
        left -= count
        if left <= 0:
            return value
    return None
