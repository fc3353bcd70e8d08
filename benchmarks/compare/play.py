"""One run of one contestant: a backlog as fast as it can, then half of that as a steady supply."""

import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import anyio
import psutil

from benchmarks.arrivals import percentile
from benchmarks.compare.contestant import LANES, PAYLOAD, Command, Contestant, Stage
from benchmarks.compare.installed import debian
from benchmarks.compare.nginx import Nginx
from benchmarks.stage import copy_database, drop_database, on_database
from worker.store.database import Database

FILL_BATCH = 5_000
STEADY_FROM, STEADY_TO = 0.5, 0.96
"""The part of a backlog that is measured: without the start, the warm-up and the end."""

SUPPLY_WARM_UP_SECONDS, SUPPLY_SECONDS = 2.0, 6.0
SLOT_SECONDS = 0.02
SETTLE_SECONDS_MAX = 10.0
PATIENCE_SECONDS = 300.0
WRK_SECONDS = 6


class Figures(NamedTuple):
    """What one run gave. Latency is from just before a producer's statement to the receiver's log: NaN where nothing waits."""

    per_second: float
    worker_us: float
    server_us: float
    rss_mb: float
    p50_ms: float = float("nan")
    p99_ms: float = float("nan")


@dataclass
class Mark:
    """A moment: requests answered, monotonic seconds, CPU seconds of the worker and of Postgres (and Redis)."""

    count: int
    at: float
    worker: float
    server: float


def play(contestant: Contestant, empty_dsn: str, receiver: Nginx, scale: float) -> Figures:
    """Let a contestant deliver its backlog on a database of its own, and then, if it waits for more, a steady supply."""
    dsn = copy_database(empty_dsn, "contestant")
    try:
        with contestant.service() as (told, services):
            stage = Stage(dsn, receiver.prefix, told)
            contestant.prepare(stage)
            deliveries = contestant.deliveries
            if contestant.waits:
                deliveries = max(200, round(deliveries * scale))
                anyio.run(_fill, contestant, stage, deliveries)
            on_database(dsn, _settle_down)
            before = receiver.count()
            servers = [postmaster(dsn), *services]
            with _running(contestant.commands(stage)) as workers:
                fast = _steady(receiver, before, deliveries, workers, servers)
                if not contestant.waits:
                    return fast
                _wait_for(receiver, before + deliveries, workers)
                p50, p99 = _half_load(contestant, stage, receiver, fast.per_second / 2)
                return fast._replace(p50_ms=p50, p99_ms=p99)
    finally:
        drop_database(dsn)


def ceiling(receiver: Nginx) -> Figures:
    """Let wrk alone send the same requests: what this machine's loopback and receiver can do at all."""
    script = receiver.folder / "post.lua"
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = '{PAYLOAD}'\nwrk.headers['Content-Type'] = 'application/json'\n"
        "wrk.headers['webhook-id'] = 'msg_1'\nwrk.headers['webhook-timestamp'] = '1700000000'\n"
        "wrk.headers['webhook-signature'] = 'v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4='\n"
    )
    command = [debian("wrk", "wrk"), "-t1", f"-c{LANES}", f"-d{WRK_SECONDS}", "-s", str(script), f"{receiver.prefix}1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    found = re.search(r"(\d+) requests in", text)
    if not found:
        raise RuntimeError(f"wrk: {text}")
    count = int(found[1])
    cpu = usage.ru_utime + usage.ru_stime
    return Figures(count / WRK_SECONDS, cpu / count * 1e6, 0.0, usage.ru_maxrss / 1024)


async def _fill(contestant: Contestant, stage: Stage, deliveries: int) -> None:
    async with contestant.producer(stage) as enqueue:
        for first in range(0, deliveries, FILL_BATCH):
            await enqueue(min(FILL_BATCH, deliveries - first))


async def _settle_down(database: Database) -> None:
    await database.script(["vacuum analyze", "checkpoint"])


def postmaster(dsn: str) -> int:
    """Return the process that all of a server's others come from."""
    backends: list[int] = []

    async def ask(database: Database) -> None:
        parent = psutil.Process(await database.value("select pg_backend_pid()")).parent()
        assert parent
        backends.append(parent.pid)

    on_database(dsn, ask)
    return backends[0]


@contextmanager
def _running(commands: Sequence[Command]) -> Iterator[list[psutil.Process]]:
    workers = [
        subprocess.Popen(
            [str(argument) for argument in command.arguments],
            cwd=command.folder,
            env={**os.environ, **command.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]
    try:
        yield [psutil.Process(worker.pid) for worker in workers]
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            try:
                worker.wait(SETTLE_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def _steady(receiver: Nginx, before: int, deliveries: int, workers: list[psutil.Process], servers: list[int]) -> Figures:
    marks = []
    for share in (STEADY_FROM, STEADY_TO):
        count = _wait_for(receiver, before + int(share * deliveries), workers)
        marks.append(
            Mark(count, time.monotonic(), _cpu_seconds(workers), _cpu_seconds([psutil.Process(pid) for pid in servers]))
        )
    memory = sum(process.memory_full_info().pss for worker in workers for process in _family(worker)) / 2**20
    first, last = marks
    done = last.count - first.count
    return Figures(
        done / (last.at - first.at),
        (last.worker - first.worker) / done * 1e6,
        (last.server - first.server) / done * 1e6,
        memory,
    )


def _wait_for(receiver: Nginx, count: int, workers: list[psutil.Process]) -> int:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (now := receiver.count()) < count:
        if time.monotonic() > deadline or not all(_lives(worker) for worker in workers):
            raise RuntimeError(f"{count - now} requests are missing")
        time.sleep(0.01)
    return now


def _lives(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    """Return what they, their descendants and those that these have waited for have used."""
    return sum(sum(member.cpu_times()[:4]) for process in processes for member in _family(process))


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _half_load(contestant: Contestant, stage: Stage, receiver: Nginx, per_second: float) -> tuple[float, float]:
    offset = receiver.logged()
    committed: dict[str, float] = anyio.run(_supply, contestant, stage, per_second)
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    while (arrivals := receiver.arrivals(offset)).keys() < committed.keys() and time.monotonic() < deadline:
        time.sleep(0.2)
    until = time.time()
    took = [arrivals.get(message, until) - at for message, at in committed.items()]
    return percentile(took, 50) * 1e3, percentile(took, 99) * 1e3


async def _supply(contestant: Contestant, stage: Stage, per_second: float) -> dict[str, Any]:
    """Enqueue steadily, a slot's worth in a transaction; return, by `webhook-id`, when, without the warm-up."""
    committed: dict[str, float] = {}
    batch = max(1, round(per_second * SLOT_SECONDS))
    slots = round((SUPPLY_WARM_UP_SECONDS + SUPPLY_SECONDS) * per_second / batch)
    async with contestant.producer(stage) as enqueue:
        started = time.monotonic()
        for slot in range(slots):
            due = slot * batch / per_second
            await anyio.sleep(max(0.0, started + due - time.monotonic()))
            at = time.time()
            ids = await enqueue(batch)
            if due >= SUPPLY_WARM_UP_SECONDS:
                committed |= dict.fromkeys(ids, at)
    return committed
