"""What all tests share: one Postgres server, a fresh database a test, a check for leaks, and an order from cheap to dear."""

import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import anyio
import pytest
from hypothesis import HealthCheck, settings
from stalls import Stalls, watched_for_stalls

from worker.embedded import embedded_postgres
from worker.store.database import Database, connect
from worker.store.migrate import migrate_up

ORDER = ("unit", "simulation", "database", "socket", "process")
EMPTY = "encoding 'UTF8' locale 'C' template template0"
LEAK_SECONDS_MAX = 3.0
_SHARED: set[str] = set()

# PyPy is slow until it is warm, and these machines are shared: time says nothing about correctness here.
settings.register_profile("webhook", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("webhook")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what needs nothing first, then what needs a database, a socket, a process."""

    def rank(item: pytest.Item) -> int:
        return next((n for n, name in enumerate(ORDER) if name in item.path.parts), len(ORDER))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio; those that can run on trio too parametrize this themselves."""
    return "asyncio"


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """Yield a DSN of a server where databases may be created: TEST_DATABASE_URL, or an embedded one."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    before = _held()
    with embedded_postgres() as dsn:
        _SHARED.update(_held() - before)  # whichever test comes first, what the session keeps is not its leak
        yield dsn


@pytest.fixture(scope="session")
def template(server_dsn: str) -> Iterator[str]:
    """Yield the name of a migrated database to clone. It is unique, so that runs on one server do not meet."""
    name = f"webhook_test_{uuid4().hex[:12]}"

    async def migrate() -> None:
        database = connect(with_database(server_dsn, name))
        await migrate_up(database)
        await database.close()

    administer(server_dsn, f"create database {name} {EMPTY}")
    run_aside(migrate)
    yield name
    administer(server_dsn, f"drop database {name} with (force)")


@pytest.fixture
def new_database(server_dsn: str) -> Iterator[Callable[[str], str]]:
    """Yield a function that makes a database with these options and returns its DSN; all are dropped after the test."""
    names: list[str] = []

    def make(options: str) -> str:
        names.append(f"webhook_test_{uuid4().hex[:12]}")
        administer(server_dsn, f"create database {names[-1]} {options}")
        return with_database(server_dsn, names[-1])

    yield make
    for name in names:
        administer(server_dsn, f"drop database if exists {name} with (force)")


@pytest.fixture
def empty_dsn(new_database: Callable[[str], str]) -> str:
    """Return the DSN of a new database with nothing of ours in it."""
    return new_database(EMPTY)


@pytest.fixture
def dsn(new_database: Callable[[str], str], template: str) -> str:
    """Return the DSN of a migrated database of this test's own."""
    return new_database(f"template {template}")


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """Yield a connection to this test's database."""
    connection = connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
def stalls() -> Iterator[Stalls]:
    """Yield how long this machine stood still at most, for tests that time others to the tenth of a second."""
    with watched_for_stalls() as watched:
        yield watched


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fail a test that leaves a child process, a thread, a socket or a pipe behind."""
    before = _held()
    yield
    deadline = time.monotonic() + LEAK_SECONDS_MAX
    while left := _held() - before:
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {', '.join(sorted(left))}")
        gc.collect()  # PyPy closes what nobody refers to when it collects
        time.sleep(0.01)


def with_database(dsn: str, name: str) -> str:
    """Return the same server's DSN for another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


def administer(dsn: str, statement: str) -> None:
    """Run one statement that cannot be in a transaction."""

    async def run() -> None:
        database = connect(dsn)
        await database.script([statement])
        await database.close()

    run_aside(run)


def run_aside(function: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function in a thread of its own: in this one, an async fixture may have a loop already."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(anyio.run, function).result()


def _held() -> set[str]:
    """Name the children, threads, sockets and pipes of this process."""
    held = {f"thread {thread.name}" for thread in threading.enumerate()}
    own = Path("/proc/self")
    for children in own.glob("task/*/children"):
        with suppress(OSError):  # a thread that has just ended
            held |= {f"process {pid}" for pid in children.read_text().split()}
    for descriptor in (own / "fd").iterdir():
        with suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith(("socket:", "pipe:")):
                held.add(f"file {descriptor.name} {target}")
    return held - _SHARED
