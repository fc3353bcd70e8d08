"""What a worker process says and shows: its log in each format, under a storm; a trace from the producer to the receiver."""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import anyio
import pytest
from fleet import ROOT, Receiver, Worker, until

from worker.store.database import Database

CANARY = "s3cret-canary"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FAILING = 2000


async def add(database: Database, url: str, **settings: object) -> None:
    await database.value(
        "select id from webhook.create_endpoint($1::text, settings => $2::text::jsonb)", url, json.dumps(settings)
    )


@pytest.mark.fault(68)
@pytest.mark.parametrize("form", ["text", "json", "journal"])
async def test_a_storm_of_failures_is_a_few_lines_without_secrets(dsn: str, database: Database, form: str) -> None:
    """2,000 deliveries die of a blocked port while two arrive: two lines for those, none for these, no secret."""
    async with Receiver().listening() as receiver:
        await add(database, "http://127.0.0.1:25/", event_types=["bad"], retry_seconds=[], headers={"authorization": CANARY})
        await add(database, receiver.url(), event_types=["good"])
        await database.script(
            [
                f"update webhook.endpoint_sched set max_in_flight = {FAILING}",
                "alter table webhook.meta drop constraint meta_circuit_failure_ratio_check",
                "update webhook.meta set circuit_failures = 1000000, circuit_failure_ratio = 2",  # it never opens
            ]
        )
        bad = "select count(*) from webhook.enqueue_many(array_fill('bad'::text, array[$1]), array_fill('{}'::text, array[$1]))"
        await database.value(bad.replace("$1", str(FAILING)))
        await database.value("select count(*) from webhook.enqueue_many(array['good', 'good'], array['1', '2'])")
        secret = dsn.replace("@", f":{CANARY}@", 1) if "@" in dsn else dsn
        with Worker(secret, "--once", "--log-format", form) as worker:
            status, said = await worker.wait(60)
    died = await database.value("select count(*) from webhook.finished where state = 'dead'")

    assert (0, FAILING, 2) == (status, died, len(receiver.arrivals))
    assert CANARY not in said
    lines = said.splitlines()
    assert len(lines) <= 6, said
    if form == "json":
        entries = [json.loads(line) for line in lines]
        failed = [entry for entry in entries if entry.get("outcome") == "blocked_port"]
        assert {"warning"} == {entry["level"] for entry in failed}
        assert FAILING == 1 + sum(entry.get("left_out", 0) for entry in failed)
        assert all("worker" in entry for entry in entries)
    elif form == "journal":  # there is none: stderr, as systemd reads it
        assert {"<4>": 2, "<6>": len(lines) - 2} == Counter(line[:3] for line in lines)


async def test_the_level_is_chosen(dsn: str) -> None:
    with Worker(dsn, "--once", environment={"WEBHOOK_WORKER_LOG_LEVEL": "warning"}) as worker:
        assert (0, "") == await worker.wait()


async def test_an_unknown_format_is_78(dsn: str) -> None:
    with Worker(dsn, "--once", environment={"WEBHOOK_WORKER_LOG_FORMAT": "xml"}) as worker:
        status, said = await worker.wait()

    assert (78, True) == (status, "WEBHOOK_WORKER_LOG_FORMAT is 'xml'; write one of text, json, journal" in said)


async def test_a_trace_goes_from_the_command_line_to_the_receiver(dsn: str, database: Database) -> None:
    """As it was given, without the extra's help: it is only passed on; also where the endpoint has such a header of its own."""
    async with Receiver().listening() as receiver:
        await add(database, receiver.url(), headers={"Traceparent": PARENT.replace("b7", "c8"), "x-own": "1"})
        enqueue = [sys.executable, "-m", "worker", "enqueue", "order.created", "--payload", "{}", "--traceparent"]
        environment = {**os.environ, "DATABASE_URL": dsn}
        await anyio.run_process([*enqueue, PARENT], cwd=ROOT, env=environment)
        refused = await anyio.run_process([*enqueue, "nonsense"], cwd=ROOT, env=environment, check=False)
        with Worker(dsn, environment={"OTEL_EXPORTER_OTLP_ENDPOINT": ""}) as worker:
            await until(lambda: receiver.arrivals)
            worker.terminate()
            assert 0 == (await worker.wait())[0]

    assert (2, True) == (refused.returncode, b"--traceparent" in refused.stderr)
    assert [(PARENT, "1")] == [(arrival.headers["traceparent"], arrival.headers["x-own"]) for arrival in receiver.arrivals]


async def test_a_collector_that_is_away_costs_no_delivery_and_no_exit(dsn: str, database: Database) -> None:
    """Attempts are traced, below the event's span; what cannot be exported is lost, and said in a few lines."""
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    async with Receiver().listening() as receiver:
        await add(database, receiver.url())
        await database.value("select webhook.enqueue('t', '{}', traceparent => $1::text)", PARENT)
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
        with Worker(dsn, "--log-format", "json", environment=environment) as worker:
            await until(lambda: receiver.arrivals)
            worker.terminate()
            status, said = await worker.wait()

    sent = receiver.arrivals[0].headers["traceparent"]
    assert (0, PARENT[:36]) == (status, sent[:36])
    assert sent[36:52] != PARENT[36:52]
    assert len([json.loads(line) for line in said.splitlines()]) < 10


async def test_without_the_extra_it_says_so_and_delivers(dsn: str, database: Database, tmp_path: Path) -> None:
    """The environment asks for traces, and nothing is installed that could make them: the context is passed on as it is."""
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not installed')")
    async with Receiver().listening() as receiver:
        await add(database, receiver.url())
        await database.value("select webhook.enqueue('t', '{}', traceparent => $1::text)", PARENT)
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(tmp_path)}
        with Worker(dsn, "--once", environment=environment) as worker:
            status, said = await worker.wait()

    assert (0, True) == (status, "pip install 'webhook-worker[otel]'" in said)
    assert [PARENT] == [arrival.headers["traceparent"] for arrival in receiver.arrivals]
