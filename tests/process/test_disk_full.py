"""A disk that fills while a worker delivers: a real one, small, in a mount namespace of its own."""

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import pytest
from fleet import Receiver, Worker, until
from servers import IS_ROOT, PostgresServer, needs_postgres, owned_directory

from worker.pipeline.ports import StoreError
from worker.store.database import Database, connect

DISK_BYTES = 96 * 1024 * 1024
IN_HAND_MAX = 256


def may_mount() -> bool:
    return IS_ROOT and not subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode


pytestmark = [pytest.mark.alone, needs_postgres, pytest.mark.skipif(not may_mount(), reason="mounting a small disk needs root")]


@dataclass
class Disk:
    """A small file system that only those in its namespace see: we through the process that keeps it."""

    path: Path
    keeper: subprocess.Popen[bytes]

    @property
    def ballast(self) -> Path:
        return Path(f"/proc/{self.keeper.pid}/root{self.path}/ballast")

    @property
    def within(self) -> list[str]:
        """What to run a command with."""
        enter = ["nsenter", f"--mount=/proc/{self.keeper.pid}/ns/mnt", "--"]
        return [*enter, "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    def fill(self) -> None:
        """Take what is left of it."""
        with self.ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 16))

    def free(self) -> None:
        self.ballast.unlink()


@contextmanager
def small_disk(path: Path) -> Iterator[Disk]:
    """Mount one at this path in a namespace; both are gone with the process that keeps them."""
    path.mkdir()
    mount = f"mount -t tmpfs -o size={DISK_BYTES},mode=0777 tmpfs {path} && echo && exec cat"
    keeper = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with keeper:
        assert keeper.stdin
        assert keeper.stdout
        try:
            assert b"\n" == keeper.stdout.readline()
            yield Disk(path, keeper)
        finally:
            keeper.stdin.close()


@pytest.fixture
def disk() -> Iterator[Disk]:
    with owned_directory() as directory, small_disk(directory / "disk") as disk:
        yield disk


@pytest.fixture(params=["the data", "the log"])
def server(disk: Disk, request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A server whose data, or whose write-ahead log, are on the small disk."""
    server = PostgresServer(
        disk.path.parent, disk.within, max_wal_size="8MB", min_wal_size="2MB", wal_level="minimal", max_wal_senders="0"
    )
    log = ["--waldir", str(disk.path / "wal")] if request.param == "the log" else []
    server.data = server.directory / "data" if log else disk.path / "data"
    server.initialize("--wal-segsize=1", *log)
    try:
        server.start()
        server.make_database()
        yield server
    finally:
        server.stop(signal.SIGQUIT)


WAITING = "select exists (select from webhook.pending)"
END_LEASES = "update webhook.claim_batch set lease_until = clock_timestamp()"
UNFINISHED = "select exists (select from webhook.pending) or exists (select from webhook.inflight)"
WRITE_LOG = "select pg_logical_emit_message(false, '', repeat('x', 1000000))::text"
MANY = """select count(*) from webhook.enqueue_many(
    array_fill('t'::text, array[$1::int]), array(select format('{"n": %s}', n) from generate_series(1, $1::int) as n))"""
LOST = """select e.payload, count(*)::int as n from webhook.attempts as a join webhook.events as e on e.id = a.event_id
    where a.outcome in ('lease_expired', 'interrupted') group by e.payload"""
EVENTS = 3000


@pytest.mark.sql
@pytest.mark.fault(50)
async def test_a_full_disk(disk: Disk, server: PostgresServer) -> None:
    """Whether Postgres says so, panics or ends: with room again, all is delivered, and duplicates are those of lost claims."""
    database = connect(server.dsn)
    async with Receiver().listening() as receiver:
        await database.value("select id from webhook.create_endpoint($1::text)", receiver.url())
        await database.value(MANY, EVENTS)
        with Worker(server.dsn, "--concurrency", "8") as worker:
            await until(lambda: len(receiver.arrivals) > EVENTS / 10)
            disk.fill()
            await until(partial(suffers, database, server))
            at_most = len(receiver.arrivals) + IN_HAND_MAX
            await anyio.sleep(1)  # more than one try of everything
            assert len(receiver.arrivals) <= at_most
            disk.free()
            await until(partial(is_back, database, server))
            await until(partial(answers, database, WAITING, False))
            worker.terminate()
            status, said = await worker.wait()
        await database.script([END_LEASES])  # of claims of which nobody was told
        with Worker(server.dsn):
            await until(partial(answers, database, UNFINISHED, False))
    assert (0, True) == (status, "the store fails, deliveries wait" in said), said
    assert EVENTS == await database.value("select count(*) from webhook.deliveries where state = 'delivered'")
    bodies = Counter(arrival.body.decode() for arrival in receiver.arrivals)
    lost = {row["payload"]: row["n"] for row in await database.rows(LOST)}
    assert EVENTS == len(bodies)
    assert {} == {body: count for body, count in bodies.items() if count > 1 + lost.get(body, 0)}
    await database.close()


async def suffers(database: Database, server: PostgresServer) -> bool:
    """Tell whether Postgres has met the full disk: errors where data should go, a panic where the log should."""
    said = (server.directory / "log").read_text()
    if not (server.data / "pg_wal").is_symlink():
        return "ERROR:  could not extend file" in said
    with suppress(StoreError):
        await database.value(WRITE_LOG)  # what room it has kept is used up
    return "PANIC:  could not write to file" in said


async def is_back(database: Database, server: PostgresServer) -> bool:
    """Tell whether it answers; one that could not even recover is started again, as its supervisor would."""
    if not server.is_running:
        server.start()
    return await answers(database, "select true", True)


async def answers(database: Database, question: str, answer: bool) -> bool:
    with suppress(StoreError):
        return bool(answer is await database.value(question))
    return False
