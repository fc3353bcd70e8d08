"""`listen`: a database's events at a local URL, and nothing else anywhere."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from command import Running, running
from fleet import Receiver, Worker, free_port, until
from servers import needs_postgres, postgres_server
from standardwebhooks import Webhook

from worker.store.database import Database, connect
from worker.store.migrate import migrate_up

ENQUEUE = "select webhook.enqueue($1::text, $2::text)"
KEY = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
OTHERS = "pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextmanager
def listening(dsn: str, url: str, *options: str) -> Iterator[Running]:
    """In sessions in which Postgres refuses to write: so it touches nothing, whatever ends it."""
    read_only = f"{dsn}{'&' if '?' in dsn else '?'}options=-c%20default_transaction_read_only%3Don"
    command = ["listen", "--forward-to", url, "--format", "jsonl", *options]
    with running(command, DATABASE_URL=read_only) as listener:
        yield listener


async def test_what_arrives_is_what_a_worker_delivers(dsn: str, database: Database) -> None:
    """The same id, bytes, type and trace, beside the fleet's own delivery; signed with the session's key."""
    async with Receiver().listening() as receiver:
        await database.value("select id from webhook.create_endpoint($1::text)", receiver.url("/fleet"))
        await database.value(ENQUEUE, "order.before", "{}")
        with listening(dsn, receiver.url("/local")) as listener, Worker(dsn) as worker:
            await until(lambda: listener.heard("passing events"))
            await database.value(
                "select webhook.enqueue('order.created', $1::text, content_type => 'text/x', traceparent => $2::text)",
                '{"é":  1}\n', TRACE,
            )  # fmt: skip
            await until(lambda: listener.lines and len(receiver.arrivals) == 3)
            worker.terminate()
            await worker.wait()
        (local,) = (arrival for arrival in receiver.arrivals if arrival.path == "/local")
        fleet = next(arrival for arrival in receiver.arrivals if arrival.headers["webhook-id"] == local.headers["webhook-id"])
    key = next(word for line in listener.said for word in line.split() if word.startswith("whsec_")).rstrip(";")
    Webhook(key).verify(local.body, local.headers, json_parse=False)
    assert '{"é":  1}\n'.encode() == local.body == fleet.body
    for name in ("webhook-id", "content-type", "traceparent", "user-agent"):
        assert local.headers[name] == fleet.headers[name]
    record = json.loads(listener.lines[0])
    assert ("order.created", local.headers["webhook-id"], "ok", 204) == tuple(
        record[name] for name in ("event_type", "webhook_id", "outcome", "status")
    )


@pytest.mark.sql
async def test_only_what_was_asked_for(dsn: str, database: Database) -> None:
    """Types and the tenant as an endpoint has them: `*` does not mean the system's own events, their name does."""
    async with Receiver().listening() as receiver:
        url = receiver.url()
        with (
            listening(dsn, url) as every,
            listening(dsn, url, "--event-type", "order.*", "--event-type", "endpoint.disabled") as some,
            listening(dsn, url, "--tenant", "acme", "--key", KEY) as acme,
        ):
            await until(lambda: all(listener.heard("passing events") for listener in (every, some, acme)))
            endpoint = await database.value("select id from webhook.create_endpoint('https://receiver.test/')")
            await database.value(
                "select id from webhook.create_endpoint('https://other.test/', '', '{\"event_types\": [\"endpoint.*\"]}')"
            )
            for event_type in ("order.created", "order.paid.late", "orders.created"):
                await database.value(ENQUEUE, event_type, "{}")
            await database.value("select webhook.disable_endpoint($1::bigint)", endpoint)
            await database.value("select webhook.enqueue('order.last', '{}'::text, 'acme')")
            for listener in (every, some, acme):
                await until(lambda listener=listener: any("order.last" in line for line in listener.lines))  # type: ignore[misc]
        arrivals = receiver.arrivals
    types = [[json.loads(line)["event_type"] for line in listener.lines] for listener in (every, some, acme)]
    assert [
        ["order.created", "order.paid.late", "orders.created", "order.last"],
        ["order.created", "order.paid.late", "endpoint.disabled", "order.last"],
        ["order.last"],
    ] == types
    assert not acme.heard(KEY)
    assert 1 == sum(verifies(KEY, arrival.body, arrival.headers) for arrival in arrivals)


@pytest.mark.sql
async def test_what_is_committed_late_is_not_missed(dsn: str, database: Database) -> None:
    """A transaction that drew its id first and ends last, with savepoints; and never what was rolled back."""
    late, undone = connect(dsn), connect(dsn)
    async with Receiver().listening() as receiver:
        with listening(dsn, receiver.url()) as listener:
            await until(lambda: listener.heard("passing events"))
            async with late.transaction():
                await late.value(ENQUEUE, "late.first", "{}")
                await late.script(["savepoint one"])
                await late.value(ENQUEUE, "late.inner", "{}")
                await late.script(["release savepoint one"])
                await undone.script(["begin"])
                await undone.value(ENQUEUE, "undone", "{}")
                await undone.script(["rollback"])
                await database.value(ENQUEUE, "early", "{}")
                await until(lambda: len(listener.lines) == 1)
            await until(lambda: len(listener.lines) == 3)
            await database.value(ENQUEUE, "last", "{}")
            await until(lambda: len(listener.lines) == 4)
    assert ["early", "late.first", "late.inner", "last"] == [json.loads(line)["event_type"] for line in listener.lines]
    await late.close()
    await undone.close()


@pytest.mark.sql
async def test_a_receiver_that_is_down_is_a_line(dsn: str, database: Database) -> None:
    """It says what failed and goes on; nothing is tried again."""
    receiver = Receiver(port=int(free_port()))
    with listening(dsn, receiver.url(), "--format", "table") as listener:
        await until(lambda: listener.heard("passing events"))
        await database.value(ENQUEUE, "first", "{}")
        await until(lambda: len(listener.lines) == 1)
        async with receiver.listening():
            await database.value(ENQUEUE, "second", "{}")
            await until(lambda: len(listener.lines) == 2)
    first, second = listener.lines
    assert re.fullmatch(r"\d\d:\d\d:\d\d  first  msg_\w+_\d+  connect  \d+ ms  no connection to .+\n", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d  second  msg_\w+_\d+  204  \d+ ms\n", second)
    assert 1 == len(receiver.arrivals)


@pytest.mark.sql
async def test_it_outlives_what_the_database_refuses_for_now(dsn: str, database: Database) -> None:
    """Its query is cancelled, its session ended, its schema dropped and made anew: it says so, and goes on with what comes."""
    other = connect(dsn)
    async with Receiver().listening() as receiver:
        with listening(dsn, receiver.url()) as listener:
            await until(lambda: listener.heard("passing events"))
            async with other.transaction():
                await other.script(["lock table webhook.event"])
                await until(lambda: database.value(f"select pg_cancel_backend(pid) from {OTHERS} and wait_event_type = 'Lock'"))
                await until(lambda: listener.heard("the database refused, and is tried again: canceling statement"))
            await until(lambda: said(listener, "the database is back") == 1)
            await database.value(ENQUEUE, "first", "{}")
            await until(lambda: len(listener.lines) == 1)
            assert await database.value(f"select bool_and(pg_terminate_backend(pid)) from {OTHERS}")
            await database.value(ENQUEUE, "second", "{}")
            await until(lambda: len(listener.lines) == 2)
            await database.script(["drop schema webhook cascade"])
            await until(lambda: listener.heard("webhook.event"))
            await migrate_up(database)
            await until(lambda: listener.heard("made anew"))
            await database.value(ENQUEUE, "third", "{}")
            await until(lambda: len(listener.lines) == 3)
    assert ["first", "second", "third"] == [json.loads(line)["event_type"] for line in listener.lines]
    await other.close()


@pytest.mark.sql
@needs_postgres
async def test_it_outlives_an_outage() -> None:
    """The server is restarted under it: what was committed while it could not look comes, too."""
    async with Receiver().listening() as receiver:
        with postgres_server() as server, listening(server.dsn, receiver.url()) as listener:
            await until(lambda: listener.heard("passing events"))
            server.stop()
            await until(lambda: listener.heard("the database is out of reach"))
            server.start()
            database = connect(server.dsn)
            await database.value(ENQUEUE, "first", "{}")
            await until(lambda: len(listener.lines) == 1)
            await database.close()
    assert 1 == said(listener, "the database is back")
    assert 1 == len(receiver.arrivals)


@pytest.mark.sql
async def test_it_says_that_it_falls_behind(dsn: str, database: Database) -> None:
    """How many events wait, while a receiver is slow; and each line shows when its event was made."""
    async with Receiver(pause=1.0).listening() as receiver:
        with listening(dsn, receiver.url()) as listener:
            await until(lambda: listener.heard("passing events"))
            async with database.transaction():
                for _ in range(20):
                    await database.value(ENQUEUE, "e", "{}")
            await until(lambda: listener.heard("events that wait to be passed on: "))
        (waiting, *_) = (int(line.rsplit(" ", 1)[1]) for line in listener.said if "wait" in line)
    assert 20 - len(receiver.arrivals) <= waiting < 20
    sent = [json.loads(line) for line in listener.lines]
    assert 1 == len({record["created_at"] for record in sent})
    assert len(sent) == len({record["at"] for record in sent}) > 1


def said(listener: Running, text: str) -> int:
    return sum(text in line for line in listener.said)


def verifies(key: str, body: bytes, headers: dict[str, str]) -> bool:
    try:
        Webhook(key).verify(body, headers)
    except Exception:  # noqa: BLE001 - whichever way it says no
        return False
    return True
