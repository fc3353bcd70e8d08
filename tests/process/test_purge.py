"""Erasure: nothing of a payload or an answer is left, and what is somebody else's goes on."""

import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from fleet import ROOT, Receiver, Worker, until

from worker.cli import events
from worker.cli.app import main
from worker.store.database import Database

pytestmark = pytest.mark.sql

LEFT = """
    select (select count(*) from webhook.event where tenant = $1) + (select count(*) from webhook.event_kept where tenant = $1)
         + (select count(*) from webhook.pending as p join webhook.endpoint as e on e.id = p.endpoint_id where e.tenant = $1)
         + (select count(*) from webhook.inflight as i join webhook.endpoint as e on e.id = i.endpoint_id where e.tenant = $1)
         + (select count(*) from webhook.attempt as a join webhook.endpoint as e on e.id = a.endpoint_id
            where e.tenant = $1 and (a.response is not null or a.error is not null))
         + (select count(*) from webhook.finished as f join webhook.endpoint as e on e.id = f.endpoint_id
            where e.tenant = $1 and f.last_error like '%:%')
         + (select count(*) from webhook.idempotency_key where tenant = $1)
         + (select count(*) from webhook.fan_out where tenant = $1)
"""
RECORD = """
    select webhook.record('test', (
        select json_agg(json_build_array(
            claim_id, id, 'delivered', 'ok', 200, 0.1, 0.1, 'their answer', null, 0, null, null))::text
        from webhook.inflight))
"""


@pytest.fixture
def purge(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that purges, in a process of its own, and returns what it printed."""

    async def run(*options: object) -> Any:
        done = await anyio.run_process(
            [sys.executable, "-m", "worker", "events", "purge", "--yes", "--format", "json", *map(str, options)],
            cwd=ROOT, env={**os.environ, "DATABASE_URL": dsn}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return run


async def endpoint(database: Database, tenant: str, url: str = "https://example.com/") -> int:
    return int(await database.value("select id from webhook.create_endpoint($1::text, $2::text)", url, tenant))


async def enqueue(database: Database, tenant: str, count: int) -> list[int]:
    rows = await database.rows(
        "select webhook.enqueue('t', 'canary', $1::text, $1::text || n) as id from generate_series(1, $2::int) as n",
        tenant,
        count,
    )
    return [row["id"] for row in rows]


async def test_one_event_is_purged(database: Database, purge: Callable[..., Any]) -> None:
    """Its payload, its deliveries, what was answered: delivered, in flight or waiting. The one beside it is as it was."""
    done, sibling = await endpoint(database, "a"), await endpoint(database, "a")
    gone, stays = await enqueue(database, "a", 2)
    await database.value("select webhook.drain_wake(100)")
    await database.value("select webhook.pause_endpoint($1)", sibling)
    await database.value("select webhook.claim('test', 100, 1000000)")
    await database.value(RECORD)
    await database.value("select webhook.resume_endpoint($1)", sibling)
    await database.value("select webhook.claim('test', 1, 1000000)")
    result = await purge("--id", gone, "--reason", "ticket 9")
    states = await database.rows("select event_id, endpoint_id, state from webhook.deliveries order by 1, 2")
    answers = await database.rows("select event_id, response from webhook.attempt where outcome = 'ok' order by 1")
    (entry,) = await database.rows(
        "select reason, details ->> 'event_id' as event_id from webhook.audit where action = 'events.purge'"
    )

    assert {"tenant": "a", "up_to": gone, "cancelled": 1, "answers": 2, "removed": 1} == result
    assert [stays] == [row["id"] for row in await database.rows("select id from webhook.events")]
    assert [
        (gone, done, "delivered"), (gone, sibling, "cancelled"), (stays, done, "delivered"), (stays, sibling, "pending")
    ] == [(row["event_id"], row["endpoint_id"], row["state"]) for row in states]  # fmt: skip
    assert [(gone, None), (stays, "their answer")] == [(row["event_id"], row["response"]) for row in answers]
    assert ("ticket 9", str(gone)) == (entry["reason"], entry["event_id"])
    assert 0 == await database.value("select sum(in_flight) from webhook.endpoint_sched")


async def test_a_tenant_is_purged_while_a_worker_delivers(dsn: str, database: Database, purge: Callable[..., Any]) -> None:
    """What its receivers had in hand leaves no answer behind, and another tenant's events all arrive."""
    async with Receiver(pause=0.3).listening() as receiver:
        for tenant in ("a", "b"):
            await endpoint(database, tenant, receiver.url(f"/{tenant}"))
            await enqueue(database, tenant, 400)
        with Worker(dsn, "--concurrency", "16") as worker:
            await until(lambda: len(receiver.arrivals) > 30)
            result = await purge("--tenant", "a")
            assert 0 < result["cancelled"] < 400
            await until(lambda: sum(arrival.path == "/b" for arrival in receiver.arrivals) >= 400, 60)
            worker.terminate()
            assert (await worker.wait())[0] == 0

    assert 0 == await database.value(LEFT, "a")
    assert 400 == await database.value("select count(*) from webhook.deliveries where tenant = 'b' and state = 'delivered'")
    assert 0 == await database.value("select sum(in_flight) from webhook.endpoint_sched")
    assert 0 == (await purge("--tenant", "a"))["removed"]


async def test_many_steps(database: Database, purge: Callable[..., Any]) -> None:
    """More rows than one step takes."""
    await endpoint(database, "a")
    many = 2 * events.ROWS + 5
    await database.value(
        "select webhook.enqueue_many(array_fill('t'::text, array[$1::int]), array_fill('x'::text, array[$1::int]), 'a')", many
    )
    result = await purge("--tenant", "a")

    assert (many, many) == (result["cancelled"], result["removed"])
    assert 0 == await database.value(LEFT, "a")


def test_it_asks_first(dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an answer nothing happens; who is not there is code 3; both or neither of the options is code 2."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    codes = [main(["events", "purge", *options.split()]) for options in ("--tenant a", "--yes --id 1", "--yes")]

    assert [1, 3, 2] == codes
    assert "there is no event 1" in capsys.readouterr().err
