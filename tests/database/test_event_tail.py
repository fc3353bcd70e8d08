"""Events as they are committed: what a look finds, and what it has to look for again."""

import re
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from worker.cli import event_tail
from worker.cli.event_tail import CommittedEvent, EventTail
from worker.store.database import Database, connect
from worker.store.migrate import migrate_up
from worker.store.sql import statements

ENQUEUE = "select webhook.enqueue($1::text, $2::text)"
KEYED = "select webhook.enqueue($1::text, '{}'::text, idempotency_key => 'k')"
ENQUEUE_MANY = """
select count(*)
from webhook.enqueue_many(array_fill('bulk'::text, array[$1::int]), array_fill('{}'::text, array[$1::int]))
"""
WAITS = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
BULK = 5000


@pytest.fixture(autouse=True)
def _gaps_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_tail, "GAPS_EVERY_SECONDS", 0.0)


async def started(database: Database, *patterns: str) -> EventTail:
    tail = EventTail(None, patterns or ["*"])
    assert [] == (await tail.look(database)).events
    return tail


async def types(tail: EventTail, database: Database) -> list[str]:
    return [event.event_type for event in (await tail.look(database)).events]


def gaps(tail: EventTail) -> list[tuple[int, int]]:
    assert tail._tail
    return tail._tail.gaps


async def until(database: Database, condition: str) -> None:
    with anyio.fail_after(30):
        while not await database.value(condition):
            pass


async def test_a_bulk_that_is_committed_late(dsn: str, database: Database) -> None:
    """Each of its events is told once, whoever commits meanwhile, and those that came before the tail began are not."""
    other, events = connect(dsn), list[CommittedEvent]()
    await database.value(ENQUEUE, "before", "{}")
    async with other.transaction():
        await other.value(ENQUEUE_MANY, BULK)
        await database.value(ENQUEUE, "before", "{}")
        tail = await started(database)
        await database.value(ENQUEUE, "early", "{}")
        assert ["early"] == await types(tail, database)
        assert [(2, BULK + 1)] == gaps(tail)
    await other.close()
    await database.value(ENQUEUE, "last", "{}")
    with anyio.fail_after(30):
        while len(events) < BULK + 1:
            events += (await tail.look(database)).events
    assert [*["bulk"] * BULK, "last"] == [event.event_type for event in events]
    assert [*range(2, BULK + 2), BULK + 4] == [event.id for event in events]
    assert [] == gaps(tail)


async def test_used_keys_and_rollbacks_are_forgotten(dsn: str, database: Database) -> None:
    """They draw ids, and nothing comes of them: as soon as nobody is left who may have drawn them, they are not looked for."""
    other = connect(dsn)
    tail = await started(database)
    async with other.transaction():
        await other.value(ENQUEUE, "late", "{}")
        for _ in range(3):
            await database.value(KEYED, "keyed")
        await database.value(ENQUEUE, "early", "{}")
        assert ["keyed", "early"] == await types(tail, database)
        for _ in range(3):
            assert [] == await types(tail, database)
        assert [(1, 1), (3, 4)] == gaps(tail)
    await other.close()
    assert ["late"] == await types(tail, database)
    with anyio.fail_after(30):
        while gaps(tail):
            await database.value(ENQUEUE, "later", "{}")
            assert ["later"] == await types(tail, database)


async def test_an_event_that_waited_for_its_key(dsn: str, database: Database) -> None:
    """Its id was drawn when its transaction had written nothing yet: that one counts as open, too."""
    first, second = connect(dsn), connect(dsn)
    tail = await started(database)
    async with second.transaction():
        async with anyio.create_task_group() as group:
            await first.script(["begin"])
            await first.value(KEYED, "undone")
            group.start_soon(second.value, KEYED, "keyed")
            await until(database, WAITS)
            await database.value(ENQUEUE, "early", "{}")
            assert ["early"] == await types(tail, database)
            await first.script(["rollback"])
        for _ in range(5):
            assert [] == await types(tail, database)
    assert ["keyed"] == await types(tail, database)
    await first.close()
    await second.close()


async def test_gaps_are_looked_into_once_a_second(dsn: str, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs a look-up in every partition."""
    now = 100.0
    monkeypatch.setattr(event_tail, "GAPS_EVERY_SECONDS", 1.0)
    monkeypatch.setattr(event_tail, "time", SimpleNamespace(monotonic=lambda: now))
    other = connect(dsn)
    tail = await started(database)
    async with other.transaction():
        await other.value(ENQUEUE, "late", "{}")
        await database.value(ENQUEUE, "early", "{}")
        assert ["early"] == await types(tail, database)
        assert [] == await types(tail, database)
    await other.close()
    now = 100.9
    assert [] == await types(tail, database)
    now = 101.0
    assert ["late"] == await types(tail, database)


@pytest.mark.parametrize(("bytes_max", "each"), [(1, [1, 1, 1, 1]), (25, [3, 1]), (31, [4])])
async def test_bytes_of_a_look(bytes_max: int, each: list[int], database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Payloads of what is wanted count, up to the bound and at most one more; it says whether there is more."""
    monkeypatch.setattr(event_tail, "BYTES_MAX", bytes_max)
    tail = await started(database, "wanted")
    for _ in range(4):
        await database.value(ENQUEUE, "other", "x" * 100)
        await database.value(ENQUEUE, "wanted", "x" * 10)
    looks = [await tail.look(database) for _ in each]
    assert each == [len(look.events) for look in looks]
    assert [True] * (len(each) - 1) == [look.is_cut for look in looks[:-1]]
    assert not looks[-1].is_cut
    assert [] == gaps(tail)


async def test_rows_of_a_look(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not wanted counts, since it was read."""
    monkeypatch.setattr(event_tail, "ROWS_MAX", 3)
    tail = await started(database, "wanted")
    for event_type in ("other", "wanted", "other", "wanted"):
        await database.value(ENQUEUE, event_type, "{}")
    looks = [await tail.look(database) for _ in range(3)]
    assert [(1, True), (1, False), (0, False)] == [(len(look.events), look.is_cut) for look in looks]


async def test_a_look_is_not_compiled(database: Database) -> None:
    """Compiling would take longer than the look. Tables are small here, so a hundredth of what is compiled is too much."""
    await database.value(ENQUEUE, "e", "{}")
    await database.script(["update pg_class set reltuples = 1e6, relpages = 1 where relname like 'event_2%'"])
    prepare = f"prepare look (text, text, text, int, int) as {statements()['events_tail']}"
    await database.script(["set plan_cache_mode = force_generic_plan", prepare])
    plan = await database.value("""explain execute look ('[[1, 5]]', null, '["*"]', 1000, 8000000)""")
    cost = re.search(r"cost=[\d.]+?\.\.([\d.]+)", plan)
    assert cost
    above = await database.value("select setting from pg_settings where name = 'jit_above_cost'")
    assert float(cost[1]) < float(above) / 100


async def test_an_event_as_it_is(database: Database) -> None:
    """All that a request says of it; and when its transaction began."""
    tail = await started(database)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await database.value(
        "select webhook.enqueue('a.b', $1::text, 'acme', content_type => 'text/x', traceparent => $2::text)",
        '{"é":  "\\"}\n',
        trace,
    )
    (event,) = (await tail.look(database)).events
    (row,) = await database.rows("select id, created_at from webhook.event")
    prefix = await database.value("select message_id_prefix from webhook.meta")
    expected: tuple[Any, ...] = (
        row["id"], row["created_at"], "a.b", "acme", "text/x", '{"é":  "\\"}\n', trace, f"msg_{prefix}_{row['id']}",
    )  # fmt: skip
    assert expected == event


async def test_a_database_that_was_made_anew(database: Database) -> None:
    """Its ids begin anew, and so does the tail, which tells one from the other by what webhook-ids begin with."""
    for _ in range(3):
        await database.value(ENQUEUE, "old", "{}")
    tail = await started(database)
    before = (await tail.look(database)).message_id_prefix
    await database.script(["drop schema webhook cascade"])
    await migrate_up(database)
    await database.value(ENQUEUE, "there", "{}")
    anew = await tail.look(database)
    assert ([], True) == (anew.events, anew.message_id_prefix != before)
    await database.value(ENQUEUE, "new", "{}")
    (event,) = (await tail.look(database)).events
    assert ("new", 2) == (event.event_type, event.id)
    assert anew.message_id_prefix in event.webhook_id
