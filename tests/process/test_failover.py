"""A primary that goes away, and a standby that is promoted: workers wait for a server that they can write to."""

import re
import signal
from collections.abc import Iterator

import pytest
from fleet import Receiver, Worker, pythons, until
from servers import PostgresServer, needs_postgres, owned_directory, postgres_server

from worker.store.database import Database, connect

pytestmark = [pytest.mark.alone, needs_postgres]

both = pytest.mark.parametrize("python", pythons(), ids=lambda path: "pypy" if "pypy" in path else "cpython")


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def standby(primary: PostgresServer) -> Iterator[PostgresServer]:
    """A streaming replica, without which nothing is committed."""
    with owned_directory() as directory:
        server = PostgresServer(directory)
        server.run("pg_basebackup", "-h", primary.directory, "-U", "postgres", "-D", server.data, "-R", "-c", "fast", "-N")
        try:
            server.start()
            yield server
        finally:
            server.stop(signal.SIGQUIT)


COUNT_FAILED = "select xact_rollback::int from pg_stat_database where datname = current_database()"
IS_STREAMED = "select exists (select from pg_stat_replication where sync_state = 'sync')"
UNFINISHED = "select (select count(*) from webhook.pending) + (select count(*) from webhook.inflight)"
END_LEASES = "update webhook.claim_batch set lease_until = clock_timestamp() where worker not like $1::text returning 1"
MANY = (
    "select count(*) from webhook.enqueue_many(array_fill('t'::text, array[$1::int]), array_fill('{}'::text, array[$1::int]))"
)
EVENTS = 500


@pytest.mark.sql
@pytest.mark.fault(48)
@both
async def test_failover(primary: PostgresServer, standby: PostgresServer, python: str) -> None:
    """A worker on a standby waits; one that knows both servers follows the primary. After the promotion, nothing is missing."""
    on_primary, on_standby = connect(primary.dsn), connect(standby.dsn)
    hosts = f"postgresql://postgres@/webhook?host={primary.directory},{standby.directory}&target_session_attrs=read-write"
    async with Receiver(pause=0.02).listening() as receiver:
        await on_primary.script(["alter system set synchronous_standby_names = '*'", "select pg_reload_conf()"])
        await until(lambda: on_primary.value(IS_STREAMED))
        await on_primary.value("select id from webhook.create_endpoint($1::text)", receiver.url())
        await on_primary.value(MANY, EVENTS)
        before = await on_standby.value(COUNT_FAILED)
        with Worker(standby.dsn, python=python) as waiting:
            await until(lambda: failed_more_than(on_standby, before + 5))
            assert [] == receiver.arrivals
            with Worker(hosts, "--concurrency", "8", python=python) as follower:
                await until(lambda: len(receiver.arrivals) > EVENTS / 5)
                primary.stop(signal.SIGQUIT)
                await on_primary.close()
                seen = len(receiver.arrivals)
                standby.run("pg_ctl", "promote", "-D", standby.data)
                await until(lambda: len(receiver.arrivals) > seen + EVENTS / 5)
                follower.terminate()
                assert 0 == (await follower.wait())[0]
            # Claims of which the primary could not tell any more, when it died: their leases end now, not in half a minute.
            own = f"%:{waiting.process.pid}:%"
            await on_standby.value(END_LEASES, own)
            await until(lambda: nothing_left(on_standby), 60)
            waiting.terminate()
            status, said = await waiting.wait()
    assert 0 == status
    assert re.search("the store fails, deliveries wait: .* in a read-only transaction", said), said
    assert await on_standby.value("select count(*) from webhook.attempts where worker like $1::text", own)
    assert EVENTS == await on_standby.value("select count(*) from webhook.deliveries where state = 'delivered'")
    assert EVENTS == len(receiver.arrivals) == len({arrival.headers["webhook-id"] for arrival in receiver.arrivals})
    await on_standby.close()


async def failed_more_than(database: Database, count: int) -> bool:
    return bool(await database.value(COUNT_FAILED) > count)


async def nothing_left(database: Database) -> bool:
    return not await database.value(UNFINISHED)
