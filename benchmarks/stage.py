"""What the benchmarks share: a database, a receiver in a process of its own, interpreters, CPU accounting."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio

from worker.embedded import embedded_postgres
from worker.store.database import Database, connect
from worker.store.migrate import migrate_up

ROOT = Path(__file__).parents[1]


def interpreters() -> dict[str, str]:
    """Return the runtimes that are set up here, by name: the CPython that runs this, and PyPy."""
    cpython = Path(sys.executable) if sys.implementation.name == "cpython" else ROOT / ".venv/bin/python"
    found = {"CPython": cpython, "PyPy": ROOT / ".venv-pypy/bin/python"}
    return {name: str(path) for name, path in found.items() if path.exists()}


@contextmanager
def migrated_database() -> Iterator[str]:
    """Run a server with the schema in place."""

    async def migrate(database: Database) -> None:
        await migrate_up(database)

    with embedded_postgres() as dsn:
        on_database(dsn, migrate)
        yield dsn


def on_database(dsn: str, work: Callable[[Database], Coroutine[Any, Any, None]]) -> None:
    """Run some statements on a connection of their own."""

    async def run() -> None:
        database = connect(dsn)
        try:
            await work(database)
        finally:
            await database.close()

    anyio.run(run)


def copy_database(dsn: str, name: str) -> str:
    """Copy a database that nobody is connected to, and return the copy's DSN."""
    source = urlsplit(dsn)

    async def copy(database: Database) -> None:
        await database.script([f"create database {name} template {source.path[1:]} strategy file_copy"])

    on_database(source._replace(path="/template1").geturl(), copy)
    return source._replace(path=f"/{name}").geturl()


def drop_database(dsn: str) -> None:
    """Drop a copy that is no longer needed."""
    copy = urlsplit(dsn)

    async def drop(database: Database) -> None:
        await database.script([f"drop database {copy.path[1:]} with (force)"])

    on_database(copy._replace(path="/template1").geturl(), drop)


@contextmanager
def receiver(*options: str) -> Iterator[int]:
    """Run a receiver that answers 200 at once, in a process of its own; yield its port. An option may name a file: its log."""
    command = [sys.executable, "-m", "benchmarks.receiver", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


CERTIFICATES = ROOT / "tests/certificates"


class CountingReceiver:
    """A receiver, plain and TLS, that can be asked how many requests it has answered."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        self.pid = process.pid
        self._out, self._in = process.stdout, process.stdin
        self.port, self.tls_port = map(int, self._out.readline().split())

    def count(self) -> int:
        """Ask."""
        return int(self._ask())

    def tally(self) -> dict[str, Any]:
        """Ask one that was started with `--tally` for more; `benchmarks/receiver.py` says what."""
        told: dict[str, Any] = json.loads(self._ask())
        return told

    def _ask(self) -> str:
        self._in.write("\n")
        self._in.flush()
        return self._out.readline()


@contextmanager
def counting_receiver(*options: str) -> Iterator[CountingReceiver]:
    """Run a receiver on all of 127.0.0.0/8, with the tests' certificate for localhost."""
    command = [sys.executable, "-m", "benchmarks.receiver", "--any", "--tls", str(CERTIFICATES / "chained.pem"), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        try:
            yield CountingReceiver(process)
        finally:
            process.terminate()


def cpu_seconds(pid: int) -> float:
    """Return what a running process has used until now, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def parent(pid: int) -> int:
    """Return the process that a process comes from: of a connection's, that is the server's first."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def family_cpu_seconds(pid: int) -> float:
    """Return what a process and its children have used, those included that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ended = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    living = 0.0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            living += cpu_seconds(int(child))
    return cpu_seconds(pid) + ended + living


def open_files(pid: int) -> int:
    """Return how many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def memory_mb(pid: int) -> tuple[float, float]:
    """Return a process' memory in MB: resident, and its share of that (a page of two processes counts half for each)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rss, pss = (int(text.partition(f"\n{name}:")[2].split()[0]) / 1024 for name in ("Rss", "Pss"))
    return rss, pss


@dataclass
class Ended:
    """A finished process: exit status, seconds of CPU, peak memory in MB."""

    status: int
    cpu_seconds: float
    rss_mb: float


def finish(process: subprocess.Popen[Any]) -> Ended:
    """Wait for a process and account for it."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


@contextmanager
def running_workers(dsn: str, pythons: Iterable[str], *options: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run workers of 64 lanes, one a Python. `stop_workers` ends them in order; those left at the end are killed."""
    workers = [start_worker(dsn, python, *options) for python in pythons]
    try:
        yield workers
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.kill()
                worker.wait()


def start_worker(dsn: str, python: str, *options: str) -> subprocess.Popen[bytes]:
    """Start a worker of 64 lanes. Whoever puts it into the list of `running_workers` need not end it."""
    command = [python, "-m", "worker", "run", "--concurrency", "64", *options]
    return subprocess.Popen(command, cwd=ROOT, env=worker_environment(dsn), stderr=subprocess.DEVNULL)


def stop_workers(workers: Sequence[subprocess.Popen[bytes]]) -> list[Ended]:
    """Send SIGTERM, wait, and account for each. Raises if one had ended by itself: what was measured was not the fleet."""
    if gone := [worker.returncode for worker in workers if worker.poll() is not None]:
        raise RuntimeError(f"{len(gone)} of {len(workers)} workers ended by themselves, with status {gone}")
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    return [finish(worker) for worker in workers]


def worker_environment(dsn: str) -> dict[str, str]:
    """Return the environment of a worker that may deliver to the loopback interface."""
    return {
        **os.environ,
        "DATABASE_URL": dsn,
        "WEBHOOK_WORKER_ALLOW_NETWORKS": "127.0.0.0/8",
        "WEBHOOK_WORKER_ALLOW_HTTP": "1",
    }


SAMPLE_SECONDS = 0.1
PATIENCE_SECONDS = 180.0


class Cost(NamedTuple):
    """Of the steady part of a run."""

    cpu_us: float
    per_second: float


def steady_cost(worker: subprocess.Popen[bytes], receiver: CountingReceiver, before: int, count: int, warm_up: float) -> Cost:
    """Wait until a worker has delivered `count` more than `before`; measure after the part `warm_up` of them."""
    marks = wait_for(worker, receiver, before + count)
    first = next(mark for mark in marks if mark[0] - before >= warm_up * count)
    last = next(mark for mark in reversed(marks) if mark[0] - before <= 0.98 * count)
    done = last[0] - first[0]
    return Cost((last[2] - first[2]) / done * 1e6, done / (last[1] - first[1]))


def wait_for(worker: subprocess.Popen[bytes], receiver: CountingReceiver, count: int) -> list[tuple[int, float, float]]:
    """Wait until the receiver has answered so many; return (answered, monotonic time, the worker's CPU seconds) on the way."""
    marks: list[tuple[int, float, float]] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not marks or marks[-1][0] < count:
        time.sleep(SAMPLE_SECONDS)
        marks.append((receiver.count(), time.monotonic(), cpu_seconds(worker.pid)))
        if worker.poll() is not None or marks[-1][1] > deadline:
            raise RuntimeError(f"the worker had delivered {marks[-1][0]} of {count} after {PATIENCE_SECONDS:g} s")
    return marks
