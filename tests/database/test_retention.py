"""Old partitions go, and take nothing with them that is not finished."""

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
import pytest

from worker.store.database import Database, DatabaseError, connect
from worker.store.sql import statements

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

WAIT_BEFORE_KEEPING = """
create function public.wait() returns trigger language plpgsql as 'begin perform pg_advisory_xact_lock(7); return new; end';
create trigger wait before insert on webhook.event_kept for each row execute function public.wait()
"""


@pytest.fixture
async def aged(database: Database) -> Database:
    """A database with partitions of ten weeks ago, and an endpoint."""
    await database.script([MAKE_OLD])
    await database.value(CREATE)
    return database


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[Database]:
    """Yield somebody else's connection to this test's database."""
    connection = connect(dsn)
    yield connection
    await connection.close()


async def add_event(database: Database, payload: str, *, place: str) -> int:
    """Enqueue an event and date it back to the old week; `place`: where its delivery is now."""
    event = int(await database.value("select webhook.enqueue('order.created', $1::text)", payload))
    if place != "pending":
        await (die if place == "finished" else claim)(database)
    moved = [f"update webhook.event set created_at = {OLD} where id = {event}"]
    moved += [
        f"update webhook.{table} set event_created_at = {OLD} where event_id = {event}"
        for table in ("pending", "inflight", "finished")
    ]
    moved.append(f"update webhook.finished set finished_at = {OLD} where event_id = {event}")
    moved.append(f"update webhook.attempt set started_at = {OLD} where event_id = {event}")
    await database.script(moved)
    return event


async def claim(database: Database) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(await database.value("select webhook.claim('w', 10, 1000000)"))
    return document


async def die(database: Database) -> None:
    """Let all that is due end dead."""
    document = await claim(database)
    dead = ["dead", "timeout", None, 1, 1, None, None, 0, None, None]
    rows = [[document["claim"], row[0], *dead] for row in document["deliveries"]]
    await database.value("select webhook.record('w', $1::text)", json.dumps(rows))


async def until_waiting(database: Database, sessions: int) -> None:
    """Wait until so many sessions wait for a lock."""
    waiting = "select count(distinct pid) from pg_locks where not granted"
    with anyio.fail_after(10):
        while sessions > await database.value(waiting):  # noqa: ASYNC110 - Postgres tells nobody who waits
            await anyio.sleep(0.005)


async def retain(database: Database, keep: str | None = "30 days", batch: int = 5_000) -> list[dict[str, Any]]:
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
        assert [payload] == [row[7] for row in (await claim(aged))["deliveries"]]


async def test_events_are_kept_in_batches(aged: Database) -> None:
    """Many unfinished events are copied a few at a time before the partition goes."""
    events = [await add_event(aged, f"{n}", place="pending") for n in range(7)]
    steps = await retain(aged, batch=3)
    assert {"kept": 3} in steps
    assert sorted(events) == [row["id"] for row in await aged.rows("select id from webhook.events order by id")]


async def test_large_events_are_kept_a_few_at_a_time(aged: Database) -> None:
    """A batch is bounded by its payloads' bytes, too."""
    for n in range(3):
        event = await add_event(aged, f"{n}", place="pending")
        await aged.script([f"update webhook.event set payload = repeat('x', 40 * 1024 * 1024) where id = {event}"])
    assert [2, 1] == [step["kept"] for step in await retain(aged) if "kept" in step]
    assert 3 == await aged.value("select count(*) from webhook.events")


async def test_a_crash_in_the_middle_loses_nothing(aged: Database) -> None:
    """Steps that are rolled back have neither dropped nor copied anything."""
    event = await add_event(aged, "old", place="pending")
    with suppress(ZeroDivisionError):
        async with aged.transaction():
            await retain(aged)
            raise ZeroDivisionError
    assert 3 == len((await aged.value(PARTITIONS)).split())
    assert 0 == await aged.value("select count(*) from webhook.event_kept")
    assert "old" == await aged.value("select payload from webhook.events where id = $1::bigint", event)


async def test_a_partition_in_use_is_left_for_another_turn(aged: Database, other: Database) -> None:
    """Who reads an old partition is not interrupted, and the other partitions go all the same."""
    await add_event(aged, "old", place="finished")
    async with other.transaction():
        await other.value("select count(*) from webhook.attempt")
        for _ in range(3):
            await retain(aged)
        assert ["attempt"] == [name.split("_")[0] for name in (await aged.value(PARTITIONS)).split()]
    await retain(aged)
    assert "" == await aged.value(PARTITIONS)


async def test_producers_do_not_wait_for_a_drop(aged: Database, other: Database, dsn: str) -> None:
    """While one producer's transaction stays open, the drop gives up so soon that another's enqueue hardly waits."""
    waited: list[float] = []
    tried = anyio.Event()

    async def produce() -> None:
        while not tried.is_set():
            begun = anyio.current_time()
            await other.value("select webhook.enqueue('order.created', 'meanwhile')")
            waited.append(anyio.current_time() - begun)

    slow = connect(dsn)
    async with slow.transaction():
        await slow.value("select webhook.enqueue('order.created', 'slow')")
        async with anyio.create_task_group() as producers:
            producers.start_soon(produce)
            steps = [(await retain(aged))[-1] for _ in range(3)]
            tried.set()
    await slow.close()
    assert [True] * 3 == ["locked" in step for step in steps]
    assert max(waited) < 0.35  # a drop waits for 0.05 s; the rest is for a busy machine
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


async def test_a_retry_under_way_keeps_its_kept_event(aged: Database, other: Database) -> None:
    """A dead delivery whose event is a kept one is retried while kept events are looked through: its event stays."""
    event = await add_event(aged, "old", place="pending")
    await retain(aged)
    await die(aged)
    async with other.transaction():
        await other.value("select webhook.retry_delivery(d.id) from webhook.deliveries as d")
        assert 0 == await aged.value("select webhook.forget_kept_events('30 days')")
    assert 0 == await aged.value("select webhook.forget_kept_events('30 days')")
    assert "old" == await aged.value("select payload from webhook.events where id = $1::bigint", event)


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


async def test_a_retry_beside_the_cleaning_of_a_default_partition(database: Database, other: Database, dsn: str) -> None:
    """A dead delivery that is retried when its event is about to be deleted is refused, not left without its event."""
    await database.value(CREATE)
    await add_event(database, "dead", place="finished")
    await add_event(database, "waits", place="pending")
    await database.script(["update webhook.finished set finished_at = now()", WAIT_BEFORE_KEEPING])
    refused: list[str] = []

    async def retry() -> None:
        operator = connect(dsn)
        try:
            await operator.value("select webhook.retry_delivery(d.id) from webhook.deliveries as d where d.state = 'dead'")
        except DatabaseError as error:
            refused.append(str(error))
        finally:
            await operator.close()

    async with anyio.create_task_group() as tasks, other.transaction():
        await other.script(["select pg_advisory_xact_lock(7)"])
        tasks.start_soon(retain, database)
        await until_waiting(other, 1)
        tasks.start_soon(retry)
        await until_waiting(other, 2)
    assert ["webhook: the event of delivery 1 is gone: it outlived its retention"] == refused
    assert ["waits"] == [row["payload"] for row in await database.rows("select payload from webhook.events")]
    assert 1 == await database.value("select count(*) from webhook.finished")


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


async def test_a_failing_task_does_not_stop_the_others(aged: Database) -> None:
    """A partition that something else depends on is not dropped; this is said, and all other tasks have their turns."""
    name = next(name for name in (await aged.value(PARTITIONS)).split() if name.startswith("event"))
    await aged.script([f"create view public.report as select id from webhook.{name}"])
    tasks = await aged.value("select count(*) from webhook.maintenance")
    maintain = "select webhook.maintain(keep_events => '30 days')"
    done: dict[str, Any] = {}
    with anyio.fail_after(30):
        while "failed" not in done:
            done = json.loads(await aged.value(maintain))
    assert f"cannot drop table webhook.{name} because other objects depend on it" == done["failed"]
    await aged.script(["update webhook.maintenance set due_at = '-infinity' where task <> 'retention'"])
    assert tasks - 1 == len({json.loads(await aged.value(maintain))["task"] for _ in range(tasks - 1)})


@pytest.mark.fault(53)
@pytest.mark.parametrize("does", ["reads", "has written"])
async def test_the_oldest_snapshot_names_its_holder(database: Database, other: Database, does: str) -> None:
    """Who keeps a transaction open is seen, also who has written something and then forgotten it."""
    await other.script(["set application_name = 'forgetful'"])
    async with other.transaction():
        await other.script([{"reads": "declare held cursor for select 1", "has written": CREATE}[does]])
        (found,) = await database.rows(statements()["stats_snapshot"])
    assert ("session", "forgetful", "idle in transaction") == (found["kind"], found["name"], found["state"])
    assert found["pid"]
    assert found["query_start"]
    assert found["seconds"] >= 0
