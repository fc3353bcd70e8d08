"""Workers of both runtimes, and every command, through a real PgBouncer in transaction mode."""

import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import pytest
from conftest import run_aside
from fleet import Receiver, Worker, pythons, until
from servers import PostgresServer, needs_pgbouncer, needs_postgres, pgbouncer, postgres_server

from worker.cli.app import main
from worker.store.database import Database, DatabaseError, connect
from worker.store.migrate import migrate_up
from worker.store.psycopg_database import PsycopgDatabase

DRIVERS: list[Callable[..., Database]] = [PsycopgDatabase]
if sys.implementation.name == "cpython":
    from worker.store.asyncpg_database import AsyncpgDatabase

    DRIVERS.append(AsyncpgDatabase)

pytestmark = [needs_postgres, needs_pgbouncer]

POOL = 2
EVENTS, LATER = 2000, 10
SETTINGS = {"default_pool_size": POOL, "server_round_robin": 1}
"""Two connections for everybody, and whoever comes back gets the other one, wherever possible."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def bouncer(server: PostgresServer) -> Iterator[str]:
    with pgbouncer(server, SETTINGS) as dsn:
        yield dsn


@pytest.fixture
def pooled(bouncer: str) -> str:
    return f"{bouncer}?pgbouncer=true"


async def forget_everything(dsn: str) -> None:
    connection = connect(dsn)
    await connection.script(["drop schema webhook cascade"])
    await connection.close()


@pytest.fixture
async def database(server: PostgresServer) -> AsyncIterator[Database]:
    """A connection past PgBouncer, to the database as it was at first."""
    await forget_everything(server.dsn)
    connection = connect(server.dsn)
    await migrate_up(connection)
    yield connection
    await connection.close()


DELIVERED = "select count(*) from webhook.deliveries where state = 'delivered'"
UNFINISHED = "select (select count(*) from webhook.pending) + (select count(*) from webhook.inflight)"
TOOK_PART = "select count(distinct worker) from webhook.attempts"
SERVER_CONNECTIONS = "select count(*) from pg_stat_activity where datname = 'webhook' and pid <> pg_backend_pid()"
ENQUEUE = (
    "select count(*) from webhook.enqueue_many(array_fill('t'::text, array[$1::int]), array_fill('{}'::text, array[$1::int]))"
)


@pytest.mark.sql
@pytest.mark.fault(49)
async def test_a_fleet_through_two_connections(database: Database, pooled: str) -> None:
    """Four workers deliver everything once over two connections; when all of them are idle, none keeps the others waiting."""
    async with Receiver().listening() as receiver:
        create = "select id from webhook.create_endpoint($1::text, settings => $2::text::jsonb)"
        await database.value(create, receiver.url(), '{"max_in_flight": 1000}')
        workers = [Worker(pooled, "--concurrency", "8", python=python) for python in (pythons() * 4)[:4]]
        connections, delays = [0], []
        try:

            async def finished() -> bool:
                connections.append(await database.value(SERVER_CONNECTIONS))
                return not await database.value(UNFINISHED)

            while await database.value(TOOK_PART) < len(workers):
                await database.value(ENQUEUE, EVENTS)
                await until(finished, 60)
            for _ in range(LATER):
                began = time.monotonic()
                await database.value("select webhook.enqueue('t', '{}')")
                await until(finished, every=0.005)
                delays.append(time.monotonic() - began)
            for worker in workers:
                worker.terminate()
            ends = [await worker.wait() for worker in workers]
        finally:
            for worker in workers:
                worker.__exit__()
    assert [0] * 4 == [status for status, _ in ends], ends
    assert [] == [line for _, said in ends for line in said.splitlines() if " INFO " not in line]
    assert await database.value(DELIVERED) == len(receiver.arrivals)
    assert len(receiver.arrivals) == len({arrival.headers["webhook-id"] for arrival in receiver.arrivals})
    assert max(connections) <= POOL
    assert sorted(delays)[LATER // 2] < 0.9, delays  # one that sleeps in a connection sleeps for a second


COMMANDS = """
migrate up
migrate up
migrate status
endpoints add https://127.0.0.1/hook --allow-network 127.0.0.0/8 --event-type order.*
endpoints set 1 --rate 5 --reason slower
endpoints pause 1 --reason a
endpoints resume 1 --reason b
endpoints rotate-key 1 --reason c
endpoints show 1
endpoints list
endpoints keys 1
tenants set shop --backlog-max 10 --reason d
tenants list
enqueue order.created --payload {"n":1}
enqueue order.created --payload {"n":2} --idempotency-key k
deliveries list --state pending
deliveries show 1
deliveries retry 1 --reason e
attempts list
stats
events purge --id 1 --yes --reason f
audit list
check
"""
NOTHING_MATCHED = {"attempts list": 3}


@pytest.mark.fault(49)
def test_every_command(pooled: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Migrating, registering, steering, looking: each command does its work, with this runtime's driver."""
    run_aside(partial(forget_everything, pooled))
    monkeypatch.setenv("DATABASE_URL", pooled)
    for line in COMMANDS.strip().splitlines():
        code = main(line.split())
        assert NOTHING_MATCHED.get(line, 0) == code, (line, capfd.readouterr().err)


@pytest.mark.fault(49)
@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_pool_that_was_not_declared_is_named(bouncer: str, driver: Callable[..., Database]) -> None:
    """Without pgbouncer=true the statements of one call are missing for the next, and the error says what to write."""
    one, other = driver(bouncer), driver(bouncer)
    try:
        async with one.transaction():
            await other.script(["select 1"])  # through the second connection, which nobody would have opened without need
        with pytest.raises(DatabaseError, match="the database's URL must say pgbouncer=true"):
            await take_turns(one, one, other)
    finally:
        await one.close()
        await other.close()


async def take_turns(*connections: Database) -> None:
    for connection in connections * 10:
        await connection.value("select $1::int", 1)
