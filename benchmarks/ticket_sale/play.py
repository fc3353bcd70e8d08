"""The day that tickets go on sale: 100,000 orders in 20 seconds, and three partners who are told of each.

The shop is a Django project (`benchmarks/ticket_sale/shop`). Four of its processes, the tills, sell seat after seat: an order
by the ORM and `webhook.enqueue`, in one transaction. HTTP is left out: web servers, and clients for them, would take the
processors from what is looked at here. A machine that cannot sell so many in that time sells for longer, six times as long at
most; the report says how many were sold, and in how long.

One partner is fine, and has `max_in_flight` for a spike. One has agreed to 50 requests a second, so that most orders come
to it much later. One is down: nobody listens on its port until 20 seconds after the beginning. Two workers deliver, one on
each runtime, and for a minute after the sale it is watched what becomes of the rest. Then the workers are told to end, and
the tills' logs, the database and the partners' logs are joined: for each partner, what came and what waits has to be what
was sold. A second sale, to the fine partner alone, shows whether it notices the other two: it is as long as the first, and
sells at its pace.

    .bench/bin/python -m benchmarks ticket-sale --plot sale.svg

draws the first sale, too; `python -m benchmarks.ticket_sale.plot RESULTS.json SVG` one that was played before.
"""

import argparse
import functools
import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import anyio

from benchmarks.arrivals import read_arrivals
from benchmarks.report import Report, progress
from benchmarks.stage import (
    copy_database,
    drop_database,
    family_cpu_seconds,
    finish,
    interpreters,
    migrated_database,
    on_database,
    parent,
    receiver,
    running_workers,
    stop_workers,
)
from benchmarks.ticket_sale.evidence import Partner, Play, read_sales
from benchmarks.ticket_sale.judge import BURST, DOWN, FINE, LIMITED, RATE, judge
from benchmarks.ticket_sale.plot import draw
from benchmarks.ticket_sale.tills import make_tables, open_tills
from worker.store.database import Database
from worker.store.sql import statements

TILLS, WORKERS = 4, 2
SETTINGS: dict[str, dict[str, float]] = {FINE: {"max_in_flight": 512}, LIMITED: {"rate": RATE, "burst": BURST}}
"""What differs from the defaults: by the defaults, one endpoint gets some 1,150 a second, which is less than is sold."""
START_SECONDS_MAX = 30.0
SETTLE_SECONDS = 0.5
"""From the moment that everybody is ready to the first customer."""


@dataclass(frozen=True)
class Plan:
    """So many orders are wanted within so many seconds; how long the sale may take; how long it is watched after it."""

    orders: int
    seconds: float
    seconds_max: float
    watched: float


FULL = Plan(100_000, seconds=20.0, seconds_max=120.0, watched=60.0)
QUICK = Plan(2_000, seconds=4.0, seconds_max=6.0, watched=12.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take where to draw the sale."""
    parser.add_argument("--plot", metavar="FILE", help="draw the first sale (SVG; needs matplotlib)")


def run(*, quick: bool, scale: float, plot: str | None) -> Report:
    """Sell to all three partners, then to the fine one alone."""
    if find_spec("django") is None:
        raise RuntimeError(f"{sys.executable} has no Django, which the shop needs: make install, then use .venv/bin/python")
    plan = QUICK if quick else FULL
    plan = replace(plan, orders=max(TILLS, round(plan.orders * scale)))
    with tempfile.TemporaryDirectory() as directory, migrated_database() as base:
        make_tables(base)
        among = play(base, Path(directory) / "all", plan, (FINE, LIMITED, DOWN))
        same = replace(plan, orders=len(among.sales), seconds=among.closed - among.began)
        alone = play(base, Path(directory) / "one", same, (FINE,))
    report = judge(plan.orders, plan.seconds, among, alone)
    if plot is not None:
        draw(report.series, Path(plot))
    return report


def play(base: str, folder: Path, plan: Plan, names: Iterable[str]) -> Play:
    """Play it in a database and a folder of its own."""
    folder.mkdir()
    dsn = copy_database(base, f"to_{folder.name}")
    played = _sell(dsn, folder, plan, names)
    drop_database(dsn)
    progress(f"sold {len(played.sales)} orders to {folder.name} in {played.closed - played.began:.1f} s")
    return played


def _sell(dsn: str, folder: Path, plan: Plan, names: Iterable[str]) -> Play:
    """Sell, watch, end, and gather what is known."""
    clock = time.time() - time.monotonic()
    logs = {name: folder / name for name in names}
    server: list[int] = []
    orders: list[dict[str, Any]] = []
    partners: list[dict[str, Any]] = []

    async def read(database: Database) -> None:
        orders.extend(await database.rows(statements()["bench_ticket_orders"]))
        partners.extend(await database.rows(statements()["bench_ticket_partners"]))

    with ExitStack() as stack:
        nobody = stack.enter_context(socket.socket())
        nobody.bind(("127.0.0.1", 0))  # it refuses, and is nobody else's, until it is closed
        ports = {
            name: nobody.getsockname()[1] if name == DOWN else stack.enter_context(receiver(str(log)))
            for name, log in logs.items()
        }
        pythons = islice(cycle(interpreters().values()), WORKERS)
        workers = stack.enter_context(running_workers(dsn, pythons, "--drain-timeout", "5"))
        pace = plan.orders / plan.seconds
        tills = stack.enter_context(open_tills(dsn, folder, TILLS, plan.orders, pace, plan.seconds_max))
        on_database(dsn, functools.partial(_prepare, ports=ports, server=server))
        server_cpu = family_cpu_seconds(server[0])
        began = time.monotonic() + SETTLE_SECONDS
        for till in tills:
            till.begin(began)
        back = began + plan.seconds
        if DOWN in logs:
            time.sleep(max(0.0, back - time.monotonic()))
            nobody.close()
            stack.enter_context(receiver(str(logs[DOWN]), "--port", str(ports[DOWN])))
        refused = sum(int(till.hear()) for till in tills)
        ended_tills = [finish(till.process) for till in tills]
        on_database(dsn, functools.partial(_watch, seconds=plan.watched))
        until = time.monotonic()
        server_cpu = family_cpu_seconds(server[0]) - server_cpu
        ended_workers = stop_workers(workers)
        on_database(dsn, read)
    if failed := [ended.status for ended in (*ended_tills, *ended_workers) if ended.status]:
        raise RuntimeError(f"tills and workers end with 0, but some ended with {failed}")
    sales = read_sales(folder.glob("till-*"))
    return Play(
        sales=sales,
        refused=refused,
        stored=[(row["order"], row["event"]) for row in orders],
        partners={row["partner"]: _partner(row, logs[row["partner"]], clock) for row in partners},
        began=began,
        closed=sales[-1].at,
        back=back,
        until=until,
        cpu_seconds={
            "tills": sum(ended.cpu_seconds for ended in ended_tills),
            "Postgres": server_cpu,
            "workers": sum(ended.cpu_seconds for ended in ended_workers),
        },
    )


async def _prepare(database: Database, ports: dict[str, int], server: list[int]) -> None:
    """Register the partners, wait until all workers are there, and note which process the server is."""
    server.append(parent(await database.value("select pg_backend_pid()")))
    for name, port in ports.items():
        url = f"http://127.0.0.1:{port}/{name}"
        settings = json.dumps(SETTINGS.get(name, {}))
        await database.rows("select webhook.create_endpoint($1, settings => $2::text::jsonb)", url, settings)
    with anyio.fail_after(START_SECONDS_MAX):
        while await database.value("select count(*) from webhook.worker") < WORKERS:  # noqa: ASYNC110 - other processes
            await anyio.sleep(0.05)


async def _watch(database: Database, seconds: float) -> None:
    """Wait so long, or until nothing is left to do."""
    with anyio.move_on_after(seconds):
        while not await database.value(statements()["bench_ticket_is_over"]):  # noqa: ASYNC110 - other processes do it
            await anyio.sleep(0.2)


def _partner(row: dict[str, Any], log: Path, clock: float) -> Partner:
    arrivals = [(int(arrival.message.rpartition("_")[2]), arrival.at) for arrival in read_arrivals(log)]
    return Partner(arrivals, row["delivered"], row["waiting"], [at - clock for at in row["failed"]])
