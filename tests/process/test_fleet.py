"""Worker processes against a real Postgres and real sockets: killed, stopped, cut off."""

import random
import shutil
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import cycle

import anyio
import pytest
from fleet import ROOT, Receiver, Worker, pythons, until
from stalls import Stalls
from standardwebhooks.webhooks import Webhook
from svix.webhooks import Webhook as SvixWebhook

from worker.core.audit import worst_excess
from worker.store.database import Database, connect

pytestmark = pytest.mark.alone


async def add_endpoint(database: Database, url: str, settings: str = "{}") -> tuple[int, str]:
    row = (await database.rows("select * from webhook.create_endpoint($1, settings => $2::text::jsonb)", url, settings))[0]
    return row["id"], row["key"]


@pytest.fixture
async def administrator(server_dsn: str) -> AsyncIterator[Database]:
    connection = connect(server_dsn)
    yield connection
    await connection.close()


async def unfinished(database: Database) -> int:
    return int(await database.value("select (select count(*) from webhook.pending) + (select count(*) from webhook.inflight)"))


async def finished(database: Database) -> bool:
    return not await unfinished(database)


@pytest.mark.skipif(not shutil.which("psql"), reason="psql is not installed")
async def test_psql_is_a_producer(dsn: str, database: Database) -> None:
    """What psql rolls back never arrives; what it commits arrives once, byte for byte, verified by both public packages."""
    async with Receiver().listening() as receiver:
        _, key = await add_endpoint(database, receiver.url())
        enqueue = """SELECT webhook.enqueue('order.created', '{"n": 1,  "é": "✓"}');"""
        for end in ("ROLLBACK", "COMMIT"):
            await anyio.run_process(["psql", "-X", "-v", "ON_ERROR_STOP=1", dsn, "-c", f"BEGIN; {enqueue} {end};"])
        worker = Worker(dsn, "--once")
        assert (await worker.wait())[0] == 0

    (arrival,) = receiver.arrivals
    assert '{"n": 1,  "é": "✓"}'.encode() == arrival.body
    assert "application/json" == arrival.headers["content-type"]
    prefix = await database.value("select message_id_prefix from webhook.meta")
    event = await database.value("select id from webhook.events")
    assert f"msg_{prefix}_{event}" == arrival.headers["webhook-id"]
    for package in (Webhook, SvixWebhook):
        package(key).verify(arrival.body, arrival.headers)


async def test_a_terminal_that_is_closed(dsn: str, database: Database) -> None:
    """SIGHUP drains a worker that has no limits file to read again."""
    async with Receiver().listening() as receiver:
        await add_endpoint(database, receiver.url())
        await database.value("select webhook.enqueue('t', '{}')")
        with Worker(dsn) as worker:
            await until(lambda: receiver.arrivals)
            worker.process.send_signal(signal.SIGHUP)
            status, said = await worker.wait()
    assert (0, True) == (status, "draining: " in said)


@pytest.mark.sql
@pytest.mark.fault(41)
@pytest.mark.fault(42)
async def test_a_fleet_under_kills_loses_nothing(dsn: str, database: Database) -> None:
    """20,000 events, four workers on both runtimes, one killed every second: all arrive, and each duplicate has its kill."""
    events, endpoints = 20_000, 10
    interpreters = (pythons() * 4)[:4]
    async with Receiver().listening() as receiver:
        for n in range(endpoints):
            await add_endpoint(database, receiver.url(f"/{n}"), f'{{"event_types": ["t{n}"], "max_in_flight": 2000}}')
        with suppress(ZeroDivisionError):
            async with database.transaction():
                await enqueue(database, 0, 500, "never", endpoints)
                raise ZeroDivisionError
        for first in range(0, events, 1000):
            await enqueue(database, first, 1000, "n", endpoints)

        workers = [Worker(dsn, "--concurrency", "8", python=python) for python in interpreters]
        kills = 0
        chosen = random.Random(1)
        try:
            deadline = time.monotonic() + 240
            while await unfinished(database):
                assert time.monotonic() < deadline, f"{await unfinished(database)} deliveries are not finished"
                await anyio.sleep(1)
                if kills < 25 and len({arrival.body for arrival in receiver.arrivals}) < events:
                    victim = chosen.randrange(4)
                    workers[victim].kill()
                    workers[victim] = Worker(dsn, "--concurrency", "8", python=interpreters[victim])
                    kills += 1
            for worker in workers:
                worker.terminate()
            for worker in workers:
                assert (await worker.wait())[0] == 0
        finally:
            for worker in workers:
                worker.__exit__()

    bodies = Counter(arrival.body.decode() for arrival in receiver.arrivals)
    assert {f'{{"n": {n}}}' for n in range(events)} == set(bodies)
    assert kills >= 3
    assert {"delivered": events} == {
        row["state"]: row["n"]
        for row in await database.rows("select state, count(*)::int as n from webhook.deliveries group by 1")
    }
    # A delivery that arrived n times was lost by its worker at least n - 1 times.
    lost = {
        row["payload"]: row["n"]
        for row in await database.rows(
            "select e.payload, count(*)::int as n from webhook.attempts as a join webhook.events as e on e.id = a.event_id "
            "where a.outcome in ('lease_expired', 'interrupted') group by e.payload"
        )
    }
    unexplained = {body: count for body, count in bodies.items() if count > 1 + lost.get(body, 0)}
    assert {} == unexplained
    ids = defaultdict(set)
    for arrival in receiver.arrivals:
        ids[arrival.body].add(arrival.headers["webhook-id"])
    assert {1} == {len(seen) for seen in ids.values()}


WAITS_FOR_LOCK = """
select pid from pg_locks join pg_database as d on d.oid = database
where not granted and datname = current_database() and relation = 'webhook.inflight'::regclass"""
NOBODY_CLAIMS = """
select not exists (select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
                   and query ~ 'webhook.claim' and state = 'active')"""


@pytest.mark.parametrize("batch", ["committed", "rolled back"])
async def test_a_kill_in_the_middle_of_a_wide_fan_out(dsn: str, database: Database, batch: str) -> None:
    """A worker is killed before it commits a batch of a fan-out, which its connection then does, or not: each gets it once."""
    await database.value("update webhook.meta set fan_out_max = 3 returning 1")
    for n in range(12):
        await add_endpoint(database, f"http://127.0.0.1:9/{n}")
    await database.value("select webhook.enqueue('t', '{}')")
    assert await database.value("select webhook.fan_out_step(5)")
    async with database.transaction():
        await database.script(["lock table webhook.inflight in share mode"])
        with Worker(dsn) as worker:
            await until(lambda: database.value(WAITS_FOR_LOCK))  # the batch is written, and what is due is about to be claimed
            worker.kill()
        if batch == "rolled back":
            await database.value(f"select pg_terminate_backend(pid) from ({WAITS_FOR_LOCK}) as w")
            await until(lambda: database.value(f"select not exists ({WAITS_FOR_LOCK})"))
    await until(lambda: database.value(NOBODY_CLAIMS))
    made = 12 if batch == "committed" else 5  # its answer is small enough to be committed before it meets nobody
    assert made == await database.value("select count(*) from webhook.deliveries")
    with Worker(dsn, "--once") as worker:
        assert (await worker.wait())[0] == 0
    for what in ("id", "endpoint_id"):
        assert 12 == await database.value(f"select count(distinct {what}) from webhook.deliveries")


MANY = """
select count(*) from webhook.enqueue_many(
    (select array_agg('t' || n % $4::int order by n) from generate_series($1::int, $1::int + $2::int - 1) as n),
    (select array_agg(format('{"%s": %s}', $3::text, n) order by n) from generate_series($1::int, $1::int + $2::int - 1) as n)
)"""


async def enqueue(database: Database, first: int, count: int, name: str = "n", endpoints: int = 1) -> None:
    await database.value(MANY, first, count, name, endpoints)


@pytest.mark.sql
@pytest.mark.fault(62)
async def test_a_limit_holds_over_four_workers(dsn: str, database: Database, stalls: Stalls) -> None:
    """At 5/s with burst 1 and four workers, no window of the receiver's log has more than 5 · (T + 0.1 s) + 1."""
    async with Receiver().listening() as receiver:
        id_, _ = await add_endpoint(database, receiver.url())
        await database.value('select webhook.set_endpoint($1, \'{"rate": 5, "burst": 1}\')', id_)
        await enqueue(database, 0, 60)
        workers = [Worker(dsn, "--once", python=python) for python in (pythons() * 4)[:4]]
        try:
            for worker in workers:
                assert (await worker.wait(60))[0] == 0
        finally:
            for worker in workers:
                worker.__exit__()
    times = sorted(arrival.at for arrival in receiver.arrivals)
    assert 60 == len(times)
    assert worst_excess(times, 5, 1) <= 5 * stalls.measured()
    assert times[-1] - times[0] < 59 / 5 * 1.15  # and the limit is used


@pytest.mark.sql
@pytest.mark.fault(62)
async def test_a_limit_holds_in_a_storm_of_restarts(dsn: str, database: Database, stalls: Stalls) -> None:
    """Four workers, killed or stopped and started again all the time, at 5/s with burst 2: a restart refills nothing."""
    rate, burst, restarts = 5, 2, 16
    async with Receiver().listening() as receiver:
        await add_endpoint(database, receiver.url(), f'{{"rate": {rate}, "burst": {burst}}}')
        await enqueue(database, 0, 500)
        interpreters = cycle(pythons())
        workers = [Worker(dsn, python=next(interpreters)) for _ in range(4)]
        stopping: list[Worker] = []
        try:
            await until(lambda: receiver.arrivals)
            for n in range(restarts):
                came = len(receiver.arrivals)
                victim = workers.pop(0)
                if n % 2:
                    victim.kill()
                else:
                    victim.terminate()
                    stopping.append(victim)
                workers.append(Worker(dsn, python=next(interpreters)))
                await until(lambda came=came: len(receiver.arrivals) >= came + 2)  # type: ignore[misc]
            for worker in stopping:
                assert (await worker.wait())[0] == 0
        finally:
            for worker in workers + stopping:
                worker.__exit__()
    times = sorted(arrival.at for arrival in receiver.arrivals)
    assert len(times) >= 2 * restarts
    assert worst_excess(times, rate, burst) <= rate * stalls.measured()
    assert 1 < await database.value("select count(distinct worker) from webhook.attempts where outcome = 'ok'")


@pytest.mark.fault(54)
async def test_sigterm_drains(dsn: str, database: Database) -> None:
    """On SIGTERM a worker finishes what is on the wire, gives back the rest at once with no attempt counted, and exits 0."""
    async with Receiver(pause=0.5).listening() as receiver:
        await add_endpoint(database, receiver.url())
        await enqueue(database, 0, 60)
        with Worker(dsn, "--concurrency", "4") as worker:
            await until(lambda: receiver.arrivals)
            worker.terminate()
            status, said = await worker.wait()
    assert status == 0, said
    states = {
        row["state"]: row["n"]
        for row in await database.rows("select state, count(*)::int as n from webhook.deliveries group by 1")
    }
    assert {"delivered": len(receiver.arrivals), "pending": 60 - len(receiver.arrivals)} == states
    assert 0 == await database.value("select max(attempts) from webhook.deliveries where state = 'pending'")
    assert 0 == await database.value("select sum(in_flight)::int from webhook.endpoints")


@pytest.mark.fault(54)
async def test_a_second_sigterm_leaves_at_once(dsn: str, database: Database) -> None:
    """A second SIGTERM does not wait for the receiver."""
    async with Receiver(pause=20).listening() as receiver:
        await add_endpoint(database, receiver.url(), '{"timeout_seconds": 60}')
        await database.value("select webhook.enqueue('t', '{}')")
        with Worker(dsn) as worker:
            await until(lambda: receiver.arrivals)
            worker.terminate()
            await anyio.sleep(0.3)
            before = time.monotonic()
            worker.terminate()
            status, said = await worker.wait()
    assert time.monotonic() - before < 5
    assert status == 1, said


async def test_drain_timeout_cuts_short(dsn: str, database: Database) -> None:
    """When the drain time is over, what is on the wire is recorded as interrupted and due at once: no lease to wait for."""
    async with Receiver(pause=20).listening() as receiver:
        await add_endpoint(database, receiver.url(), '{"timeout_seconds": 60}')
        await database.value("select webhook.enqueue('t', '{}')")
        with Worker(dsn, "--drain-timeout", "0.5") as worker:
            await until(lambda: receiver.arrivals)
            worker.terminate()
            status, said = await worker.wait(15)
    assert status == 0, said
    assert "interrupted" == await database.value("select outcome from webhook.attempts")
    assert "pending" == await database.value("select state from webhook.deliveries")


@pytest.mark.fault(45)
async def test_losing_the_database_loses_nothing(dsn: str, database: Database, administrator: Database) -> None:
    """Every connection killed again and again, and the database refusing new ones: outcomes are kept, nothing is sent twice."""
    name = await database.value("select current_database()")
    async with Receiver(pause=0.02).listening() as receiver:
        await add_endpoint(database, receiver.url(), '{"max_in_flight": 2000}')
        await enqueue(database, 0, 3000)
        with Worker(dsn, "--concurrency", "16") as worker:
            await until(lambda: len(receiver.arrivals) > 100)
            for _ in range(3):
                await administrator.value(f'alter database "{name}" allow_connections false')
                await database.rows(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = current_database() and pid <> pg_backend_pid()"
                )
                await anyio.sleep(1.5)
                await administrator.value(f'alter database "{name}" allow_connections true')
                await anyio.sleep(0.5)
            await until(lambda: finished(database), 90)
            worker.terminate()
            status, said = await worker.wait()
    assert status == 0, said
    assert 3000 == await database.value("select count(*) from webhook.deliveries where state = 'delivered'")
    # A claim whose answer was lost with its connection expires unsent; what was sent is recorded late, not sent again.
    again = await database.value("select count(*) from webhook.attempts where outcome = 'ok'")
    assert (3000, 3000) == (again, len(receiver.arrivals))


@pytest.mark.fault(45)
async def test_an_outage_longer_than_the_lease(dsn: str, database: Database, administrator: Database) -> None:
    """What was sent before the outage is recorded after it, before anybody takes expired leases back: no second send."""
    name = await database.value("select current_database()")
    async with Receiver(pause=3).listening() as receiver:
        await add_endpoint(database, receiver.url())
        await enqueue(database, 0, 10)
        with Worker(dsn) as worker:
            await until(lambda: len(receiver.arrivals) == 10)
            await database.value("update webhook.claim_batch set lease_until = clock_timestamp() + interval '1 s' returning 1")
            await administrator.value(f'alter database "{name}" allow_connections false')
            await database.rows(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
            await anyio.sleep(5)
            await administrator.value(f'alter database "{name}" allow_connections true')
            await until(lambda: finished(database))
            worker.terminate()
            status, said = await worker.wait()
    assert status == 0, said
    assert {"ok"} == {row["outcome"] for row in await database.rows("select outcome from webhook.attempts")}
    assert 10 == len(receiver.arrivals)


@pytest.mark.fault(52)
async def test_a_worker_too_old_for_the_schema_exits_78(dsn: str, database: Database) -> None:
    """The database names the oldest release that may run on it."""
    await database.value("update webhook.meta set oldest_worker = '99.0.0'")
    with Worker(dsn) as worker:
        status, said = await worker.wait()
    assert (78, True) == (status, "99.0.0" in said)


async def test_no_database_exits_4() -> None:
    """A database that cannot be reached has an exit status of its own, and one clear line."""
    with Worker("postgresql://nobody@127.0.0.1:1/none") as worker:
        status, said = await worker.wait()
    assert (4, 1) == (status, len(said.strip().splitlines())), said


TOLD_TO_STOP_IN_A_FINALIZER = """
import gc, os, signal, sys
from worker.cli import run

class Garbage:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100_000):
            pass

def parser():
    Garbage()
    gc.collect()
    gc.collect()
    sys.exit(9)

run._parser = parser
run.main([])
"""


@pytest.mark.parametrize("python", pythons())
def test_sigterm_while_it_starts(python: str) -> None:
    """It is heeded wherever it comes, in a finalizer too, where an exception is swallowed and the worker stays for ever."""
    done = subprocess.run([python, "-c", TOLD_TO_STOP_IN_A_FINALIZER], cwd=ROOT, check=False, capture_output=True)

    assert (0, b"") == (done.returncode, done.stderr)


def test_run_help_is_light() -> None:
    """`run` imports neither typer nor rich: a worker starts at once."""
    code = """
import sys
from worker.__main__ import main
sys.argv = ["webhook-worker", "run", "--help"]
try:
    main()
finally:
    print(sorted({"typer", "rich", "click"} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([pythons()[0], "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stderr.strip()
