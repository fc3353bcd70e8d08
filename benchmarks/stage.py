"""What the benchmarks share: a database, a receiver in a process of its own, interpreters, CPU accounting."""

import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from worker.embedded import embedded_postgres
from worker.store.database import Database, connect
from worker.store.migrate import migrate_up

ROOT = Path(__file__).parents[1]


def interpreters() -> dict[str, str]:
    """Return the runtimes that are set up here, by name."""
    found = {"CPython": ROOT / ".venv/bin/python", "PyPy": ROOT / ".venv-pypy/bin/python"}
    return {name: str(path) for name, path in found.items() if path.exists()} or {sys.implementation.name: sys.executable}


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


@contextmanager
def receiver(*log: str) -> Iterator[int]:
    """Run a receiver that answers 200 at once, in a process of its own; yield its port. `log` names a file that it leaves."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.receiver", *log], cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


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


def worker_environment(dsn: str) -> dict[str, str]:
    """Return the environment of a worker that may deliver to the loopback interface."""
    return {
        **os.environ,
        "DATABASE_URL": dsn,
        "WEBHOOK_WORKER_ALLOW_NETWORKS": "127.0.0.0/8",
        "WEBHOOK_WORKER_ALLOW_HTTP": "1",
    }
