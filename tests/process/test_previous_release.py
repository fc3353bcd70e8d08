"""The previous release delivers, the schema is migrated under it, and both releases work together: nothing is lost."""

import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import anyio
import pytest
from fleet import ROOT, Receiver, Worker, pythons, until
from releases import COMMITS, check_out

from worker.store.database import Database, connect

SCHEMAS = ROOT / "tests/database/releases"
BATCH = 5
ENDPOINTS = 4


@asynccontextmanager
async def producing(dsn: str) -> AsyncIterator[list[int]]:
    """Enqueue a few events at a time while the context lasts; yield the numbers of those committed."""
    database, committed = connect(dsn), list[int]()

    async def produce() -> None:
        for first in count(0, BATCH):
            numbers = range(first, first + BATCH)
            await database.value(
                "select count(*) from webhook.enqueue_many($1::text[], $2::text[])",
                [f"t{n % ENDPOINTS}" for n in numbers],
                [str(n) for n in numbers],
            )
            committed.extend(numbers)
            await anyio.sleep(0.05)

    async with anyio.create_task_group() as producer:
        producer.start_soon(produce)
        yield committed
        producer.cancel_scope.cancel()  # a batch that was cut off is committed, or never was
    await database.close()


def arrived_since(receiver: Receiver, committed: list[int]) -> Callable[[], bool]:
    """Return whether something has arrived that was not yet committed now."""
    last = committed[-1] if committed else -1
    return lambda: any(int(arrival.body) > last + BATCH for arrival in receiver.arrivals[-50:])


async def attempts_by(database: Database, worker: Worker) -> int:
    return int(await database.value("select count(*) from webhook.attempt where worker like $1", f"%:{worker.process.pid}:%"))


@pytest.mark.sql
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parents[1].name)
@pytest.mark.parametrize("release", COMMITS)
async def test_the_previous_release_works_through_a_migration(
    empty_dsn: str, tmp_path: Path, release: str, python: str
) -> None:
    """Its worker delivers before `migrate up`, under it, after it, and beside ours; each event arrives, exits are orderly."""
    root = check_out(release, tmp_path)
    database = connect(empty_dsn)
    await database.script([(SCHEMAS / f"{release}.sql").read_text().replace("\\set ON_ERROR_STOP on", "")])
    async with Receiver().listening() as receiver:
        for n in range(ENDPOINTS):
            await database.value(
                "select id from webhook.create_endpoint($1, settings => $2::text::jsonb)",
                receiver.url(f"/{n}"),
                f'{{"event_types": ["t{n}"]}}',
            )
        async with producing(empty_dsn) as committed:
            with Worker(empty_dsn, python=python, root=root) as old:
                await until(lambda: len(receiver.arrivals) > 100)
                await anyio.run_process(
                    [sys.executable, "-m", "worker", "migrate", "up"], cwd=ROOT, env={**os.environ, "DATABASE_URL": empty_dsn}
                )
                await until(arrived_since(receiver, committed))  # on the new schema, the old release alone
                with Worker(empty_dsn, python=python) as new:
                    before = await attempts_by(database, old)
                    await until(lambda: attempts_by(database, new))
                    await until(arrived_since(receiver, committed))
                    assert before < await attempts_by(database, old)
                    old.terminate()
                    status, said = await old.wait()
                    assert (0, True) == (status, "0 outcomes fenced off, 0 not recorded" in said), said
                    await until(arrived_since(receiver, committed))
                    new.terminate()
                    assert (await new.wait())[0] == 0
        with Worker(empty_dsn, "--once") as last:
            assert (await last.wait())[0] == 0
    events = await database.value("select count(*) from webhook.event")
    came = Counter(int(arrival.body) for arrival in receiver.arrivals)
    assert set(range(events)) == set(came)
    lost = await database.value("select count(*) from webhook.attempts where outcome in ('lease_expired', 'interrupted')")
    assert came.total() <= events + lost  # a duplicate has a cause
    assert {"delivered"} == {row["state"] for row in await database.rows("select distinct state from webhook.deliveries")}
    await database.close()
