"""Where claims begin to read the run queue and the timers: never above a row that is there, whoever is slow to commit."""

import json
from typing import Any

from worker.store.database import Database, connect

FLOOR = "select turn from webhook.sched_floor"


async def claim(database: Database, rows: int, avoid: str = "{}") -> list[Any]:
    sql = "select webhook.claim('w', $1::int, 1000000000, avoid => $2::text::bigint[])"
    document = json.loads(await database.value(sql, rows, avoid))
    deliveries: list[Any] = document.get("deliveries", [])
    return deliveries


async def raise_floor(database: Database, times: int = 1) -> float:
    for _ in range(times):
        await database.value("select webhook.raise_floor()::text")
    return float(await database.value(FLOOR))


async def busy(database: Database, endpoints: int, events: int) -> None:
    for n in range(endpoints):
        await database.value(
            'select id from webhook.create_endpoint($1::text, settings => \'{"max_in_flight": 1000, "event_types": ["e"]}\')',
            f"https://receiver.test/{n}",
        )
    await more(database, events)


async def more(database: Database, events: int, event_type: str = "e") -> None:
    sql = """select count(*) from webhook.enqueue_many(
             array_fill($2::text, array[$1::int]), array_fill('{}'::text, array[$1::int]))"""
    await database.value(sql, events, event_type)


async def test_it_follows_the_queue(database: Database) -> None:
    """It comes to where the queue begins within three calls."""
    await busy(database, 8, 100)
    for _ in range(10):
        assert len(await claim(database, 64)) == 64
    least = await database.value("select min(turn) from webhook.endpoint_sched")
    assert least > 0
    assert least == await raise_floor(database, 3)
    assert len(await claim(database, 64)) == 64


async def test_a_claim_under_way_is_not_overtaken(dsn: str, database: Database) -> None:
    """A claim that does not commit for long writes turns that others have passed: the floor waits for it."""
    await busy(database, 8, 100)
    await claim(database, 64)
    await claim(database, 64)
    late = await database.value(
        "select id from webhook.create_endpoint('https://receiver.test/late', "
        """settings => '{"max_in_flight": 1000, "event_types": ["late"]}')"""
    )
    await more(database, 100, "late")
    slow = connect(dsn)
    try:
        async with slow.transaction():
            others = await database.value("select array_agg(id)::text from webhook.endpoint where id <> $1::bigint", late)
            assert {late} == {
                row[1] for row in await claim(slow, 20, others)
            }  # it was in no queue before: nobody sees its turn
            for _ in range(8):
                await claim(database, 64)
                await raise_floor(database, 2)
        assert await raise_floor(database) <= await database.value("select min(turn) from webhook.endpoint_sched")
        assert late in {row[1] for _ in range(4) for row in await claim(database, 64)}
    finally:
        await slow.close()


async def test_a_reader_does_not_hold_it(dsn: str, database: Database) -> None:
    """A transaction that only reads, as a backup does, keeps the floor from nothing."""
    await busy(database, 8, 100)
    reader = connect(dsn)
    try:
        async with reader.transaction():
            await reader.rows("select endpoint_id from webhook.endpoint_sched")
            await claim(database, 64)
            await claim(database, 64)
            assert await raise_floor(database, 3) == await database.value("select min(turn) from webhook.endpoint_sched")
    finally:
        await reader.close()


async def test_what_is_below_is_found_in_the_end(database: Database) -> None:
    """If there ever were a row below the floor, or the clock was set back, a look at everything finds it."""
    await busy(database, 8, 100)
    for _ in range(10):
        await claim(database, 64)
    await raise_floor(database, 3)
    await database.value(
        "update webhook.sched_floor set turn = turn + 1e6, ahead_next_at = now() + interval '1 hour' returning 1"
    )
    assert await claim(database, 64) == []
    await raise_floor(database)
    assert len(await claim(database, 64)) == 64
