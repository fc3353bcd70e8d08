"""There are no notifications: nobody listens, nobody notifies, and workers find their work by asking for it."""

import json
from collections.abc import Iterator

import anyio
import pytest
from fleet import Receiver, Worker, pythons, until
from servers import PostgresServer, needs_postgres, postgres_server
from wire import Wire

from worker.store.database import Database, DatabaseError, connect
from worker.store.sql import statements

CANARY = "forged-7e1c"
FLOOD = """select count(pg_notify(channel, $1::text || n))
    from unnest(array['webhook', 'webhook_wake', 'wake']) as channel, generate_series(1, 2000) as n"""
EVENTS = 20


@pytest.mark.sql
@pytest.mark.fault(47)
@pytest.mark.parametrize("python", pythons(), ids=lambda path: "pypy" if "pypy" in path else "cpython")
async def test_a_worker_finds_its_work_in_a_flood_of_notifications(dsn: str, database: Database, python: str) -> None:
    """While others notify whatever a worker might listen to, it gets none of it, never says LISTEN, and delivers at once."""
    flooding = connect(dsn)
    async with Receiver().listening() as receiver, Wire(dsn).listening() as wire:
        await database.value("select id from webhook.create_endpoint($1::text)", receiver.url())

        async def flood() -> None:
            while True:
                await flooding.value(FLOOD, CANARY)

        with Worker(wire.dsn, python=python) as worker:
            await until(lambda: b"webhook.claim" in wire.sent)
            async with anyio.create_task_group() as others:
                others.start_soon(flood)
                for n in range(1, EVENTS + 1):
                    await database.value("select webhook.enqueue('t', '{}')")
                    await until(lambda n=n: len(receiver.arrivals) == n, 5, every=0.005)  # type: ignore[misc]
                others.cancel_scope.cancel()
            worker.terminate()
            assert 0 == (await worker.wait())[0]
        assert (False, False) == (b"listen" in wire.sent.lower(), CANARY.encode() in wire.answered)

        listener = connect(wire.dsn)  # one that listens would have been seen
        await listener.script(["listen webhook"])
        await flooding.value(FLOOD, CANARY)
        await until(lambda: CANARY.encode() in wire.answered)
        await listener.close()
    await flooding.close()


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with postgres_server(max_prepared_transactions="1") as server:
        yield server


@pytest.mark.sql
@pytest.mark.fault(47)
@needs_postgres
async def test_nothing_notifies(server: PostgresServer) -> None:
    """Neither an enqueue nor what workers call: Postgres itself refuses to prepare a transaction in which somebody notified."""
    database = connect(server.dsn)
    sql = statements()
    await database.value("select id from webhook.create_endpoint('http://127.0.0.1:9/')")

    async def prepared(statement: str, *args: object) -> object:
        await database.script(["begin"])
        try:
            found = await database.value(statement, *args)
            await database.script(["prepare transaction 'it'"])
        except BaseException:
            await database.script(["rollback"])
            raise
        await database.script(["commit prepared 'it'"])
        return found

    with pytest.raises(DatabaseError, match="cannot PREPARE a transaction that has executed LISTEN, UNLISTEN, or NOTIFY"):
        await prepared("select pg_notify('webhook', 'x')")
    await prepared("select webhook.enqueue('t', '{}')")
    await prepared("select count(*) from webhook.enqueue_many(array['t'], array['{}'])")
    document = json.loads(str(await prepared(sql["claim"], "w", 100, 1 << 20, "", "[]", 0.0)))
    outcomes = [
        [document["claim"], row[0], "dead", "ok", 200, 1, 1, None, None, 0, None, None] for row in document["deliveries"]
    ]
    await prepared(sql["extend"], str(document["claim"]))
    assert 2 == await prepared(sql["record"], "w", json.dumps(outcomes))
    await prepared(sql["reap"])
    await database.close()
