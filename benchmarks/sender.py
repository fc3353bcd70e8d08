"""What a delivery costs the worker: CPU per delivery, plain and TLS, beside the bare pipeline and the textbook worker.

The bare pipeline (benchmarks/baseline) claims, signs, sends and records without limits, fences, retries or metrics: the least
a delivery can cost here. The textbook worker (benchmarks/contestants) is asyncpg and one shared httpx.AsyncClient. 1 KiB
payloads, 100 endpoints, 64 lanes, keep-alive, receiver and Postgres on the same cores. All figures are of the steady part of
a run, after start and warm-up. A TLS exchange on a new connection is measured apart (not with `--quick`), with a session to
resume, and without one, which is then remembered; the receiver sends an intermediate certificate, as they do on the internet.
"""

import re
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import Report, progress, python_build
from benchmarks.stage import (
    CERTIFICATES,
    ROOT,
    Cost,
    CountingReceiver,
    counting_receiver,
    interpreters,
    migrated_database,
    on_database,
    steady_cost,
    worker_environment,
)
from worker.store.database import Database

BASELINE = Path(__file__).parent / "baseline"
CONTESTANTS = Path(__file__).parent / "contestants"
ENDPOINTS = 100
TIMES_BARE_MAX = 1.4
TIMES_PLAIN_MAX = 1.5
TIMES_FULL_MAX = 0.75
TARGET = (
    f"on both runtimes, CPU per delivery at most {TIMES_BARE_MAX} times the bare pipeline's, "
    f"TLS at most {TIMES_PLAIN_MAX} times plain"
)
TARGET_OF_HANDSHAKES = f", a resumed TLS connection at most {TIMES_FULL_MAX} of a full one"
DELIVERIES = {"CPython": (40_000, 40_000), "PyPy": (120_000, 60_000)}
"""Plain and TLS, of which the first part warms up."""

BARE_DELIVERIES = 60_000
"""Of the bare pipeline, half of which warm it up: on PyPy these cannot be fewer."""

HANDSHAKES = {"CPython": 500, "PyPy": 3_000}
"""Of each kind, after as many that warm up: a compiler has to see thousands of them."""

QUICK = {"CPython": 0.35, "PyPy": 0.4}
WARM_UP = {"CPython": 0.25, "PyPy": 0.6}
"""The part of a run that is not measured."""


class Round(NamedTuple):
    """One runtime's figures in one round."""

    bare: Cost
    plain: Cost
    tls: Cost
    handshakes: tuple[float, float] | None
    """µs of an exchange on a new TLS connection, full and resumed, if they were measured."""


def run(*, quick: bool, scale: float) -> Report:
    """Let the contestants take turns, on each runtime, in several rounds."""
    rounds: dict[str, list[Round]] = {}
    textbook: dict[str, Cost] = {}
    with migrated_database() as dsn, counting_receiver() as receiver:
        on_database(dsn, lambda database: _add_endpoints(database, receiver))
        for _ in range(1 if quick else 3):
            for name, python in interpreters().items():
                one = _round(dsn, name, python, receiver, scale * QUICK[name] if quick else scale)
                if not quick:
                    one = one._replace(handshakes=_handshakes(name, python, receiver))
                rounds.setdefault(name, []).append(one)
                progress(f"{name}: {rounds[name][-1]}")
        for name, python in interpreters().items():
            if name == "CPython" or not quick:
                textbook[name] = _textbook(dsn, python, receiver, round((1_500 if quick else 6_000) * scale))
                progress(f"textbook, {name}: {textbook[name]}")
    return _judge(rounds, textbook)


def _judge(rounds: dict[str, list[Round]], textbook: dict[str, Cost]) -> Report:
    rows: list[dict[str, Any]] = []
    holds = True
    for name, each in rounds.items():
        times_bare = statistics.median(one.plain.cpu_us / one.bare.cpu_us for one in each)
        times_plain = statistics.median(one.tls.cpu_us / one.plain.cpu_us for one in each)
        holds &= times_bare <= TIMES_BARE_MAX and times_plain <= TIMES_PLAIN_MAX
        rows += [
            _row(f"bare pipeline, {name}", [one.bare for one in each], "", 1.0),
            _row(f"webhook-worker, {name}", [one.plain for one in each], "the bare pipeline", times_bare),
            _row(f"webhook-worker, {name}, TLS", [one.tls for one in each], "plain", times_plain),
        ]
        if handshakes := [one.handshakes for one in each if one.handshakes]:
            times_full = statistics.median(resumed / full for full, resumed in handshakes)
            holds &= times_full <= TIMES_FULL_MAX
            rows += [
                _row(f"a new TLS connection, {name}", [Cost(full, 0.0) for full, _ in handshakes], "", 1.0),
                _row(f"a resumed one, {name}", [Cost(resumed, 0.0) for _, resumed in handshakes], "a new one", times_full),
            ]
    for name, cost in textbook.items():
        ours = statistics.median(one.plain.cpu_us for one in rounds[name])
        rows.append(_row(f"textbook (asyncpg + httpx.AsyncClient), {name}", [cost], "our worker", cost.cpu_us / ours))
    target = TARGET + (TARGET_OF_HANDSHAKES if any(one.handshakes for each in rounds.values() for one in each) else "")
    return Report(target, holds, rows, [f"CPython here was built {python_build()}"])


def _row(contestant: str, costs: list[Cost], beside: str, times: float) -> dict[str, Any]:
    cpu = [cost.cpu_us for cost in costs]
    return {
        "contestant": contestant,
        "cpu_us": round(statistics.median(cpu), 1),
        "spread_us": round(max(cpu) - min(cpu), 1),
        "per_second": round(statistics.median(cost.per_second for cost in costs)),
        "times": round(times, 2),
        "beside": beside,
    }


def _round(dsn: str, name: str, python: str, receiver: CountingReceiver, scale: float) -> Round:
    bare = _bare(dsn, python, receiver, name, BARE_DELIVERIES if name == "PyPy" else round(BARE_DELIVERIES * min(1.0, scale)))
    plain, tls = _worker(
        dsn, name, python, receiver, [max(1, round(count * scale / ENDPOINTS)) * ENDPOINTS for count in DELIVERIES[name]]
    )
    return Round(bare, plain, tls, None)


async def _add_endpoints(database: Database, receiver: CountingReceiver) -> None:
    for kind, port in (("http", receiver.port), ("https", receiver.tls_port)):
        await database.value(
            "select count(*) from generate_series(1, $4::int) as n cross join lateral webhook.create_endpoint("
            "$1::text || '://localhost:' || $2::text || '/' || n, settings => $3::text::jsonb)",
            kind, str(port), f'{{"event_types": ["{kind}"]}}', ENDPOINTS,
        )  # fmt: skip


def _enqueue(dsn: str, event_type: str, deliveries: int) -> None:
    async def work(database: Database) -> None:
        await database.value(
            "select count(*) from webhook.enqueue_many("
            "array_fill($1::text, array[$2::int]), array_fill(repeat('x', 1024), array[$2::int]))",
            event_type, deliveries // ENDPOINTS,
        )  # fmt: skip
        await database.script(["vacuum analyze"])

    on_database(dsn, work)


def _worker(dsn: str, name: str, python: str, receiver: CountingReceiver, deliveries: list[int]) -> list[Cost]:
    """Run one worker, and measure the steady part of each batch of events."""
    with tempfile.TemporaryDirectory() as directory:
        transports = Path(directory) / "transports.toml"
        transports.write_text(f"[default]\nca_files = ['{CERTIFICATES / 'ca.pem'}']\n")
        environment = {**worker_environment(dsn), "WEBHOOK_WORKER_TRANSPORTS": str(transports)}
        command = [python, "-m", "worker", "run", "--concurrency", "64"]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as worker:
            try:
                costs = []
                for event_type, count in zip(("http", "https"), deliveries, strict=True):
                    before = receiver.count()
                    _enqueue(dsn, event_type, count)
                    costs.append(steady_cost(worker, receiver, before, count, WARM_UP[name]))
                return costs
            finally:
                worker.terminate()


def _bare(dsn: str, python: str, receiver: CountingReceiver, name: str, deliveries: int) -> Cost:
    async def load(database: Database) -> None:
        await database.script([(BASELINE / "bare_pipeline.sql").read_text(), "reset search_path"])

    on_database(dsn, load)
    done = subprocess.run(
        [python, str(BASELINE / "bare_pipeline.py"), str(deliveries), "64"],
        env={**worker_environment(dsn), "RECEIVER": f"127.0.0.1:{receiver.port}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"second half (\d+)/s (\d+)us", done.stdout)
    if not found:
        raise RuntimeError(f"{name}: {done.stdout}{done.stderr}")
    return Cost(float(found[2]), float(found[1]))


def _textbook(dsn: str, python: str, receiver: CountingReceiver, deliveries: int) -> Cost:
    async def load(database: Database) -> None:
        await database.script([(CONTESTANTS / "textbook.sql").read_text()])
        await database.value(
            "with w as (insert into textbook.webhook (url, payload) "
            "select $1::text || n % 100, repeat('x', 1024) from generate_series(1, $2::int) as n returning 1) "
            "select count(*) from w",
            f"http://127.0.0.1:{receiver.port}/", deliveries,
        )  # fmt: skip

    on_database(dsn, load)
    before = receiver.count()
    command = [python, "-m", "benchmarks.contestants.textbook", dsn]
    with subprocess.Popen(command, cwd=ROOT) as worker:
        try:
            return steady_cost(worker, receiver, before, deliveries, 0.5)
        finally:
            worker.kill()


def _handshakes(name: str, python: str, receiver: CountingReceiver) -> tuple[float, float]:
    command = [python, "-m", "benchmarks.contestants.handshakes", str(receiver.tls_port), str(HANDSHAKES[name])]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return float(printed[1]), float(printed[3])
