"""What Postgres refuses for now: deadlocks, conflicts, timeouts, a read-only server. Calls are made again, by either driver."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from worker.core.model import Decision, Delivery, Exchange, Outcome
from worker.pipeline.ports import Claimed, StoreError
from worker.pipeline.recorder import Recorder
from worker.store.database import Database, DatabaseError, DatabaseUnavailableError, connect
from worker.store.postgres import PostgresStore
from worker.store.psycopg_database import PsycopgDatabase

Driver = Callable[[str], Database]

DRIVERS: dict[str, Driver] = {"psycopg": PsycopgDatabase}
if sys.implementation.name == "cpython":
    from worker.store.asyncpg_database import AsyncpgDatabase

    DRIVERS["asyncpg"] = AsyncpgDatabase

EVENTS = 5
SCHED, BATCH = "select from webhook.endpoint_sched for update", "select from webhook.claim_batch for update"
WAITING = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


@pytest.fixture(params=list(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Driver:
    return DRIVERS[request.param]


@pytest.fixture
async def deliveries(dsn: str, database: Database, driver: Driver) -> list[Delivery]:
    """What was claimed before anything was wrong."""
    await load(database)
    store = PostgresStore(dsn, "a", connect=driver)
    claimed = await claim(store)
    await store.close()
    return claimed


async def load(database: Database) -> None:
    await database.value("select id from webhook.create_endpoint('http://127.0.0.1:9/hook')")
    for _ in range(EVENTS):
        await database.value("select webhook.enqueue('t', '{}')")


@asynccontextmanager
async def configured(dsn: str, database: Database, driver: Driver, setting: str) -> AsyncIterator[PostgresStore]:
    """A store whose sessions have this setting."""
    name = await database.value("select current_database()")
    await database.script([f'alter database "{name}" set {setting}'])
    store = PostgresStore(dsn, "a", connect=driver)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[Database]:
    """Somebody else's connection, with the settings of before."""
    connection = connect(dsn)
    await connection.value("select 1")
    yield connection
    await connection.close()


async def claim(store: PostgresStore) -> list[Delivery]:
    return (await store.claim(100, 1 << 20)).deliveries


async def waiting(database: Database, sessions: int) -> bool:
    await database.value("select pg_stat_clear_snapshot()")  # or a transaction sees the same ones for ever
    return bool(sessions == await database.value(WAITING))


async def wait(condition: Callable[[], Awaitable[object]]) -> None:
    with anyio.fail_after(20):
        while not await condition():  # noqa: ASYNC110 - what happens elsewhere tells nobody
            await anyio.sleep(0.01)


@asynccontextmanager
async def recording(store: PostgresStore, deliveries: list[Delivery]) -> AsyncIterator[Recorder]:
    """A recorder at work on the outcomes of these; at the end, everything is recorded."""
    recorder = Recorder(store, anyio.current_time, (0.01,))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        for delivery in deliveries:
            recorder.add(Outcome(delivery, Decision("delivered", "ok"), 0.0, 0.01, Exchange(200)))
        yield recorder
        with anyio.fail_after(20):
            await recorder.drained()
        tasks.cancel_scope.cancel()


async def failed(recorder: Recorder, sqlstate: str) -> None:
    """Wait until a record has failed with this."""
    seen: set[str] = set()

    async def look() -> bool:
        if recorder.error is not None:
            assert isinstance(recorder.error, DatabaseError)
            seen.add(recorder.error.sqlstate)
        return sqlstate in seen

    await wait(look)


async def assert_recorded_once(recorder: Recorder, database: Database) -> None:
    assert ([{"state": "delivered", "attempts": 1}] * EVENTS, 0) == (
        await database.rows("select state, attempts from webhook.deliveries"),
        await database.value("select sum(in_flight)::int from webhook.endpoints"),
    )
    assert (0, None) == (recorder.fenced, recorder.error)
    assert recorder.errors > 0


@pytest.mark.fault(50)
async def test_a_deadlock(dsn: str, database: Database, other: Database, driver: Driver, deliveries: list[Delivery]) -> None:
    """Whoever takes our rows in another order can have a record for its victim: it is made again, and complete."""
    await other.script(["set deadlock_timeout = '1min'"])  # it is not the one that looks
    async with configured(dsn, database, driver, "deadlock_timeout = '20ms'") as store:
        await database.script(["begin", "lock table webhook.inflight in share mode"])
        async with recording(store, deliveries) as recorder:
            await wait(lambda: waiting(database, 1))  # the record has the claim's row, and is held up
            await other.script(["begin", SCHED])
            async with anyio.create_task_group() as group:
                group.start_soon(other.script, [BATCH])
                await wait(lambda: waiting(database, 2))
                await database.script(["commit"])  # now the record goes for the endpoint's row, and closes the circle
                await failed(recorder, "40P01")
            await other.script(["commit"])
        await assert_recorded_once(recorder, database)


@pytest.mark.fault(50)
async def test_a_serialization_failure(
    dsn: str, database: Database, other: Database, driver: Driver, deliveries: list[Delivery]
) -> None:
    """Where every transaction is serializable, one whose rows were changed meanwhile fails, and is made again."""
    async with configured(dsn, database, driver, "default_transaction_isolation = 'serializable'") as store:
        async with other.transaction():
            await other.script(["update webhook.claim_batch set lease_until = lease_until + interval '1 s'"])
            async with recording(store, deliveries) as recorder:
                await wait(lambda: waiting(database, 1))
                await other.script(["commit", "begin"])
                await failed(recorder, "40001")
        await assert_recorded_once(recorder, database)


@pytest.mark.fault(50)
@pytest.mark.parametrize(("setting", "sqlstate"), [("statement_timeout", "57014"), ("lock_timeout", "55P03")])
async def test_a_timeout(
    dsn: str, database: Database, other: Database, driver: Driver, deliveries: list[Delivery], *, setting: str, sqlstate: str
) -> None:
    """While rows are locked for longer than a statement may take, claims, extensions and records fail, and are made again."""
    async with configured(dsn, database, driver, f"{setting} = '50ms'") as store:
        async with other.transaction():
            await other.script(["lock table webhook.claim_batch, webhook.endpoint_sched in access exclusive mode"])
            for call in (claim(store), store.extend([deliveries[0].claim.id])):
                with pytest.raises(StoreError) as raised:
                    await call
                assert isinstance(raised.value, DatabaseError)
                assert sqlstate == raised.value.sqlstate
            async with recording(store, deliveries) as recorder:
                await failed(recorder, sqlstate)
                await other.script(["commit", "begin"])
        await assert_recorded_once(recorder, database)


@pytest.mark.fault(48)
async def test_a_read_only_server(dsn: str, database: Database, other: Database, driver: Driver) -> None:
    """A server that has become read-only is as good as away; the next call dials again, and may find another."""
    await load(database)
    name = await database.value("select current_database()")
    async with configured(dsn, database, driver, "default_transaction_read_only = on") as store:
        for call in (claim(store), store.extend([1]), store.record([], 0.0), store.reap()):
            with pytest.raises(DatabaseUnavailableError, match="read-only transaction"):
                await call
        await other.script([f'alter database "{name}" reset default_transaction_read_only'])
        assert EVENTS == len(await claim(store))


@pytest.mark.fault(56)
async def test_a_claim_that_is_held_up(dsn: str, database: Database, other: Database, driver: Driver) -> None:
    """It says how long it was at work in the database: how well a worker knows its clock is a matter of the way alone."""
    await load(database)
    store = PostgresStore(dsn, "a", connect=driver)
    claimed: list[Claimed] = []

    async def claim_in_vain() -> None:
        claimed.append(await store.claim(100, 1 << 20))

    async with other.transaction(), anyio.create_task_group() as group:
        await other.script(["lock table webhook.inflight in share mode"])
        group.start_soon(claim_in_vain)
        await wait(lambda: waiting(database, 1))
        await anyio.sleep(0.2)
        await other.script(["commit", "begin"])
    await store.close()
    assert EVENTS == len(claimed[0].deliveries)
    assert claimed[0].worked_seconds >= 0.2


@pytest.mark.fault(50)
async def test_a_claim_while_all_are_locked(dsn: str, database: Database, other: Database, driver: Driver) -> None:
    """It waits for nobody, and says that it is worth asking again when something has been recorded."""
    await load(database)
    store = PostgresStore(dsn, "a", connect=driver)
    assert 2 == len((await store.claim(2, 1 << 20)).deliveries)
    async with other.transaction():
        await other.script([SCHED])
        claimed = await store.claim(100, 1 << 20)
    assert (None, [], True) == (claimed.claim, claimed.deliveries, claimed.full)
    claimed = await store.claim(100, 1 << 20)
    assert (EVENTS - 2, False) == (len(claimed.deliveries), claimed.full)
    await store.close()
