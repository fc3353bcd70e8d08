"""Metrics of real workers, through real scrapes: by the client's parser, and by a real Prometheus where there is one."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from fleet import ROOT, Worker, free_port, until
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from worker.store.database import Database

TENANT = 'quotes " and \\ and\nnewlines,} and {braces="x"}'
RULES = ROOT / "deploy/prometheus/webhook-worker.rules.yml"
RULES_TEST = ROOT / "deploy/prometheus/tests/webhook-worker.test.yml"
DASHBOARD = ROOT / "deploy/grafana/webhook-worker.json"
_ROW = re.compile(r"^\| `(webhook_worker_\w+)` \| (\w+) \|(.*?)\| [^|]+ \| .+ \|$", re.MULTILINE)
STATUSES = {"/ok": 204, "/missing": 404, "/broken": 500}

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus is not installed (apt-get install prometheus)",
)


def get(port: int, path: str = "/metrics") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def fetch(port: int, path: str = "/metrics") -> tuple[int, str]:
    """Like `get`, and 0 while nobody listens."""
    try:
        return await anyio.to_thread.run_sync(get, port, path)
    except OSError:
        return 0, ""


async def families(port: int) -> dict[str, Metric]:
    """Those of a scrape; none while the worker starts."""
    status, text = await fetch(port)
    return {family.name: family for family in text_string_to_metric_families(text)} if status == 200 else {}


def value(found: dict[str, Metric], sample: str, **labels: str) -> float:
    """The sum of what has these labels; the family's name is the sample's, more or less."""
    return sum(
        one.value for family in found.values() for one in family.samples
        if one.name == sample and labels.items() <= one.labels.items()
    )  # fmt: skip


@asynccontextmanager
async def receiver() -> AsyncIterator[int]:
    """Answers by path, and hangs up where it knows none."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if status := STATUSES.get(head.split(b" ")[1].decode()):
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1")
    async with server:
        yield server.sockets[0].getsockname()[1]


async def set_up(database: Database, port: int) -> None:
    """Endpoints that deliver, fail, hang up, and fail for good, of a tenant whose name is to be escaped."""
    create = "select id from webhook.create_endpoint($1::text, $2::text, $3::text::jsonb)"
    for path in (*STATUSES, "/hangs-up"):
        settings = {"retry_seconds": [] if path == "/broken" else [3600]}
        await database.value(create, f"http://127.0.0.1:{port}{path}", TENANT, json.dumps(settings))


async def enqueue(database: Database, events: int) -> None:
    many = """select count(*) from webhook.enqueue_many(
              array_fill('e'::text, array[$1::int]), array_fill('{}'::text, array[$1::int]), $2::text)"""
    await database.value(many, events, TENANT)


@pytest.mark.fault(67)
async def test_a_scrape_says_what_the_document_says(dsn: str, database: Database) -> None:
    """Names, types and labels are those of docs/metrics.md; a tenant's quotes and newlines come through; numbers are right."""
    port, events = free_port(), 5
    async with receiver() as receiver_port:
        await set_up(database, receiver_port)
        await enqueue(database, events)
        with Worker(dsn, "--metrics-listen", f"127.0.0.1:{port}", "--metrics-endpoints", "2") as worker:

            async def all_attempted() -> bool:
                return value(await families(port), "webhook_worker_attempts_total") >= 4 * events

            await until(all_attempted)
            await until(lambda: fetched_sample(port))
            await enqueue(database, events)  # of endpoints that have their names by now

            async def all_again() -> bool:
                return value(await families(port), "webhook_worker_attempts_total", outcome="ok") >= 2 * events

            await until(all_again)
            found = await families(port)
            ready, alive, other = await fetch(port, "/readyz"), await fetch(port, "/livez"), await fetch(port, "/x")
            worker.terminate()
            status, said = await worker.wait()
    assert (0, "metrics on http://127.0.0.1:") == (status, said[(at := said.find("metrics on")) : at + 28])
    assert ((200, "ready\n"), (200, "ok\n"), 404) == (ready, alive, other[0])

    documented = {
        name: (kind, {label.strip(" `") for label in labels.split(",")} - {""})
        for name, kind, labels in _ROW.findall((ROOT / "docs/metrics.md").read_text())
    }
    scraped = {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type, {label for one in family.samples for label in one.labels} - {"le"}
        )
        for family in found.values() if family.name.startswith("webhook_worker_")
    }  # fmt: skip
    assert documented == scraped

    attempts = "webhook_worker_attempts_total"
    assert 2 * events == value(found, attempts, outcome="ok", status_class="2xx")
    assert events <= value(found, attempts, outcome="http_status", status_class="4xx")
    assert events <= value(found, attempts, outcome="http_status", status_class="5xx")
    assert events <= value(found, attempts, status_class="none")
    assert events <= value(found, "webhook_worker_attempted_deliveries_total", disposition="dead")
    assert 2 * events == value(found, "webhook_worker_delivery_latency_seconds_count")
    assert value(found, attempts) == value(found, "webhook_worker_attempt_duration_seconds_count")
    named = [one.labels for one in found["webhook_worker_endpoint_attempt_duration_seconds"].samples]
    assert {TENANT, ""} == {labels["tenant"] for labels in named}
    assert 3 == len({labels["endpoint"] for labels in named})  # two, and the others
    assert value(found, attempts) == value(found, "webhook_worker_endpoint_attempt_duration_seconds_count")


async def fetched_sample(port: int) -> bool:
    return "webhook_worker_deliveries" in await families(port)


async def test_a_taken_port_is_a_warning(dsn: str, database: Database) -> None:
    """The worker delivers all the same, and says what to do."""
    async with receiver() as receiver_port:
        await set_up(database, receiver_port)
        await enqueue(database, 1)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with Worker(dsn, "--metrics-listen", f"127.0.0.1:{port}") as worker:

                async def delivered() -> bool:
                    return bool(await database.value("select count(*) from webhook.finished where state = 'delivered'"))

                await until(delivered)
                worker.terminate()
                status, said = await worker.wait()
    assert 0 == status
    assert f"no metrics, deliveries go on: cannot listen on 127.0.0.1:{port} (" in said


async def test_readyz_says_that_it_drains(dsn: str, database: Database) -> None:
    """While a delivery is on the wire, a worker that was asked to stop is not ready; it is alive."""
    port = free_port()

    async def says(status: int) -> bool:
        return (await fetch(port, "/readyz"))[0] == status

    with socket.create_server(("127.0.0.1", 0)) as silent:
        await set_up(database, silent.getsockname()[1])
        with Worker(dsn, "--metrics-listen", f"127.0.0.1:{port}", "--drain-timeout", "60") as worker:
            await until(lambda: says(200))
            await enqueue(database, 1)
            connection, _ = await anyio.to_thread.run_sync(silent.accept, abandon_on_cancel=True)
            with connection:
                worker.terminate()
                await until(lambda: says(503))
                why = await fetch(port, "/readyz")
                alive = await fetch(port, "/livez")
    assert (503, "not ready: draining: it finishes what it has in hand, and claims nothing more\n") == why
    assert (200, "ok\n") == alive


@needs_prometheus
def test_the_rules_hold() -> None:
    """As their own tool sees them: well-formed, and each alert fires when it should, and not else."""
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(RULES_TEST)]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stdout + done.stderr


def test_every_alert_is_tested_and_has_its_runbook() -> None:
    """Each is named in the rules' test, and its annotation leads to a section of its own name."""
    rules, tested = RULES.read_text(), RULES_TEST.read_text()
    alerts = re.findall(r"alert: (\w+)", rules)
    assert alerts
    for alert in alerts:
        assert f'alertname="{alert}"' in tested
        assert f"runbook_url: docs/runbooks.md#{alert.lower()}\n" in rules


@contextmanager
def prometheus(directory: Path, target: int) -> Iterator[int]:
    """A server that scrapes one worker every second, with our rules; yields its port."""
    port = free_port()
    config = directory / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{RULES}']\nscrape_configs:\n"
        f"- job_name: webhook-worker\n  static_configs:\n  - targets: ['127.0.0.1:{target}']\n"
    )
    listen, data = f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={directory / 'data'}"
    command = ["prometheus", f"--config.file={config}", data, listen]
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield port
        finally:
            process.terminate()


async def query(port: int, expression: str) -> list[dict[str, Any]]:
    """What Prometheus answers; nothing while it starts."""
    status, text = await fetch(port, "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
    if status in (0, 503):
        return []
    answer = json.loads(text)
    assert "success" == answer["status"], (expression, answer)
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


@needs_prometheus
async def test_every_query_of_the_dashboard_has_an_answer(dsn: str, database: Database, tmp_path: Path) -> None:
    """A real Prometheus scrapes a real worker with deliveries of several outcomes: no panel is empty, no rule fails."""
    panels = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]
    queries = [
        target["expr"].replace("$job", ".+").replace("$__rate_interval", "1m")
        for panel in panels
        for target in panel["targets"]
    ]
    assert not [one for one in queries if "$" in one]
    port = free_port()
    async with receiver() as receiver_port:
        await set_up(database, receiver_port)
        with (
            Worker(dsn, "--metrics-listen", f"127.0.0.1:{port}", "--metrics-endpoints", "5"),
            prometheus(tmp_path, port) as server,
        ):
            await until(lambda: query(server, "webhook_worker_ready == 1"))
            await enqueue(database, 5)
            await until(lambda: query(server, 'webhook_worker_endpoint_attempt_duration_seconds_count{result="failed"}'))
            await enqueue(database, 5)

            left: list[str] = []

            async def all_answered() -> bool:
                left[:] = [
                    one for one in queries if not any(row["value"][1] != "NaN" for row in await query(server, one))
                ]  # fmt: skip
                return not left

            with suppress(TimeoutError):
                await until(all_answered, seconds=40, every=0.5)
            assert [] == left
            rules = json.loads((await fetch(server, "/api/v1/rules"))[1])["data"]["groups"]
            assert [] == [rule["lastError"] for group in rules for rule in group["rules"] if rule.get("lastError")]
            assert not await query(server, 'ALERTS{alertstate="firing", severity="critical"}')
