"""`attempts tail`: what is recorded comes out, once, while it happens."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import Running, running
from fleet import Receiver, Worker, until
from servers import needs_postgres, postgres_server

from worker.store.database import Database, connect

ENQUEUE = (
    "select count(*) from webhook.enqueue_many(array_fill('e'::text, array[$1::int]), array_fill('{}'::text, array[$1::int]))"
)


@contextmanager
def tailing(dsn: str, *options: str) -> Iterator[Running]:
    with running(["attempts", "tail", *options], DATABASE_URL=dsn) as tail:
        yield tail


async def test_every_attempt_comes_once_and_as_it_happens(dsn: str, database: Database) -> None:
    """Of two endpoints and many records: each attempt is there once; `--failed` leaves out what was delivered."""
    async with Receiver().listening() as receiver:
        await database.value("select id from webhook.create_endpoint($1::text)", receiver.url())
        bad = await database.value("select id from webhook.create_endpoint('http://127.0.0.1:9/')")
        with tailing(dsn, "--format", "jsonl") as tail, tailing(dsn, "--failed") as failed:
            await until(lambda: tail.said and failed.said)
            with Worker(dsn) as worker:
                for _ in range(10):
                    await database.value(ENQUEUE, 10)
                await until(lambda: len(receiver.arrivals) == 100)
                worker.terminate()
                await worker.wait()
            made = await database.rows("select delivery_id, attempt from webhook.attempt order by 1, 2")
            await until(lambda: len(tail.lines) >= len(made))
            await until(lambda: len(failed.lines) >= len(made) - 100)
    seen = [(attempt["delivery_id"], attempt["attempt"]) for attempt in map(json.loads, tail.lines)]
    assert [(row["delivery_id"], row["attempt"]) for row in made] == sorted(seen)
    assert len(made) - 100 == len(failed.lines) > 0
    assert all(f"endpoint {bad} " in line and "blocked_port" in line for line in failed.lines)


@pytest.mark.sql
@needs_postgres
async def test_it_outlives_an_outage(tmp_path: Path) -> None:
    """The server is restarted under it: it says so, twice, and goes on with what comes then."""
    with postgres_server() as server:
        database = connect(server.dsn)
        await database.value("select id from webhook.create_endpoint('https://receiver.test/')")
        with tailing(server.dsn) as tail:
            await until(lambda: tail.said)
            await database.close()
            server.stop()
            await until(lambda: any("out of reach" in line for line in tail.said))
            server.start()
            await until(lambda: any("is back" in line for line in tail.said))
            database = connect(server.dsn)
            await database.value("select webhook.enqueue('e', '{}'::text)")
            claimed = json.loads(await database.value("select webhook.claim('w', 10, 1000)"))
            outcome = [
                claimed["claim"],
                claimed["deliveries"][0][0],
                "retry",
                "timeout",
                None,
                1,
                1,
                None,
                "\x1b[31m",
                5,
                None,
                None,
            ]
            await database.value("select webhook.record('w', $1::text)", json.dumps([outcome]))
            await until(lambda: tail.lines)
            await database.close()
    assert 1 == len(tail.lines)
    assert "timeout" in tail.lines[0]
    assert "\x1b" not in tail.lines[0]
