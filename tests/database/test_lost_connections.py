"""Connections killed under each call that a worker makes, and answers that never came: either driver loses nothing."""

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest
from wire import Wire

from worker.core.model import Decision, Delivery, Exchange, Outcome
from worker.pipeline.leases import Leases
from worker.pipeline.ports import StoreError
from worker.store.database import Database, DatabaseUnavailableError
from worker.store.postgres import PostgresStore
from worker.store.psycopg_database import PsycopgDatabase

Driver = Callable[..., Database]

DRIVERS: dict[str, Driver] = {"psycopg": PsycopgDatabase}
if sys.implementation.name == "cpython":
    from worker.store.asyncpg_database import AsyncpgDatabase

    DRIVERS["asyncpg"] = AsyncpgDatabase

EVENTS = 5
NAME = "a-worker-by-this-name"


@pytest.fixture(params=list(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Driver:
    return DRIVERS[request.param]


@pytest.fixture
async def store(dsn: str, driver: Driver) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(dsn, NAME, connect=driver)
    yield store
    await store.close()


async def load(database: Database) -> None:
    await database.value("select id from webhook.create_endpoint('http://127.0.0.1:9/hook')")
    for _ in range(EVENTS):
        await database.value("select webhook.enqueue('t', '{}')")


async def claim(store: PostgresStore) -> list[Delivery]:
    return (await store.claim(100, 1 << 20)).deliveries


def delivered(deliveries: list[Delivery]) -> list[Outcome]:
    return [Outcome(one, Decision("delivered", "ok"), 0.0, 0.01, Exchange(200)) for one in deliveries]


async def until(database: Database, condition: str) -> None:
    with anyio.fail_after(20):
        while not await database.value(condition):  # noqa: ASYNC110 - what happens elsewhere tells nobody
            await anyio.sleep(0.01)


async def states(database: Database) -> dict[tuple[str, int], int]:
    rows = await database.rows("select state, attempts, count(*)::int as n from webhook.deliveries group by 1, 2")
    return {(row["state"], row["attempts"]): row["n"] for row in rows}


IN_FLIGHT = "select sum(in_flight)::int from webhook.endpoints"
WAITS = "select exists (select from pg_locks where not granted and relation = '{}'::regclass)"
TERMINATE = "select pg_terminate_backend(pid) from pg_locks where not granted and relation = '{}'::regclass"


async def killed(database: Database, table: str, call: Callable[[], Awaitable[object]]) -> None:
    """Make a call that has to wait for a table, and terminate its backend meanwhile."""

    async def kill() -> None:
        await until(database, WAITS.format(table))
        await database.value(TERMINATE.format(table))

    async with database.transaction():
        await database.script([f"lock table {table} in share mode"])
        async with anyio.create_task_group() as killer:
            killer.start_soon(kill)
            with pytest.raises(DatabaseUnavailableError):
                await call()


@pytest.mark.fault(43)
async def test_killed_in_a_claim(store: PostgresStore, database: Database) -> None:
    """A claim that dies leases nothing and counts no attempt; the next one, on a new connection, has it all."""
    await load(database)
    await killed(database, "webhook.inflight", lambda: claim(store))
    assert ({("pending", 0): EVENTS}, 0) == (await states(database), await database.value(IN_FLIGHT))
    assert [1] * EVENTS == [delivery.attempt for delivery in await claim(store)]


@pytest.mark.fault(43)
async def test_killed_in_a_record(store: PostgresStore, database: Database) -> None:
    """A record that dies changes nothing; made again, it changes everything."""
    await load(database)
    outcomes = delivered(await claim(store))
    await killed(database, "webhook.inflight", lambda: store.record(outcomes, 0.02))
    assert {("in_flight", 1): EVENTS} == await states(database)
    assert EVENTS == await store.record(outcomes, 0.02)
    assert ({("delivered", 1): EVENTS}, 0) == (await states(database), await database.value(IN_FLIGHT))


@pytest.mark.fault(43)
async def test_killed_in_an_extension(store: PostgresStore, database: Database) -> None:
    """An extension that dies leaves the lease as it was; made again, it extends it."""
    await load(database)
    own = (await claim(store))[0].claim
    await database.value("update webhook.claim_batch set lease_until = clock_timestamp() + interval '10 s' returning 1")
    await killed(database, "webhook.claim_batch", lambda: store.extend([own.id]))
    extended = "select lease_until > clock_timestamp() + interval '20 s' from webhook.claim_batch"
    assert not await database.value(extended)
    assert {own.id} == await store.extend([own.id])
    assert await database.value(extended)


@pytest.mark.fault(43)
async def test_killed_while_idle(store: PostgresStore, database: Database) -> None:
    """Connections that died while nobody used them are replaced: at the latest the second call goes through."""
    await load(database)
    outcomes = delivered(await claim(store))
    await database.rows(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
    )
    for call in (lambda: claim(store), lambda: store.extend([1])):
        try:
            await call()
        except DatabaseUnavailableError:
            await call()
    assert EVENTS == await store.record(outcomes, 0.02)


@pytest.mark.fault(43)
async def test_killed_in_a_transaction(dsn: str, database: Database, driver: Driver) -> None:
    """What is left of a transaction whose connection has died does not run on another one, where it would be kept."""
    await database.script(["create table public.kept (n int)"])
    connection = driver(dsn)
    with pytest.raises(DatabaseUnavailableError, match=r"transaction|terminat|closed"):
        await half_a_transaction(connection, database)
    assert 0 == await database.value("select count(*) from public.kept")
    await connection.script(["insert into public.kept values (3)"])
    assert 3 == await database.value("select n from public.kept")
    await connection.close()


async def half_a_transaction(connection: Database, database: Database) -> None:
    async with connection.transaction():
        await connection.script(["insert into public.kept values (1)"])
        await database.value("select pg_terminate_backend($1::int, 5000)", await connection.value("select pg_backend_pid()"))
        with anyio.move_on_after(0.2):  # some drivers notice by themselves
            await anyio.sleep_forever()
        try:
            await connection.value("select 1")
        except StoreError:  # and whoever goes on all the same
            await connection.script(["insert into public.kept values (2)"])


@pytest.mark.fault(44)
async def test_the_answer_to_a_record_is_lost(dsn: str, database: Database, driver: Driver) -> None:
    """The record is committed, its answer lost with the connection: recorded again, nothing changes."""
    await load(database)
    async with Wire(dsn).listening() as wire:
        store = PostgresStore(wire.dsn, NAME, connect=driver)
        outcomes = delivered(await claim(store))
        wire.cut_after = b'"delivered"'
        with pytest.raises(DatabaseUnavailableError):
            await store.record(outcomes, 0.02)
        await until(database, "select not exists (select from webhook.inflight)")
        before = json.dumps(await database.rows("select * from webhook.attempts order by delivery_id"), default=str)
        assert 0 == await store.record(outcomes, 0.02)
        await store.close()
    assert before == json.dumps(await database.rows("select * from webhook.attempts order by delivery_id"), default=str)
    assert ({("delivered", 1): EVENTS}, 0) == (await states(database), await database.value(IN_FLIGHT))


@pytest.mark.fault(44)
async def test_the_answer_to_a_claim_is_lost(dsn: str, database: Database, driver: Driver) -> None:
    """The claim is committed, and nobody knows of it: its lease runs out, and then it is claimed again."""
    await load(database)
    async with Wire(dsn).listening() as wire:
        store = PostgresStore(wire.dsn, NAME, connect=driver)
        wire.cut_after = NAME.encode()
        with pytest.raises(DatabaseUnavailableError):
            await claim(store)
        await until(database, "select exists (select from webhook.inflight)")
        assert [] == await claim(store)
        await database.value("update webhook.claim_batch set lease_until = clock_timestamp() returning 1")
        assert EVENTS == await store.reap()
        assert [2] * EVENTS == [delivery.attempt for delivery in await claim(store)]
        await store.close()


@pytest.mark.fault(43)
async def test_an_extension_over_a_half_open_connection(
    dsn: str, database: Database, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up, connection and all, and made anew: the lease is extended before it ends."""
    monkeypatch.setattr("worker.pipeline.leases.TRY_SECONDS", 0.2)
    monkeypatch.setattr("worker.pipeline.leases.LOOK_EVERY_SECONDS", 0.01)
    await load(database)
    async with Wire(dsn).listening() as wire, anyio.create_task_group() as group:
        store = PostgresStore(wire.dsn, NAME, connect=driver)
        leases = Leases(store, anyio.current_time)
        leases.add((await claim(store))[0].claim, anyio.current_time() - 25, EVENTS)
        await database.value("update webhook.claim_batch set lease_until = clock_timestamp() + interval '5 s' returning 1")
        wire.hang_on = b"webhook.extend"
        group.start_soon(leases.keep)
        with anyio.fail_after(4.5):
            await until(database, "select lease_until > clock_timestamp() + interval '20 s' from webhook.claim_batch")
        assert b"" == wire.hang_on
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await store.close()


async def test_patience_is_the_callers(dsn: str, driver: Driver) -> None:
    """What takes longer than its caller waits is given up, connection and all; the next call opens another."""
    impatient, patient = driver(dsn, query_seconds_max=0.05), driver(dsn, query_seconds_max=10)
    try:
        with pytest.raises(DatabaseUnavailableError):
            await impatient.value("select pg_sleep(5)")
        assert await impatient.value("select 1") == 1
        assert await patient.value("select 1 from pg_sleep(0.1)") == 1
    finally:
        await impatient.close()
        await patient.close()
