"""What a sample of the queue says, and what it costs: bounded, whatever there is."""

import json
from typing import Any

import anyio
import pytest

from worker.service.sampler import Sampler
from worker.store.database import Database, DatabaseUnavailableError, connect
from worker.store.postgres import PostgresStore
from worker.store.sql import statements

pytestmark = pytest.mark.sql

PENDING, ENDPOINTS, PAGES_MAX = 100_000, 10_000, 200
READ = """
select relname::text as name, coalesce(seq_tup_read, 0)::int as by_scan, coalesce(idx_tup_fetch, 0)::int as by_index
from pg_stat_xact_user_tables where schemaname = 'webhook'
"""


async def sample(database: Database, **bounds: int) -> dict[str, Any]:
    given = ", ".join(f"{name} => {bound}" for name, bound in bounds.items())
    document: dict[str, Any] = json.loads(await database.value(f"select webhook.sample_queue({given})"))
    return document


async def endpoint(database: Database, settings: str = "{}") -> int:
    create = "select id from webhook.create_endpoint('https://receiver.test/', settings => $1::text::jsonb)"
    return int(await database.value(create, settings))


async def claim(database: Database, rows: int) -> list[list[Any]]:
    """Claim so many; return [claim, delivery] of each."""
    document = json.loads(await database.value("select webhook.claim('w', $1::int, 1000000000)", rows))
    return [[document["claim"], row[0]] for row in document["deliveries"]]


async def test_an_empty_queue(database: Database) -> None:
    """Nothing is there, nothing is due, and no table is missing."""
    found = await sample(database)
    assert {"pending": 0, "held": 0, "in_flight": 0, "dead": 0} == found["deliveries"]
    assert [] == found["endpoints"]
    assert 0 == found["oldest_due_seconds"]
    assert {"pending", "inflight", "endpoint_sched", "claim_batch", "wake"} == found["dead_rows"].keys()


async def test_an_endpoint_in_the_queue_with_nothing_but_what_is_set_aside(database: Database) -> None:
    """It has nothing due: infinity is no moment to count from."""
    await endpoint(database)
    await database.value("select webhook.enqueue('e', '{}')")
    await database.value("select webhook.hold_delivery(id) from webhook.deliveries")
    await database.value("select webhook.drain_wake(100)")
    await database.script(["update webhook.endpoint_sched set turn = 1e9, head = '-infinity', next_at = 'infinity'"])
    found = await sample(database)
    assert (0, 1) == (found["oldest_due_seconds"], found["deliveries"]["held"])


async def test_deliveries_and_endpoints_by_state(database: Database) -> None:
    """Exact, while there are not many: those of a paused endpoint, and those that were set aside, are held."""
    paused = await endpoint(database, '{"event_types": ["paused"]}')
    await endpoint(database, '{"event_types": ["e"]}')
    await database.value("select webhook.pause_endpoint($1::bigint)", paused)
    await database.value(
        "select count(*) from webhook.enqueue_many(array_fill('e'::text, array[10]), array_fill('{}'::text, array[10]))"
    )
    await database.value("select webhook.enqueue('paused', '{}')")
    claimed = await claim(database, 4)
    outcomes = [[*row, "dead", "http_status", 500, 0, 0, None, None, None, None, None] for row in claimed[:1]]
    await database.value("select webhook.record('w', $1::text)", json.dumps(outcomes))
    aside = "select max(id) from webhook.pending join webhook.endpoint_sched using (endpoint_id) where state = 'enabled'"
    await database.script([f"update webhook.pending set run_at = 'infinity' where id = ({aside})"])

    found = await sample(database)

    assert {"pending": 5, "held": 2, "in_flight": 3, "dead": 1} == found["deliveries"]
    assert [["enabled", "closed", 1], ["paused", "closed", 1]] == sorted(found["endpoints"])


async def test_the_oldest_due_is_what_nothing_holds_back(database: Database) -> None:
    """Due for an hour: it counts, noticed by a claim or not yet; it does not while its endpoint waits for a rate or a timer."""
    await endpoint(database)
    await database.value("select webhook.enqueue('e', '{}', deliver_at => now() - interval '1 hour')")
    assert (await sample(database))["oldest_due_seconds"] == pytest.approx(3600, abs=60)  # in wake
    await database.value("select webhook.drain_wake(100)")
    for change, expected in {
        "turn = 1e9, next_at = 'infinity'": 3600,
        "rate = 1, tat = now() - interval '100 s'": 100,
        "turn = null, next_at = now() + interval '9 min'": 0,
    }.items():
        await database.script([f"update webhook.endpoint_sched set {change}"])
        assert (await sample(database))["oldest_due_seconds"] == pytest.approx(expected, abs=60), change


async def test_the_oldest_snapshot(dsn: str, database: Database) -> None:
    """A transaction that has a snapshot is seen, and how long it has been there."""
    holder = connect(dsn)
    await holder.script(["begin isolation level repeatable read", "select 1", "select pg_sleep(0.3)"])
    found = await sample(database)
    await holder.script(["rollback"])
    await holder.close()
    assert found["oldest_snapshot_seconds"] >= 0.3
    assert found["oldest_snapshot_transactions"] >= 0


@pytest.mark.parametrize("analyzed", [False, True])
async def test_what_it_reads_is_bounded(dsn: str, database: Database, *, analyzed: bool) -> None:
    """With 100,000 pending over 10,000 endpoints it reads so many pages, some rows by index, and comes near the truth."""
    await database.script([statements()["bench_load"].replace("$1", str(PENDING)).replace("$2", str(ENDPOINTS))])
    if analyzed:
        await database.script(["vacuum analyze"])
    one = connect(dsn)
    async with one.transaction():
        found = await sample(one, pages_max=PAGES_MAX, endpoints_max=500)
        read = {row["name"]: row for row in await one.rows(READ)}
    await one.close()
    rows_a_page = 110
    assert read["pending"]["by_scan"] <= 1.5 * PAGES_MAX * rows_a_page  # which pages are taken is left to chance
    assert read["endpoint_sched"]["by_scan"] <= 1.5 * PAGES_MAX * rows_a_page
    assert read["pending"]["by_index"] <= 500
    assert read["endpoint_sched"]["by_index"] <= ENDPOINTS + 2 * 500
    assert found["deliveries"]["pending"] == pytest.approx(PENDING, rel=0.5)
    assert 0 < found["oldest_due_seconds"] < 60  # since its endpoint's timer fired
    assert 1 == len(found["endpoints"])


class Queue:
    """Answers, or is away."""

    def __init__(self) -> None:
        self.away = False

    async def sample_queue(self) -> dict[str, Any]:
        if self.away:
            raise DatabaseUnavailableError("away")
        return {
            "deliveries": {"pending": 7},
            "endpoints": [["enabled", "closed", 2]],
            "oldest_due_seconds": 1.5,
            "dead_rows": {"wake": 3},
            "oldest_snapshot_seconds": 2.5,
            "oldest_snapshot_transactions": 9,
        }


async def test_the_sampler_keeps_the_latest() -> None:
    """It has the queue's numbers and this process's rate, and nothing while the database is away."""
    queue, times, delivered = Queue(), iter([100.0, 110.0, 120.0]), iter([0, 50, 250])
    sampler = Sampler(queue, lambda: next(delivered), lambda: next(times))
    await sampler.look()
    first = sampler.latest
    await sampler.look()
    second = sampler.latest
    assert first is not None
    assert second is not None
    assert (5.0, 20.0) == (first.delivered_per_second, second.delivered_per_second)
    assert ({"pending": 7}, [("enabled", "closed", 2)]) == (
        second.deliveries,
        second.endpoints,
    )
    queue.away = True
    await sampler.look()
    assert sampler.latest is None


async def test_a_store_samples_beside_its_housekeeping(dsn: str) -> None:
    """They share a connection, and take turns."""
    store = PostgresStore(dsn, "w")
    documents: list[dict[str, Any]] = []

    async def look() -> None:
        documents.append(await store.sample_queue())

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(look)
            group.start_soon(store.reap)
    await store.close()
    assert [0, 0, 0] == [document["deliveries"]["pending"] for document in documents]
