"""Wide fan-out: the producer leaves it to the workers, and who gets the event does not depend on when they do it."""

import json
from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import pytest

from worker.core.model import Decision, Outcome
from worker.store.database import Database, connect
from worker.store.postgres import PostgresStore

BOUND = 3
ENQUEUE = "select webhook.enqueue('order.created', '{}')"
STEP = "select webhook.fan_out_step($1::int)"
SUBSCRIBE = "select webhook.set_endpoint($1::bigint, $2::text::jsonb)"
FORGET = "select webhook.forget_subscriptions()"
WAITING = "select count(*) from webhook.fan_out"


class RolledBack(Exception):
    """Leaves a transaction without committing it."""


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[Database]:
    """Yield a second connection."""
    connection = connect(dsn)
    yield connection
    await connection.close()


async def endpoints(database: Database, count: int, *event_types: str) -> list[int]:
    sql = """select e.id from generate_series(1, $1::int) as n
             cross join lateral webhook.create_endpoint('http://127.0.0.1:9/' || n, '', $2::text::jsonb) as e"""
    rows = await database.rows(sql, count, json.dumps({"event_types": event_types}))
    return sorted(row["id"] for row in rows)


@pytest.fixture
async def subscribed(database: Database) -> list[int]:
    """Return the ids of more endpoints than the bound."""
    await database.script([f"update webhook.meta set fan_out_max = {BOUND}"])
    return await endpoints(database, BOUND + 4)


async def receivers(database: Database, event: int) -> list[int]:
    rows = await database.rows("select endpoint_id from webhook.pending where event_id = $1::bigint order by 1", event)
    return [row["endpoint_id"] for row in rows]


async def finish(database: Database, rows_max: int = 2) -> None:
    while await database.value(STEP, rows_max):
        pass


async def test_bound(database: Database, subscribed: list[int]) -> None:
    """As many endpoints as the bound are the producer's own work; one more, and it writes for none of them."""
    exact = await endpoints(database, BOUND, "user.created")
    await database.value("select webhook.enqueue('order.created', '{}')")
    assert await database.value("select count(*) from webhook.pending") == 0
    assert await database.value("select count(*) from webhook.wake") == 0
    assert await database.value(WAITING) == 1
    await database.script(["update webhook.meta set fan_out_max = 10"])
    event = await database.value("select webhook.enqueue('user.created', '{}')")
    assert sorted(subscribed + exact) == await receivers(database, event)


async def test_batches(database: Database, subscribed: list[int]) -> None:
    """A batch makes so many deliveries and says that there is more; in the end each endpoint has one, and its wake-up."""
    event = await database.value(ENQUEUE)
    seen = [(await database.value(STEP, 2), len(await receivers(database, event))) for _ in range(4)]
    assert [(True, 2), (True, 4), (True, 6), (False, 7)] == seen
    assert subscribed == await receivers(database, event)
    assert len(subscribed) == await database.value("select count(distinct endpoint_id) from webhook.wake")
    assert await database.value(WAITING) == 0
    assert await database.value(STEP, 2) is False


async def test_a_multiple_of_the_batch(database: Database, subscribed: list[int]) -> None:
    """Endpoints that fill their last batch exactly get one delivery each, too."""
    event = await database.value(ENQUEUE)
    await finish(database, len(subscribed))
    assert subscribed == await receivers(database, event)


async def test_delivery_is_as_enqueued(database: Database, subscribed: list[int]) -> None:
    """A delivery made later carries the event's size, its moment and its creation, as one made at once."""
    await database.value("select webhook.enqueue('a', 'éé', deliver_at => '2040-01-01Z')")
    await finish(database)
    sql = """select distinct p.payload_bytes, p.run_at = '2040-01-01Z' as moment, p.event_created_at = v.created_at as creation
             from webhook.pending as p join webhook.event as v on v.id = p.event_id"""
    assert [{"payload_bytes": 4, "moment": True, "creation": True}] == await database.rows(sql)
    assert subscribed


async def test_several_patterns(database: Database, subscribed: list[int]) -> None:
    """An endpoint that several of its patterns match gets one delivery."""
    twice = await endpoints(database, 3, "order.*", "order.created", "*")
    event = await database.value(ENQUEUE)
    await finish(database)
    assert subscribed + twice == await receivers(database, event)


async def test_subscribed_later(database: Database, subscribed: list[int]) -> None:
    """An endpoint that subscribes after the event, even before the first batch, does not get it."""
    event = await database.value(ENQUEUE)
    await endpoints(database, 1)
    await database.value(STEP, 2)
    await endpoints(database, 1)
    await finish(database)
    assert subscribed == await receivers(database, event)


async def test_unsubscribed_later(database: Database, subscribed: list[int]) -> None:
    """An endpoint that unsubscribes after the event, even before the first batch, still gets it; the next one it does not."""
    event = await database.value(ENQUEUE)
    await database.value(SUBSCRIBE, subscribed[-1], '{"event_types": ["user.*"]}')
    following = await database.value(ENQUEUE)
    await finish(database)
    assert subscribed == await receivers(database, event)
    assert subscribed[:-1] == await receivers(database, following)


async def test_subscribed_again(database: Database, subscribed: list[int]) -> None:
    """Unsubscribing and subscribing again between the event and its batches makes it neither none nor two."""
    event = await database.value(ENQUEUE)
    for types in ('["a"]', "[]", '["a"]', "[]"):
        await database.value(SUBSCRIBE, subscribed[0], f'{{"event_types": {types}}}')
    await finish(database)
    assert subscribed == await receivers(database, event)


async def test_open_changes_are_not_seen(database: Database, other: Database, subscribed: list[int]) -> None:
    """A subscription that is not committed when the event is enqueued does not count, whenever it commits."""
    async with other.transaction():
        await endpoints(other, 1)
        await other.value(SUBSCRIBE, subscribed[0], '{"event_types": ["a"]}')
        event = await database.value(ENQUEUE)
    await finish(database)
    assert subscribed == await receivers(database, event)


async def test_a_transactions_own_subscriptions(database: Database, subscribed: list[int]) -> None:
    """A producer that subscribes and unsubscribes endpoints itself gets exactly what it saw at the moment of its enqueue."""
    async with database.transaction():
        (before,) = await endpoints(database, 1)
        await database.value(SUBSCRIBE, subscribed[0], '{"event_types": ["a"]}')
        event = await database.value(ENQUEUE)
        await endpoints(database, 1)
        await database.value(SUBSCRIBE, subscribed[1], '{"event_types": ["a"]}')
    await finish(database)
    assert [*subscribed[1:], before] == await receivers(database, event)
    await database.value(ENQUEUE)
    assert await database.value(WAITING) == 1  # the next transaction is an ordinary producer again


async def test_crash_in_the_middle(database: Database, other: Database, subscribed: list[int]) -> None:
    """A batch that is rolled back is done again: each endpoint still gets exactly one."""
    event = await database.value(ENQUEUE)
    await database.value(STEP, 2)
    with suppress(RolledBack):
        async with other.transaction():
            await other.value(STEP, 2)
            raise RolledBack
    await finish(database)
    assert subscribed == await receivers(database, event)


async def test_two_workers(database: Database, other: Database, subscribed: list[int]) -> None:
    """A fan-out that another worker has in hand is left to it, without waiting."""
    event = await database.value(ENQUEUE)
    async with other.transaction():
        await other.value(STEP, 2)
        with anyio.fail_after(5):
            assert await database.value(STEP, 2) is False
    await finish(database)
    assert subscribed == await receivers(database, event)


async def test_enqueue_many(database: Database, subscribed: list[int]) -> None:
    """Of many events only the wide ones are left to the workers."""
    narrow = await endpoints(database, 1, "x")
    await database.script(["update webhook.subscription set pattern = 'order.*' where pattern = '*'"])
    sql = (
        "select id from webhook.enqueue_many(array['order.created', 'x', 'nobody', 'order.paid'], array['', '', '', '']) as id"
    )
    events = [row["id"] for row in await database.rows(sql)]
    assert await database.value(WAITING) == 2
    assert narrow == await receivers(database, events[1])
    await finish(database)
    assert [subscribed, narrow, [], subscribed] == [await receivers(database, event) for event in events]


async def test_rolled_back_producer(database: Database, subscribed: list[int]) -> None:
    """A producer that rolls back leaves no fan-out."""
    with suppress(RolledBack):
        async with database.transaction():
            await database.value(ENQUEUE)
            raise RolledBack
    assert await database.value(WAITING) == 0
    assert subscribed


async def test_has_due(database: Database, subscribed: list[int]) -> None:
    """There is something to do while a fan-out waits, though no delivery exists yet."""
    await database.value(ENQUEUE)
    assert await database.value("select webhook.has_due()") is True
    assert subscribed


async def test_removed_subscriptions_are_forgotten(database: Database, other: Database, subscribed: list[int]) -> None:
    """A removed subscription is kept for a producer that saw it valid and is open, then for its event, then not at all."""
    async with other.transaction():
        event = await other.value(ENQUEUE)
        await database.value(SUBSCRIBE, subscribed[0], '{"event_types": ["a"]}')
        assert [0, 0] == [await database.value(FORGET) for _ in range(2)]
    assert [0, 0] == [await database.value(FORGET) for _ in range(2)]
    await finish(database)
    assert subscribed == await receivers(database, event)
    with anyio.fail_after(20):  # transactions of other databases count: tests run beside this one
        while not (forgotten := await database.value(FORGET)):  # noqa: ASYNC110 - they tell nobody
            await anyio.sleep(0.01)
    assert forgotten == 1


async def test_after_a_restore(database: Database, subscribed: list[int]) -> None:
    """Transaction ids from another cluster, which lie ahead of this one's, count as long past."""
    await database.script(
        [
            "update webhook.subscription set added = '4000000000000'",
            f"update webhook.subscription set removed = '4000000000001' where endpoint_id = {subscribed[0]}",
        ]
    )
    event = await database.value(ENQUEUE)
    await finish(database)
    assert subscribed[1:] == await receivers(database, event)


# -- locks -----------------------------------------------------------------------------------------------------------

LOCKS = """
select distinct locktype, mode, granted from pg_locks
where pid = pg_backend_pid() and locktype not in ('virtualxid', 'transactionid') order by 1, 2
"""


async def test_producers_lock_nothing(database: Database, other: Database, dsn: str) -> None:
    """Two open producers for one endpoint, and a worker that claims and records for it: nobody waits for anybody."""
    await endpoints(database, 1)
    await database.value(ENQUEUE)
    store = PostgresStore(dsn, "w")
    async with database.transaction(), other.transaction():
        for producer in (database, other):
            await producer.value("select set_config('lock_timeout', '50ms', true)")
            await producer.value(ENQUEUE)
        with anyio.fail_after(5):
            (delivery,) = (await store.claim(10, 1 << 20)).deliveries
            for producer in (database, other):
                await producer.value(ENQUEUE)
            await store.record([Outcome(delivery, Decision("delivered", "ok"), 0.0, 0.01)], 0.0)
            for producer in (database, other):
                await producer.value(ENQUEUE)
    await store.close()
    assert await database.value("select count(*) from webhook.deliveries where state = 'delivered'") == 1
    assert await database.value("select count(*) from webhook.pending") == 6


@pytest.mark.parametrize("bound", [1, 1000])
async def test_relation_locks_of_a_producer(database: Database, bound: int) -> None:
    """An enqueue, wide or not, holds the locks of a reader and of a writer of rows, and no other; nothing is notified."""
    await database.script([f"update webhook.meta set fan_out_max = {bound}"])
    await endpoints(database, 2)
    async with database.transaction():
        await database.value(ENQUEUE)
        held = {(row["locktype"], row["mode"], row["granted"]) for row in await database.rows(LOCKS)}
    assert {("relation", "AccessShareLock", True), ("relation", "RowExclusiveLock", True)} == held
