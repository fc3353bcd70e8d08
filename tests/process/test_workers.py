"""Worker processes in the list, and how an operator ends one."""

import json
from collections.abc import Awaitable
from functools import partial

import anyio
import pytest
from fleet import Receiver, Worker, pythons, until

from worker.cli.app import main
from worker.store.database import Database
from worker.store.sql import statements

ENQUEUE = "select count(*) from webhook.enqueue_many(array_fill('e'::text, array[20]), array_fill('{}'::text, array[20]))"


async def listed(database: Database) -> dict[str, str]:
    """Return the workers' states by name."""
    return {row["name"]: row["state"] for row in await database.rows(statements()["workers"], None)}


async def command(dsn: str, *argv: str) -> int:
    return await anyio.to_thread.run_sync(partial(main, [*argv, "--database-url", dsn]))


@pytest.mark.sql
async def test_workers_are_listed_and_drained(dsn: str, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Both runtimes report; one is drained by name, the other with all; each exits 0, and the audit says who wanted it."""
    receiver = Receiver()
    pythons_ = pythons()
    async with receiver.listening():
        await database.value("select id from webhook.create_endpoint($1::text)", receiver.url())
        with Worker(dsn, python=pythons_[0]) as one, Worker(dsn, python=pythons_[-1]) as two:
            await until(lambda: has_listed(database, 2))
            await database.value(ENQUEUE)
            await until(lambda: has_delivered(database, 20))
            assert 0 == await command(dsn, "workers", "list", "--format", "json")
            workers = {row["pid"]: row for row in json.loads(capsys.readouterr().out)}
            assert {one.process.pid, two.process.pid} == set(workers)
            assert {"running"} == {row["state"] for row in workers.values()}
            assert {64} == {row["lanes"] for row in workers.values()}

            first = workers[one.process.pid]["name"]
            assert 0 == await command(dsn, "workers", "drain", first, "--dry-run")
            assert first in capsys.readouterr().out
            assert {"running"} == set((await listed(database)).values())

            assert 0 == await command(dsn, "workers", "drain", first, "--reason", "new kernel")
            status, said = await one.wait()
            assert 0 == status
            assert "an operator asks this worker to drain" in said
            assert first not in await listed(database)

            assert 0 == await command(dsn, "workers", "drain", "--all")
            status, _ = await two.wait()
            assert 0 == status
    assert {} == await listed(database)
    audited = await database.rows(
        "select reason, details ->> 'worker' as worker from webhook.audit where action = 'worker.drain' order by id"
    )
    assert [("new kernel", first), ("", workers[two.process.pid]["name"])] == [
        (row["reason"], row["worker"]) for row in audited
    ]
    assert 3 == await command(dsn, "workers", "drain", first)


@pytest.mark.sql
async def test_a_signal_while_an_operator_has_it_drain(dsn: str, database: Database) -> None:
    """It is the first one: what is on the wire still gets its time, and is recorded."""
    receiver = Receiver(pause=5.0)  # it hears of the drain within three
    async with receiver.listening():
        await database.value("select id from webhook.create_endpoint($1::text)", receiver.url())
        await database.value("select webhook.enqueue('e', '{}')")
        with Worker(dsn) as worker:
            await until(lambda: receiver.arrivals)
            assert 0 == await command(dsn, "workers", "drain", "--all")
            await anyio.to_thread.run_sync(read_until, worker, "an operator asks this worker to drain")
            worker.terminate()
            status, said = await worker.wait()
    assert (0, 1) == (status, len(receiver.arrivals))
    assert "stopped: 1 delivered" in said
    assert 1 == await database.value("select count(*) from webhook.finished where state = 'delivered'")


def read_until(worker: Worker, words: str) -> None:
    """Read what it says until that; if it never says so, until its end."""
    assert worker.process.stderr
    assert any(words in line for line in worker.process.stderr)


def has_listed(database: Database, count: int) -> Awaitable[bool]:
    async def look() -> bool:
        return count == len(await listed(database))

    return look()


def has_delivered(database: Database, count: int) -> Awaitable[bool]:
    async def look() -> bool:
        return bool(await database.value("select sum(delivered) = $1::int from webhook.worker", count))

    return look()


@pytest.mark.sql
async def test_a_worker_that_may_not_report_delivers(dsn: str, database: Database) -> None:
    """Without the function, as where roles.sql was not applied again: it says so once, and does its work."""
    await database.script(["drop function webhook.report_worker(text, jsonb)", "drop function webhook.forget_worker(text)"])
    async with Receiver().listening() as receiver:
        await database.value("select id from webhook.create_endpoint($1::text)", receiver.url())
        await database.value(ENQUEUE)
        with Worker(dsn) as worker:
            await until(lambda: len(receiver.arrivals) == 20)
            worker.terminate()
            status, said = await worker.wait()
    assert 0 == status
    assert 1 == said.count("`workers list` does not know this worker")


@pytest.mark.sql
async def test_a_report_is_heap_only_and_the_dead_are_forgotten(database: Database) -> None:
    """A thousand reports leave no entry in the index; who has been silent for long is deleted by housekeeping."""
    report = {
        "host": "h",
        "pid": 1,
        "runtime": "r",
        "version": "0",
        "lanes": 64,
        "attempted": 0,
        "delivered": 0,
        "in_hand": 0,
        "draining": False,
    }
    for n in range(200):
        assert await database.value(statements()["report_worker"], "w", json.dumps({**report, "attempted": n})) is False
    await database.value("select pg_stat_force_next_flush()")
    counts = await database.rows(
        "select n_tup_upd as updated, n_tup_hot_upd as hot from pg_stat_user_tables where relname = 'worker'"
    )
    assert [{"updated": 199, "hot": 199}] == counts

    await database.script(["update webhook.worker set seen_at = seen_at - interval '2 hours'"])
    assert {"w": "silent"} == await listed(database)
    await until(lambda: housekept(database))


async def housekept(database: Database) -> bool:
    await database.value("select webhook.maintain()")
    return {} == await listed(database)
