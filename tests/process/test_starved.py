"""A worker out of files or memory: what it cannot do waits, for itself or for others, and costs nobody an attempt."""

import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from fleet import Receiver, Worker, pythons, until

from worker.store.database import Database

pytestmark = [
    pytest.mark.alone,
    pytest.mark.sql,
    pytest.mark.fault(59),
    pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parents[1].name),
]

STATES = "select state, max(attempts)::int as attempts, count(*)::int as n from webhook.deliveries group by state"


async def add_endpoint(database: Database, url: str, event_type: str) -> None:
    await database.value(
        "select id from webhook.create_endpoint($1, settings => $2::text::jsonb)", url, f'{{"event_types": ["{event_type}"]}}'
    )


async def enqueue(database: Database, event_type: str, count: int, payload_bytes: int = 2) -> None:
    await database.value(
        "select count(*) from webhook.enqueue_many(array_fill($1::text, array[$2::int]), "
        "(select array_agg(rpad(n::text, $3::int)) from generate_series(1, $2::int) as n))",
        event_type, count, payload_bytes,
    )  # fmt: skip


def allow_files(worker: Worker, files: int) -> int:
    """Let a process have so many; return how many it might have had."""
    before, hard = resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (files, hard))
    return before


async def test_out_of_files(dsn: str, database: Database, python: str) -> None:
    """Kept connections serve on; what needs a new one waits, without an attempt, and is delivered when there are files."""
    async with Receiver().listening() as known, Receiver().listening() as other:
        await add_endpoint(database, known.url(), "known")
        await add_endpoint(database, other.url(), "other")
        await enqueue(database, "known", 1)
        with Worker(dsn, python=python) as worker:
            await until(lambda: database.value("select count(*) = 1 from webhook.attempts"))  # it has its connections
            files = allow_files(worker, 3)
            claims = await database.value("select last_value from webhook.claim_id")
            await enqueue(database, "other", 20)
            await until(lambda: database.value("select last_value >= $1::bigint + 3 from webhook.claim_id", claims))
            await enqueue(database, "known", 1)
            await until(lambda: len(known.arrivals) == 2)
            await until(lambda: database.value("select count(*) = 2 from webhook.attempts where outcome = 'ok'"))
            assert 2 == await database.value("select count(*) from webhook.attempts")
            assert {"closed"} == {row["circuit"] for row in await database.rows("select circuit from webhook.endpoints")}
            allow_files(worker, files)
            await until(lambda: len(other.arrivals) == 20)
            worker.terminate()
            status, said = await worker.wait()
    assert (0, True) == (status, "out of files, claims pause" in said), said
    assert [{"state": "delivered", "attempts": 1, "n": 22}] == await database.rows(STATES)


async def test_more_lanes_than_files(dsn: str, database: Database, python: str) -> None:
    """A worker that never has enough delivers with what it has."""
    async with Receiver(pause=0.02).listening() as receiver:
        await add_endpoint(database, receiver.url(), "t")
        await enqueue(database, "t", 100)
        with Worker(dsn, python=python) as worker:
            resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (32, 32))
            await until(lambda: len(receiver.arrivals) == 100)
            worker.terminate()
            status, said = await worker.wait()
    assert (0, True) == (status, "out of files, claims pause" in said), said
    assert [{"state": "delivered", "attempts": 1, "n": 100}] == await database.rows(STATES)


class MemoryLimit:
    """A control group for one process (version 1 or 2), whose memory can be limited."""

    def __init__(self, group: Path) -> None:
        self.group = group
        self.current, self.maximum, self.events = (
            group / name
            for name in (
                ("memory.current", "memory.max", "memory.events")
                if (group / "memory.max").exists()
                else ("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.oom_control")
            )
        )

    def take(self, pid: int) -> None:
        (self.group / "cgroup.procs").write_text(str(pid))

    def allow_more(self, size: int) -> None:
        self.maximum.write_text(str(int(self.current.read_text()) + size))

    @property
    def kills(self) -> int:
        return int(dict(line.split() for line in self.events.read_text().splitlines())["oom_kill"])


@contextmanager
def memory_limit() -> Iterator[MemoryLimit | None]:
    """Make a control group; None if this machine does not let us."""
    root = next((path for path in map(Path, ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")) if path.exists()), Path("/nowhere"))
    group = root / f"webhook-test-{uuid4().hex[:8]}"
    with suppress(OSError):
        group.mkdir()
    try:
        limit = MemoryLimit(group)
        yield limit if limit.maximum.exists() else None
    finally:
        with suppress(FileNotFoundError):
            group.rmdir()


async def test_killed_for_want_of_memory(dsn: str, database: Database, python: str) -> None:
    """By the kernel, where we can make it, else by its signal: another worker takes over, duplicates have recorded losses."""
    async with Receiver(pause=2).listening() as receiver:
        await add_endpoint(database, receiver.url(), "t")
        with memory_limit() as limit:
            with Worker(dsn, python=python) as worker:
                if limit is not None:
                    limit.take(worker.process.pid)
                await enqueue(database, "t", 10)
                await until(lambda: len(receiver.arrivals) == 10)  # on the wire
                if limit is None:
                    worker.process.kill()
                else:
                    limit.allow_more(2**20)
                    await enqueue(database, "t", 50, 250_000)
                status, _ = await worker.wait()
            assert (-9, 1) == (status, 1 if limit is None else limit.kills)
        events = await database.value("select count(*) from webhook.event")
        receiver.pause = 0
        await database.value("update webhook.claim_batch set lease_until = clock_timestamp() returning 1")
        with Worker(dsn, python=python) as successor:
            await until(lambda: database.value("select count(*) = $1::int from webhook.finished", events))
            successor.terminate()
            assert (await successor.wait())[0] == 0
        came = Counter(arrival.body for arrival in receiver.arrivals)
    lost = await database.value("select count(*) from webhook.attempts where outcome = 'lease_expired'")
    assert events == len(came)
    assert events < came.total() <= events + lost
