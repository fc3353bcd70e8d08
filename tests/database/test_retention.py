"""Old partitions go, and take nothing with them that is not finished."""

import json
from typing import Any

import pytest

from worker.store.database import Database, DatabaseError, connect

OLD = "date_trunc('week', now() at time zone 'UTC') at time zone 'UTC' - interval '70 days' + interval '1 day'"
CREATE = "select id from webhook.create_endpoint('https://receiver.test/')"
RETAIN = "select webhook.retain($1::text::interval, $1::text::interval, $1::text::interval, $2::int)::text"
PARTITIONS = """
select coalesce(array_to_string(array_agg(c.relname::text order by 1), ' '), '')
from pg_class as c join pg_inherits as h on h.inhrelid = c.oid
where c.relname ~ '^(event|finished|attempt)_[0-9]' and c.relname < 'z' and c.relname like '%' ||
      to_char((%s) at time zone 'UTC', 'IYYY"w"IW')
""".replace("%s", OLD)
MAKE_OLD = """
do $$
declare
    first timestamptz := date_trunc('week', (%s) at time zone 'UTC') at time zone 'UTC';
    parent text;
begin
    foreach parent in array array['event', 'finished', 'attempt'] loop
        execute format('create table webhook.%%I partition of webhook.%%I for values from (%%L) to (%%L)',
                       parent || to_char(first at time zone 'UTC', '"_"IYYY"w"IW'), parent, first, first + interval '7 days');
    end loop;
end $$
""".replace("%s", OLD).replace("%%", "%")


@pytest.fixture
async def aged(database: Database) -> Database:
    """A database with partitions of ten weeks ago, and an endpoint."""
    await database.script([MAKE_OLD])
    await database.value(CREATE)
    return database


async def add_event(database: Database, payload: str, *, place: str) -> int:
    """Enqueue an event and date it back to the old week; `place`: where its delivery is now."""
    event = int(await database.value("select webhook.enqueue('order.created', $1::text)", payload))
    if place != "pending":
        document = json.loads(await database.value("select webhook.claim('w', 10, 1000000)"))
        if place == "finished":
            rows = [
                [document["claim"], row[0], "dead", "timeout", None, 1, 1, None, None, 0, None, None]
                for row in document["deliveries"]
            ]
            await database.value("select webhook.record('w', $1::text)", json.dumps(rows))
    moved = [f"update webhook.event set created_at = {OLD} where id = {event}"]
    moved += [
        f"update webhook.{table} set event_created_at = {OLD} where event_id = {event}"
        for table in ("pending", "inflight", "finished")
    ]
    moved.append(f"update webhook.finished set finished_at = {OLD} where event_id = {event}")
    moved.append(f"update webhook.attempt set started_at = {OLD} where event_id = {event}")
    await database.script(moved)
    return event


async def retain(database: Database, keep: str | None = "30 days", batch: int = 20_000) -> list[dict[str, Any]]:
    """Take steps until nothing is left to do, or something is locked; return them."""
    steps: list[dict[str, Any]] = []
    while step := json.loads(await database.value(RETAIN, keep, batch)):
        steps.append(step)
        if "locked" in step:
            break
    return steps


async def test_old_partitions_are_dropped(aged: Database) -> None:
    """Events, attempts and finished deliveries older than their retention go, a partition at a time; newer ones stay."""
    await add_event(aged, "old", place="finished")
    await aged.value("select webhook.enqueue('order.created', 'new')")
    assert 3 == len((await aged.value(PARTITIONS)).split())
    assert ["dropped"] * 3 == [next(iter(step)) for step in await retain(aged)]
    assert "" == await aged.value(PARTITIONS)
    assert ["new"] == [row["payload"] for row in await aged.rows("select payload from webhook.events")]
    assert 0 == await aged.value("select count(*) from webhook.attempt")


async def test_never_drops_nothing(aged: Database) -> None:
    """Without a retention nothing goes."""
    await add_event(aged, "old", place="finished")
    assert [] == await retain(aged, None)
    assert 3 == len((await aged.value(PARTITIONS)).split())


@pytest.mark.parametrize("place", ["pending", "in_flight"])
async def test_unfinished_events_are_kept(aged: Database, place: str) -> None:
    """What a delivery still needs survives its partition, byte for byte, and is delivered."""
    payload = '{"n":  1, "é": "\\u0000"}\n'
    event = await add_event(aged, payload, place=place)
    await add_event(aged, "done", place="finished") if place == "in_flight" else None
    await retain(aged)
    assert "" == await aged.value(PARTITIONS)
    assert payload == await aged.value("select payload from webhook.events where id = $1::bigint", event)
    assert "order.created" == await aged.value("select event_type from webhook.deliveries where event_id = $1::bigint", event)
    if place == "pending":
        document = json.loads(await aged.value("select webhook.claim('w', 10, 1000000)"))
        assert [payload] == [row[7] for row in document["deliveries"]]


async def test_events_are_kept_in_batches(aged: Database) -> None:
    """Many unfinished events are copied a few at a time before the partition goes."""
    events = [await add_event(aged, f"{n}", place="pending") for n in range(7)]
    steps = await retain(aged, batch=3)
    assert {"kept": 3} in steps
    assert sorted(events) == [row["id"] for row in await aged.rows("select id from webhook.events order by id")]


async def test_a_partition_in_use_is_left_for_another_turn(aged: Database, dsn: str) -> None:
    """Somebody who reads the old partition is not interrupted, and new events do not wait for long."""
    await add_event(aged, "old", place="finished")
    reader = connect(dsn)
    async with reader.transaction():
        await reader.value("select count(*) from webhook.attempt")
        assert "locked" in (await retain(aged))[-1]
        await aged.script(["set lock_timeout = '1s'"])
        await aged.value("select webhook.enqueue('order.created', 'meanwhile')")
    await reader.close()
    await retain(aged)
    assert "" == await aged.value(PARTITIONS)


async def test_kept_events_go_when_nobody_needs_them(aged: Database) -> None:
    """A kept event is deleted once its delivery has ended."""
    await add_event(aged, "old", place="pending")
    await retain(aged)
    assert 0 == await aged.value("select webhook.forget_kept_events('30 days')")
    await aged.script(["delete from webhook.pending"])
    assert 1 == await aged.value("select webhook.forget_kept_events('30 days')")
    assert 0 == await aged.value("select count(*) from webhook.events")


async def test_default_partitions_are_cleaned(database: Database) -> None:
    """Old rows that were caught by a default partition go too, but not what is unfinished."""
    await database.value(CREATE)
    event = await add_event(database, "waits", place="pending")
    stray = f"values (1000, {OLD}, '', 'a', 'text/plain', 'old')"
    await database.script([f"insert into webhook.event (id, created_at, tenant, event_type, content_type, payload) {stray}"])
    assert 2 == await database.value("select count(*) from webhook.event_default")
    await retain(database)
    assert 0 == await database.value("select count(*) from webhook.event_default")
    assert [event] == [row["id"] for row in await database.rows("select id from webhook.events")]


async def test_a_dead_delivery_without_its_event_is_not_retried(aged: Database) -> None:
    """What cannot be sent any more is refused, with the reason."""
    await add_event(aged, "old", place="finished")
    await aged.script([f"update webhook.finished set finished_at = now() where finished_at = {OLD}"])
    await retain(aged)
    delivery = await aged.value("select id from webhook.deliveries")
    with pytest.raises(DatabaseError, match="outlived its retention"):
        await aged.value("select webhook.retry_delivery($1::bigint)", delivery)


async def test_a_retry_under_way_keeps_its_event(aged: Database, dsn: str) -> None:
    """A dead delivery that is retried while its event's partition is about to go keeps its event."""
    event = await add_event(aged, "old", place="finished")
    delivery = await aged.value("select id from webhook.deliveries")
    operator = connect(dsn)
    async with operator.transaction():
        await operator.value("select webhook.retry_delivery($1::bigint)", delivery)
        await retain(aged)
    await operator.close()
    await retain(aged)
    assert "" == await aged.value(PARTITIONS)
    assert "old" == await aged.value("select payload from webhook.events where id = $1::bigint", event)


@pytest.mark.fault(53)
async def test_the_oldest_snapshot_names_its_holder(database: Database, dsn: str) -> None:
    """Who keeps a transaction open is seen."""
    from worker.store.sql import statements

    holder = connect(dsn)
    async with holder.transaction():
        await holder.value("select set_config('application_name', 'forgetful', false)")
        await holder.value("select txid_current()::text")
        await holder.script(["declare held cursor for select 1"])
        (found,) = await database.rows(statements()["stats_snapshot"])
        assert ("session", "forgetful") == (found["kind"], found["name"])
        assert found["seconds"] >= 0
    await holder.close()
