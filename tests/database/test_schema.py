"""Migrations, compatibility of releases, the schema's own guards, and time partitions."""

import re
from collections.abc import Callable
from typing import get_args

import anyio
import pytest

from worker.core.model import Disposition
from worker.store.database import Database, DatabaseError, connect
from worker.store.memory_tables import DeliveryState, EndpointState
from worker.store.migrate import IncompatibleSchemaError, migrate_up, read_schema
from worker.store.sql import functions_hash, migrations

ALL = [*(name for _, name, _ in migrations()), "functions"]
WEEKS_AHEAD = 4


async def migrate(dsn: str) -> list[str]:
    database = connect(dsn)
    try:
        return await migrate_up(database)
    finally:
        await database.close()


# -- migrations ------------------------------------------------------------------------------------------------------


async def test_migrating_twice(empty_dsn: str) -> None:
    """The second migration finds nothing to do."""
    assert await migrate(empty_dsn) == ALL
    assert await migrate(empty_dsn) == []


@pytest.mark.fault(52)
async def test_two_migrate_at_once(empty_dsn: str) -> None:
    """Of two migrators at once one applies everything; the other waits for it, and finds nothing to do."""
    found: list[list[str]] = []

    async def one() -> None:
        found.append(await migrate(empty_dsn))

    async with anyio.create_task_group() as migrators:
        migrators.start_soon(one)
        migrators.start_soon(one)
    assert sorted(found) == [[], ALL]


async def test_changed_functions_are_replaced(database: Database) -> None:
    """A release that changes functions only applies these, on top of what is there."""
    await database.script(["update webhook.meta set functions_hash = 'of another release'"])
    assert await migrate_up(database) == ["functions"]
    assert (await read_schema(database)).functions_hash == functions_hash()
    assert await migrate_up(database) == []


async def test_failed_migration_leaves_nothing(empty_dsn: str) -> None:
    """A migration that fails is rolled back as a whole."""
    database = connect(empty_dsn)
    await database.script(["create schema webhook", "create table webhook.endpoint (id int)"])
    with pytest.raises(DatabaseError, match="already exists"):
        await migrate_up(database)
    assert await database.value("select to_regclass('webhook.meta') is null and to_regclass('webhook.migration') is null")
    await database.close()


async def test_migrating_a_newer_database(database: Database) -> None:
    """A release does not touch a database that a later one has migrated."""
    await database.script(["insert into webhook.migration (number, name, applied_by) values (9999, 'later', '9.0.0')"])
    with pytest.raises(IncompatibleSchemaError, match="the database is at migration 9999, this release ends at"):
        await migrate_up(database)


@pytest.fixture
def latin1_dsn(new_database: Callable[[str], str]) -> str:
    return new_database("encoding 'LATIN1' locale 'C' template template0")


async def test_other_encodings_are_refused(latin1_dsn: str) -> None:
    """Payloads are kept byte for byte, which only a UTF-8 database can promise."""
    with pytest.raises(IncompatibleSchemaError, match="the database is encoded in LATIN1; only UTF8 is supported"):
        await migrate(latin1_dsn)


# -- compatibility ---------------------------------------------------------------------------------------------------


async def test_databases_differ(database: Database, empty_dsn: str) -> None:
    """Every database has its own prefix for message ids, fit for a header."""
    await migrate(empty_dsn)
    other = connect(empty_dsn)
    prefixes = {(await read_schema(one)).message_id_prefix for one in (database, other)}
    await other.close()
    assert len(prefixes) == 2
    assert all(re.fullmatch("[A-Za-z0-9]{8}", prefix) for prefix in prefixes)


async def test_no_schema(empty_dsn: str) -> None:
    """A worker on an empty database says what to do."""
    database = connect(empty_dsn)
    with pytest.raises(IncompatibleSchemaError, match="run `webhook-worker migrate up`"):
        await read_schema(database)
    await database.close()


async def test_worker_too_old(database: Database) -> None:
    """A worker older than the schema allows does not run."""
    await database.script(["update webhook.meta set oldest_worker = '99.0.0'"])
    with pytest.raises(IncompatibleSchemaError, match=r"needs webhook-worker 99\.0\.0 or newer"):
        await read_schema(database)


async def test_schema_too_old(database: Database) -> None:
    """A worker newer than the schema asks for the migration."""
    await database.script(["update webhook.meta set schema_version = 0"])
    with pytest.raises(IncompatibleSchemaError, match="the schema is at migration 0, this worker needs"):
        await read_schema(database)


async def test_schema_newer_and_compatible(database: Database) -> None:
    """The previous release keeps working on a migrated database, as long as that allows it."""
    await database.script(["update webhook.meta set schema_version = 9999"])
    assert (await read_schema(database)).version == 9999


# -- states ----------------------------------------------------------------------------------------------------------

FINISHED = "insert into webhook.finished values (1, now(), 'lost', 1, 1, now(), 0, 1)"
ENDPOINT = "insert into webhook.endpoint_sched (endpoint_id, tenant_no, {}) values (1, 1, {})"


@pytest.mark.parametrize(
    "statement",
    [
        FINISHED,
        ENDPOINT.format("state", "'asleep'"),
        ENDPOINT.format("circuit", "'ajar'"),
        ENDPOINT.format("in_flight", "-1"),
        ENDPOINT.format("rate", "0"),
        ENDPOINT.format("rate", "'NaN'"),
        ENDPOINT.format("burst", "0"),
        ENDPOINT.format("state, next_at", "'paused', now()"),
        "insert into webhook.endpoint_key (endpoint_id, scheme, secret) values (1, 'v9', sha256('x'))",
        "insert into webhook.pending values (1, 1, now(), 1, now(), 0, -1)",
        "insert into webhook.inflight values (1, 1, 1, now(), 1, now(), 0, 0, 0)",
        "insert into webhook.meta (one, schema_version, oldest_worker, message_id_prefix) values (false, 1, '', '')",
    ],
)
async def test_unknown_states_are_refused(database: Database, statement: str) -> None:
    """The schema itself refuses states that mean nothing."""
    with pytest.raises(DatabaseError, match="violates check constraint") as raised:
        await database.script([statement])
    assert raised.value.sqlstate == "23514"


async def states_of(database: Database, table: str) -> set[str]:
    definition = await database.value(
        "select pg_get_constraintdef(oid) from pg_constraint where conrelid = $1::text::regclass and conname = $2::text",
        f"webhook.{table}",
        f"{table}_state_check",
    )
    return set(re.findall("'([a-z_]+)'", definition))


async def test_states_in_the_code(database: Database) -> None:
    """The states that the code knows are those that the schema allows."""
    assert set(get_args(EndpointState)) == await states_of(database, "endpoint_sched")
    finished = await states_of(database, "finished")
    assert set(get_args(DeliveryState)) == finished | {"pending", "in_flight"}
    assert set(get_args(Disposition)) - {"retry", "released"} == finished - {"cancelled"}


# -- partitions ------------------------------------------------------------------------------------------------------

ENSURE = "select webhook.ensure_partitions()"
ATTACHED = "select count(*) from pg_inherits where inhparent = $1::text::regclass"
WEEK = """select to_char(now() at time zone 'UTC' + $2::int * interval '7 days', '"webhook.' || $1::text || '_"IYYY"w"IW')"""


@pytest.mark.parametrize("table", ["event", "finished", "attempt"])
async def test_partitions_are_made_ahead(database: Database, table: str) -> None:
    """After a migration there is a partition for this week and each week ahead, and the default one as a net."""
    assert await database.value(ATTACHED, f"webhook.{table}") == 1 + WEEKS_AHEAD + 1
    assert await database.value("select to_regclass($1::text) is not null", await database.value(WEEK, table, WEEKS_AHEAD))


async def test_partitions_are_made_once(database: Database) -> None:
    """Making them again makes none."""
    assert await database.value(ENSURE) == 0


async def test_partitions_beside_open_producers(database: Database, dsn: str) -> None:
    """A partition is made while a producer's transaction is open, without waiting for it."""
    await database.script([f"drop table {await database.value(WEEK, 'event', 1)}"])
    producer = connect(dsn)
    async with producer.transaction():
        await producer.value("select webhook.enqueue('a', '{}')")
        with anyio.fail_after(5):
            assert await database.value(ENSURE) == 1
    await producer.close()
    assert await database.value("select count(*) from webhook.event") == 1


async def test_partition_whose_rows_are_elsewhere(database: Database) -> None:
    """A week whose rows went to the default partition gets none of its own; the others do, and producers succeed."""
    this, ahead = await database.value(WEEK, "event", 0), await database.value(WEEK, "event", 2)
    await database.script([f"drop table {this}, {ahead}"])
    await database.value("select webhook.enqueue('a', '{}')")
    assert await database.value(ENSURE) == 1
    assert await database.value("select to_regclass($1::text) is null", this)
    assert await database.value("select webhook.enqueue('b', '{}')")
    assert await database.value("select count(*) from webhook.event_default") == 2


async def test_partitions_while_the_default_is_in_use(database: Database, dsn: str) -> None:
    """A producer that is writing to the default partition is not disturbed: the partition waits for the next turn."""
    this, ahead = await database.value(WEEK, "event", 0), await database.value(WEEK, "event", 2)
    await database.script([f"drop table {this}, {ahead}"])
    producer = connect(dsn)
    async with producer.transaction():
        await producer.value("select webhook.enqueue('a', '{}')")
        with anyio.fail_after(10):
            assert await database.value(ENSURE) == 0
    await producer.close()
    assert await database.value(ENSURE) == 1


async def test_maintain_makes_partitions(database: Database) -> None:
    """Workers make what is missing in their housekeeping, which takes one task a turn."""
    await database.script([f"drop table {await database.value(WEEK, 'attempt', 3)}"])
    turns = [await database.value("select webhook.maintain()") for _ in range(10)]
    assert any('"partitions": 1' in done for done in turns)
    assert '"more": true' in turns[0]  # housekeeping goes on at once
    assert await database.value("select webhook.maintain()") == "{}"
