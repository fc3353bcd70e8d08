"""What enqueue, claim and record touch does not grow with what there is: the rows they read are counted by Postgres itself."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from worker.store.database import Database, connect
from worker.store.sql import statements

PENDING, ENDPOINTS, ROWS = 50_000, 5_000, 200
TURNS = 100
FIRED_MAX = 500
"""Timers that have fired are put into the run queue so many at a time, whatever the batch."""

COUNTS = """
select relname::text as name, coalesce(seq_tup_read, 0)::int as by_scan, coalesce(idx_tup_fetch, 0)::int as by_index
from pg_stat_xact_user_tables where schemaname = 'webhook'
"""


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[Database]:
    """A connection of its own: Postgres adds to a transaction's counts what its session has not yet reported."""
    connection = connect(dsn)
    yield connection
    await connection.close()


@pytest.mark.fault(51)
async def test_rows_touched_are_proportional_to_the_batch(dsn: str, database: Database) -> None:
    """With 50,000 pending, a claim and a record of 200 read a few hundred rows, all through indexes."""
    load = statements()["bench_load"].replace("$1", str(PENDING)).replace("$2", str(ENDPOINTS))
    await database.script([load])
    await database.script(["vacuum analyze"])

    async with session(dsn) as one, one.transaction():
        document = json.loads(await one.value("select webhook.claim('w', $1::int, 1000000000)", ROWS))
        claimed = len(document["deliveries"])
        read = {row["name"]: row for row in await one.rows(COUNTS)}
    assert claimed >= ROWS / 4
    for table in ("pending", "endpoint_sched", "endpoint", "endpoint_key"):
        assert 0 == read[table]["by_scan"], table
        assert read[table]["by_index"] <= 4 * ROWS + 2 * FIRED_MAX, (table, read[table])
    payloads = [row for name, row in read.items() if name.startswith("event_")]
    assert 0 == sum(row["by_scan"] for row in payloads)
    assert claimed == sum(row["by_index"] for row in payloads)

    outcomes = [
        [document["claim"], row[0], "retry", "timeout", None, 1, 1, None, None, 5, None, None] for row in document["deliveries"]
    ]
    async with session(dsn) as another, another.transaction():
        assert claimed == await another.value("select webhook.record('w', $1::text)", json.dumps(outcomes))
        read = {row["name"]: row for row in await another.rows(COUNTS)}
    for table in ("endpoint_sched", "inflight"):
        assert read[table]["by_scan"] + read[table]["by_index"] <= 4 * ROWS, (table, read[table])
    assert 0 == read["endpoint_sched"]["by_scan"]
    assert 0 == read["pending"]["by_scan"]


ENTRIES_READ = """
select c.relname::text as name, pg_stat_get_xact_tuples_returned(i.indexrelid)::int as read
from pg_index as i join pg_class as c on c.oid = i.indexrelid join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = 'webhook'
"""


STATISTICS = {
    "none": "select 1",
    "of when all was empty": "analyze",
    "wrong": "update pg_class set reltuples = 1e5, relpages = 1 where relnamespace = 'webhook'::regnamespace",
}
"""Whatever the planner may know of tables whose contents it has not seen. The wrong ones say ten million rows for each hundred
pages; much more would be past what "off" weighs before Postgres 18, which is a cost of 10^10."""

HOSTILE = ["set random_page_cost = 1000", "set cpu_index_tuple_cost = 1", "set effective_cache_size = '8kB'"]
"""What makes an index look as dear as it can."""

ONE_ROW = {"meta", "sched_floor"}
"""Tables of one row."""

FLIP = """
select string_agg(format('alter function webhook.%s(%s) reset all', p.proname, pg_get_function_identity_arguments(p.oid)), '; ')
from pg_proc as p
where p.pronamespace = 'webhook'::regnamespace and p.proname in ('claim', 'drain_wake', 'record', 'extend', 'reap')
"""


async def work(on: Database) -> tuple[dict[str, int], int]:
    """Claim, record, extend and reap; return the rows read by scanning, by table, and the number of index entries read."""
    document = json.loads(await on.value("select webhook.claim('w', $1::int, 1000000000)", ROWS))
    outcomes = [
        [document["claim"], row[0], "retry", "timeout", None, 1, 1, None, None, 5, None, None] for row in document["deliveries"]
    ]
    assert ROWS == len(outcomes)
    assert ROWS // 2 == await on.value("select webhook.record('w', $1::text)", json.dumps(outcomes[ROWS // 2 :]))
    assert document["claim"] == await on.value("select webhook.extend(array[$1::bigint])", document["claim"])
    ending = f"update webhook.claim_batch set lease_until = '-infinity' where claim_id = {document['claim']}"
    await on.script(["set enable_seqscan = off", ending, "reset enable_seqscan"])  # this one is ours
    assert ROWS // 2 == await on.value("select webhook.reap()")
    by_scan = {row["name"]: row["by_scan"] for row in await on.rows(COUNTS) if row["by_scan"] and row["name"] not in ONE_ROW}
    by_index = sum(row["read"] for row in await on.rows(ENTRIES_READ))
    return by_scan, by_index


async def load(database: Database, statistics: str) -> None:
    fill = statements()["bench_load"].replace("$1", str(PENDING)).replace("$2", str(ENDPOINTS))
    await database.script([fill, STATISTICS[statistics]] if statistics == "wrong" else [STATISTICS[statistics], fill])


@pytest.mark.fault(51)
@pytest.mark.parametrize("statistics", STATISTICS)
async def test_no_statistics_make_a_plan_flip(dsn: str, database: Database, statistics: str) -> None:
    """Whatever statistics and settings say, what workers call goes by its indexes, and reads no more for it."""
    await load(database, statistics)
    for plans in ("auto", "force_generic_plan", "force_custom_plan"):
        async with session(dsn) as one:
            await one.script([*HOSTILE, f"set plan_cache_mode = {plans}", "begin"])
            by_scan, by_index = await work(one)
            await one.script(["rollback"])
        assert {} == by_scan
        assert by_index <= 30 * ROWS  # with what the rounds before have left behind


@pytest.mark.fault(51)
async def test_it_is_the_functions_settings_that_hold_the_plans(dsn: str, database: Database) -> None:
    """The same work, in functions that leave the choice to the planner, reads the whole of what is pending, again and again."""
    await load(database, "none")
    async with session(dsn) as one:
        await one.script([*HOSTILE, "begin", await database.value(FLIP)])
        by_scan, _ = await work(one)
        await one.script(["rollback"])
    assert by_scan["pending"] > PENDING


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize("call", ["enqueue('order.created', '{}')", "enqueue_many(array['order.created'], array['{}'])"])
async def test_an_enqueue_reads_its_own_subscriptions(dsn: str, database: Database, call: str, *, analyzed: bool) -> None:
    """Beside a thousand endpoints of its tenant that want other events, and whatever statistics know of them, it reads two."""
    create = """select count(*) from generate_series(1, $1::int) as n cross join lateral webhook.create_endpoint(
                    'https://receiver.test/' || n, '', jsonb_build_object('event_types', jsonb_build_array($2::text)))"""
    async with session(dsn) as producer:
        for _ in range(10):  # its plans are made now
            await producer.value(f"select webhook.{call}")
        await database.value(create, 1000, "user.created")
        await database.value(create, 2, "order.*")
        if analyzed:
            await database.script(["vacuum analyze"])
        async with producer.transaction():
            await producer.value(f"select webhook.{call}")
            scanned = {row["name"]: row["by_scan"] for row in await producer.rows(COUNTS)}
            read = {row["name"]: row["read"] for row in await producer.rows(ENTRIES_READ)}
    assert 0 == scanned["subscription"]
    assert 2 == sum(count for index, count in read.items() if index.startswith("subscription_")), read
    assert 0 == await database.value("select count(*) from webhook.pending where endpoint_id <= 1000")
    assert 2 == await database.value("select count(*) from webhook.pending")


BLOCKS_READ = """
select sum(pg_stat_get_xact_blocks_fetched(c.oid))::int from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
where n.nspname = 'webhook'
"""


@pytest.mark.fault(51)
@pytest.mark.fault(53)
async def test_dead_rows_are_not_read(dsn: str, database: Database) -> None:
    """While a snapshot held elsewhere keeps every dead row, no plan reads them: five times as many of them change nothing."""
    for n in range(20):
        create = "select id from webhook.create_endpoint($1::text, settings => '{\"max_in_flight\": 1000}')"
        await database.value(create, f"https://receiver.test/{n}")
    produce = "select count(*) from webhook.enqueue_many(array_fill('e'::text, array[10]), array_fill('{}'::text, array[10]))"

    async def turn(on: Database) -> None:
        document = json.loads(await on.value("select webhook.claim('w', $1::int, 1000000000)", ROWS))
        outcomes = [
            [document["claim"], row[0], "delivered", "ok", 200, 1, 1, None, None, 0, None, None]
            for row in document["deliveries"]
        ]
        assert ROWS == await on.value("select webhook.record('w', $1::text)", json.dumps(outcomes))

    async def turns(count: int) -> tuple[int, int]:
        """Take so many, and tell how many index entries, and how many blocks, one more reads."""
        for n in range(count):
            await database.value(produce)
            await turn(database)
            if n % 10 == 9:
                await database.script(["vacuum analyze", "select webhook.raise_floor()"])
        await database.value(produce)
        async with session(dsn) as one, one.transaction():
            await turn(one)
            entries = sum(row["read"] for row in await one.rows(ENTRIES_READ))
            return entries, await one.value(BLOCKS_READ)

    async with session(dsn) as holder, holder.transaction():
        await holder.script(["set transaction isolation level repeatable read", "create table public.held ()"])
        few_entries, few_blocks = await turns(TURNS // 5)
        entries, blocks = await turns(TURNS - TURNS // 5)
    assert entries <= 10 * ROWS  # of 20,000 dead deliveries, several times over
    assert entries <= 1.2 * few_entries
    assert blocks <= 1.2 * few_blocks
