"""The demo, act by act: a database, receivers, endpoints, producers, a worker, and the reckoning."""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from worker.core.address import AddressRules, parse_networks
from worker.core.audit import worst_excess
from worker.demo.receivers import Receiver, flaky, gone, healthy, slow
from worker.embedded import embedded_postgres
from worker.endpoints import Endpoints, EndpointSettings
from worker.store.database import Database, Row, connect
from worker.store.migrate import migrate_up
from worker.store.sql import statements

EVENTS, LIMITED_EVENTS, PER_TRANSACTION, ROLLED_BACK_EVERY = 1000, 100, 10, 11
LIMIT, BURST = 5.0, 10
SECONDS_MAX = 50.0

console = Console(stderr=True)


@dataclass
class Part:
    """One receiver of the play, its endpoint, and what it should have received by the end."""

    name: str
    receiver: Receiver
    settings: EndpointSettings = field(default_factory=EndpointSettings)
    endpoint_id: int = 0
    expected: set[str] = field(default_factory=set)


def main(argv: Sequence[str]) -> int:
    """Run the demo; 0 only if everything it promises held."""
    argparse.ArgumentParser(prog="webhook-worker demo", description=__doc__, epilog="Example: webhook-worker demo").parse_args(
        argv
    )
    with embedded_postgres() as dsn:
        console.print("[bold]1[/] an embedded Postgres is up")
        return anyio.run(_play, dsn)


async def _play(dsn: str) -> int:
    seed = random.Random(2026)
    parts = [
        Part("healthy", Receiver(healthy())),
        Part(
            "flaky: half are 500", Receiver(flaky(seed.random)), {"event_types": ["order.*"], "retry": " ".join(["200ms"] * 25)}
        ),
        Part("slow: 1 s", Receiver(slow(1.0)), {"event_types": ["order.shipped"]}),
        Part("gone: 410", Receiver(gone()), {"event_types": ["order.created"]}),
        Part(f"limited: {LIMIT:g}/s", Receiver(healthy()), {"event_types": ["report.ready"], "rate": LIMIT, "burst": BURST}),
    ]
    database = connect(dsn)
    async with anyio.create_task_group() as group:
        try:
            await migrate_up(database)
            console.print("[bold]2[/] the schema is migrated")
            for part in parts:
                await group.start(part.receiver.serve)
            await _register(dsn, parts)
            console.print(f"[bold]3[/] {len(parts)} receivers listen, each with an endpoint and a key of its own")
            rolled_back = await _produce(database, parts)
            console.print(f"[bold]4[/] {EVENTS} events are committed, {len(rolled_back)} were rolled back")
            exit_status, seconds = await _deliver(dsn, database, parts)
            console.print(f"[bold]5[/] the worker delivered for {seconds:.1f} s, then drained on SIGTERM: exit {exit_status}")
            return await _reckon(database, parts, rolled_back, exit_status)
        finally:
            await database.close()
            group.cancel_scope.cancel()
    raise AssertionError("unreachable: the group ends by return or by exception")


async def _register(dsn: str, parts: list[Part]) -> None:
    rules = AddressRules(allow=parse_networks("127.0.0.0/8"))
    async with Endpoints(dsn, actor="demo", rules=rules, allow_http=True) as endpoints:
        for part in parts:
            made = await endpoints.create(part.receiver.url, **part.settings)
            part.endpoint_id, part.receiver.key = made.id, made.key


class _RollBack(Exception):  # a signal of the play, not an error
    pass


async def _produce(database: Database, parts: list[Part]) -> set[str]:
    """Enqueue in transactions of ten; every eleventh rolls back. Returns the payloads that must never arrive."""
    enqueue = statements()["demo_enqueue"]
    types = ["report.ready"] * LIMITED_EVENTS + ["order.created", "order.paid", "order.shipped"] * EVENTS
    rolled_back: set[str] = set()
    number = committed = transaction = 0
    while committed < EVENTS:
        transaction += 1
        failing = transaction % ROLLED_BACK_EVERY == 0
        try:
            async with database.transaction():
                for n in range(PER_TRANSACTION):
                    number += 1
                    event_type = types[committed + n]
                    payload = json.dumps({"number": number, "type": event_type, "text": "naïve ✓"}, ensure_ascii=False)
                    await database.value(enqueue, event_type, payload)
                    if failing:
                        rolled_back.add(payload)
                    else:
                        for part in parts:
                            if _subscribes(part, event_type):
                                part.expected.add(payload)
                if failing:
                    raise _RollBack
        except _RollBack:
            continue
        committed += PER_TRANSACTION
    return rolled_back


def _subscribes(part: Part, event_type: str) -> bool:
    family = event_type.partition(".")[0] + ".*"
    wanted = part.settings.get("event_types", ())
    return not wanted or event_type in wanted or family in wanted


async def _deliver(dsn: str, database: Database, parts: list[Part]) -> tuple[int, float]:
    """Run a worker process until nothing is left to do, showing progress; then stop it with SIGTERM."""
    environment = {
        **os.environ,
        "DATABASE_URL": dsn,
        "WEBHOOK_WORKER_ALLOW_NETWORKS": "127.0.0.0/8",
        "WEBHOOK_WORKER_ALLOW_HTTP": "1",
    }
    started = time.monotonic()
    async with await anyio.open_process(
        [sys.executable, "-m", "worker", "run", "--concurrency", "64"], env=environment, stdout=subprocess.DEVNULL, stderr=None
    ) as worker:
        with Live(console=console, refresh_per_second=8, transient=True) as live:
            while time.monotonic() - started < SECONDS_MAX and worker.returncode is None:
                rows = await database.rows(statements()["demo_progress"])
                live.update(_progress(parts, rows, time.monotonic() - started))
                if not any(row["state"] in ("pending", "in_flight") for row in rows):
                    break
                await anyio.sleep(0.2)
        seconds = time.monotonic() - started
        if worker.returncode is None:
            worker.send_signal(signal.SIGTERM)
        return await worker.wait(), seconds


def _progress(parts: list[Part], rows: list[Row], seconds: float) -> Table:
    table = Table(title=f"delivering, {seconds:.1f} s")
    for column in ("receiver", "pending", "in flight", "delivered", "held", "dead"):
        table.add_column(column, justify="left" if column == "receiver" else "right")
    for part in parts:
        counts = {row["state"]: str(row["deliveries"]) for row in rows if row["endpoint_id"] == part.endpoint_id}
        table.add_row(part.name, *(counts.get(state, "0") for state in ("pending", "in_flight", "delivered", "held", "dead")))
    return table


async def _reckon(database: Database, parts: list[Part], rolled_back: set[str], exit_status: int) -> int:
    """Compare what was committed, what the database says and what the receivers saw."""
    rows = await database.rows(statements()["demo_progress"])
    states = {row["id"]: row for row in await database.rows(statements()["demo_endpoints"])}
    table = Table(
        title="what happened", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
    )  # fits 80 columns
    for column in ("receiver", "events", "requests", "delivered", "retried", "held", "dead", "endpoint"):
        table.add_column(column, justify="left" if column in ("receiver", "endpoint") else "right", no_wrap=True)
    checks: list[tuple[str, bool]] = []
    for part in parts:
        counts = {row["state"]: row["deliveries"] for row in rows if row["endpoint_id"] == part.endpoint_id}
        arrivals = part.receiver.arrivals
        accepted = {arrival.body for arrival in arrivals if arrival.status < 300}
        retried = len(arrivals) - len({arrival.message_id for arrival in arrivals})
        state = states[part.endpoint_id]["state"]
        table.add_row(
            part.name, str(len(part.expected)), str(len(arrivals)), str(counts.get("delivered", 0)), str(retried),
            str(counts.get("held", 0)), str(counts.get("dead", 0)), state,
        )  # fmt: skip
        if part.name.startswith("gone"):
            held = counts.get("held", 0) == len(part.expected) and not accepted
            checks.append(
                ("the endpoint that answered 410 is disabled, and its deliveries are held", held and state == "disabled")
            )
        else:
            whole = accepted == part.expected and counts.get("delivered", 0) == len(part.expected)
            checks.append((f"nothing lost, byte for byte: {part.name}", whole))
    Console().print(table)
    everything = [arrival for part in parts for arrival in part.receiver.arrivals]
    flaky_part, limited = parts[1], parts[4]
    checks += [
        ("every signature was verified by the standardwebhooks package", not sum(p.receiver.bad_signatures for p in parts)),
        ("nothing arrived from a transaction that rolled back", not rolled_back & {arrival.body for arrival in everything}),
        ("the flaky receiver's failures were retried", any(a.status == 500 for a in flaky_part.receiver.arrivals)),
        (
            f"no window exceeds {LIMIT:g} × (T + 0.1 s) + {BURST}",
            worst_excess((a.at for a in limited.receiver.arrivals), LIMIT, BURST) <= 0,
        ),
        ("the worker drained and exited 0", exit_status == 0),
    ]
    for text, held in checks:
        Console().print(f"{'[green]ok  ' if held else '[red]FAIL'}[/] {text}")
    return 0 if all(held for _, held in checks) else 1
