"""Operational events in Postgres: what is written, what it costs, and what it waits for. What they are: test_conformance.py."""

import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
import pytest

from worker.store.database import Database, connect

ENQUEUE = (
    "select count(*) from webhook.enqueue_many(array_fill('order.created'::text, $1::int[]), array_fill('{}'::text, $1::int[]))"
)
STEP = "select webhook.fan_out_step(2)"
DISABLE = "select webhook.disable_endpoint($1::bigint, reason => $2::text)"
OPERATIONAL = "select id, event_type, payload from webhook.events where operational order by id"
COUNTS = "select relname::text as name, seq_tup_read::int as n from pg_stat_xact_user_tables where schemaname = 'webhook'"


class RolledBack(Exception):
    """Leaves a transaction without committing it."""


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[Database]:
    """Yield a second connection."""
    connection = connect(dsn)
    yield connection
    await connection.close()


async def add(database: Database, *event_types: str, **settings: Any) -> int:
    sql = "select id from webhook.create_endpoint('http://127.0.0.1:9/', '', $1::text::jsonb)"
    return int(await database.value(sql, json.dumps({"event_types": event_types, **settings})))


async def claim(database: Database, rows: int = 1000) -> list[list[int]]:
    """Return claim and delivery ids."""
    document = json.loads(await database.value("select webhook.claim('w', $1::int, 1000000000)", rows))
    return [[document["claim"], row[0]] for row in document.get("deliveries", [])]


async def record(
    database: Database,
    claimed: list[list[int]],
    disposition: str = "dead",
    disable: str | None = None,
    outcome: str = "http_status",
) -> int:
    ended = [disposition, outcome, 500, 0.1, 0.1, None, "error", 0, None, disable]
    sql = "select webhook.record('w', $1::text)"
    return int(await database.value(sql, json.dumps([[*ids, *ended] for ids in claimed])))


async def deaths(database: Database, count: int) -> float:
    """Let so many deliveries die in one record; return the seconds it took."""
    await database.value(ENQUEUE, [count])
    claimed = [ids for _ in range(20) for ids in await claim(database)]
    started = time.perf_counter()
    assert count == await record(database, claimed, outcome="no_key")  # says nothing of the receiver: its circuit stays closed
    return time.perf_counter() - started


async def receivers(database: Database) -> list[int]:
    sql = """select p.endpoint_id from webhook.pending as p join webhook.events as e on e.id = p.event_id
             where e.operational order by p.id"""
    return [row["endpoint_id"] for row in await database.rows(sql)]


# -- what is written -------------------------------------------------------------------------------------------------


async def test_the_event(database: Database) -> None:
    """It is an event as any other, marked as operational, with a type, a time and data; the URL's query is left out."""
    listener = await add(database, "endpoint.disabled")
    endpoint = await add(database, "order.created")
    await database.value(
        "select webhook.set_endpoint($1::bigint, $2::text::jsonb)", endpoint, '{"url": "https://a.test/b?c=d"}'
    )
    await database.value(DISABLE, endpoint, 'a "reason"')
    (event,) = await database.rows(OPERATIONAL)
    document = json.loads(event["payload"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document.pop("timestamp"))
    data = {"endpoint_id": endpoint, "url": "https://a.test/b", "reason": 'a "reason"'}
    assert {"type": "endpoint.disabled", "data": data} == document
    assert [listener] == await receivers(database)
    assert 1 == await database.value("select count(*) from webhook.wake where endpoint_id = $1::bigint", listener)


async def test_nobody_subscribes(database: Database) -> None:
    """Nothing is written for a tenant that has no use for it, and no number is drawn."""
    first = await add(database, "order.created", "delivery.dead", "endpoint.*", max_in_flight=1000)
    await add(database)
    await add(database, "*")
    await deaths_of(database, first)
    await database.value(DISABLE, first, "")
    await database.value("select webhook.enable_endpoint($1::bigint)", first)
    assert [] == await database.rows(OPERATIONAL)
    assert 3 == await database.value("select nextval('webhook.event_id')")


async def deaths_of(database: Database, endpoint: int) -> None:
    """Let a delivery of this endpoint die, and another one close its doors."""
    await database.value(ENQUEUE, [2])
    owned = {
        row["id"] for row in await database.rows("select id from webhook.pending where endpoint_id = $1::bigint", endpoint)
    }
    first, second = [ids for ids in await claim(database) if ids[1] in owned]
    await record(database, [first])
    await record(database, [second], "retry", "gone")


async def test_a_producers_own(database: Database) -> None:
    """A producer may use these types: its events are ordinary ones, for everybody who subscribes."""
    everybody = [await add(database), await add(database, "endpoint.disabled")]
    await database.value("select webhook.enqueue('endpoint.disabled', '{}')")
    assert everybody == [
        row["endpoint_id"] for row in await database.rows("select endpoint_id from webhook.pending order by 1")
    ]
    assert [] == await database.rows(OPERATIONAL)


async def test_removed_subscription(database: Database) -> None:
    """Who no longer subscribes is told nothing, though the subscription is only marked."""
    listener, endpoint = await add(database, "endpoint.disabled"), await add(database, "order.created")
    await database.value("select webhook.set_endpoint($1::bigint, $2::text::jsonb)", listener, '{"event_types": ["a"]}')
    assert 2 <= await database.value("select count(*) from webhook.subscription where endpoint_id = $1::bigint", listener)
    await database.value(DISABLE, endpoint, "")
    assert [] == await database.rows(OPERATIONAL)


async def test_rolled_back(database: Database) -> None:
    """What did not happen is not told."""
    await add(database, "endpoint.disabled", "delivery.dead")
    endpoint = await add(database, "order.created")
    await database.value(ENQUEUE, [1])
    claimed = await claim(database)
    with suppress(RolledBack):
        async with database.transaction():
            await record(database, claimed)
            await database.value(DISABLE, endpoint, "")
            raise RolledBack
    assert ([], []) == (await database.rows(OPERATIONAL), await receivers(database))
    await record(database, claimed)
    assert ["delivery.dead"] == [event["event_type"] for event in await database.rows(OPERATIONAL)]


async def test_a_kept_event_is_still_operational(database: Database) -> None:
    """When an operational event outlives its partition, its delivery still leads to nothing."""
    await add(database, "endpoint.disabled")
    endpoint = await add(database, "order.created")
    await add(database, "delivery.dead")
    await database.value(DISABLE, endpoint, "")
    await database.value("select webhook.keep_events('-infinity', 'infinity', 10)")
    await database.script(["delete from webhook.event"])
    assert 1 == await record(database, await claim(database))
    assert ["endpoint.disabled"] == [event["event_type"] for event in await database.rows(OPERATIONAL)]


# -- what it costs ---------------------------------------------------------------------------------------------------


async def test_mass_death(database: Database) -> None:
    """A thousand deliveries that die in one record are a thousand events, in a few times what the record takes without."""
    await add(database, "order.created", max_in_flight=100_000)
    alone = min([await deaths(database, 1000) for _ in range(3)])
    listener = await add(database, "delivery.dead")
    told = await deaths(database, 1000)
    events = [json.loads(event["payload"])["data"]["delivery_id"] for event in await database.rows(OPERATIONAL)]
    assert (1000, 1000) == (len(events), len(set(events)))
    assert [listener] * 1000 == await receivers(database)
    assert told <= 8 * alone + 0.2, (told, alone)


async def test_nothing_is_scanned(database: Database, other: Database) -> None:
    """Neither subscriptions nor events are read but through an index."""
    await add(database, "order.created", max_in_flight=100_000)
    await add(database, "delivery.dead", "endpoint.disabled")
    await database.value(ENQUEUE, [500])
    await database.script(["analyze"])
    claimed = await claim(database)
    async with other.transaction():
        await record(other, claimed[:50])
        await record(other, claimed[50:51], "retry", "gone")
        scanned = {row["name"]: row["n"] for row in await other.rows(COUNTS)}
    tables = [name for name in scanned if re.match("event|subscription|endpoint|pending", name)]
    assert dict.fromkeys(tables, 0) == {name: scanned[name] for name in tables}
    assert 51 == len(await database.rows(OPERATIONAL))


async def test_many_who_listen(database: Database) -> None:
    """For more listeners than a record should write for, workers make the deliveries: not for the endpoint itself, nor `*`."""
    await database.script(["update webhook.meta set fan_out_max = 1"])
    named = [await add(database, "delivery.*", "delivery.dead") for _ in range(12)]
    first = await add(database, "delivery.dead", "order.created")
    await database.value(ENQUEUE, [1])
    claimed = await claim(database)
    await add(database, "*")
    await record(database, claimed)
    assert 1 == await database.value("select count(*) from webhook.fan_out where about = $1::bigint", first)
    assert [] == await receivers(database)
    while await database.value(STEP):
        pass
    assert named == await receivers(database)


async def test_many_who_listen_since_just_now(database: Database) -> None:
    """A transaction that changed subscriptions itself makes the deliveries itself."""
    await database.script(["update webhook.meta set fan_out_max = 1"])
    endpoint = await add(database, "order.created")
    async with database.transaction():
        named = [await add(database, "endpoint.disabled") for _ in range(12)]
        await database.value(DISABLE, endpoint, "")
    assert named == sorted(await receivers(database))


# -- what it waits for -----------------------------------------------------------------------------------------------


async def test_waits_for_no_listener(database: Database, other: Database) -> None:
    """A record tells endpoints whose scheduling rows somebody else has locked."""
    listener = await add(database, "delivery.dead")
    await add(database, "order.created")
    await database.value(ENQUEUE, [1])
    claimed = await claim(database)
    async with other.transaction():
        await other.value("select webhook.pause_endpoint($1::bigint)", listener)
        with anyio.fail_after(5):
            assert 1 == await record(database, claimed)
    assert [listener] == await receivers(database)
