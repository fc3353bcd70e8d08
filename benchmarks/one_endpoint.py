"""A backlog for one endpoint alone, beside the same for a hundred: how many deliveries a second each gets.

One endpoint may have 64 in flight (`max_in_flight`, by default), so that the next claim of it has to wait for a record. See
docs/adr/0026.
"""

from typing import NamedTuple

from benchmarks.report import Report, progress
from benchmarks.stage import (
    Cost,
    counting_receiver,
    interpreters,
    migrated_database,
    on_database,
    running_workers,
    steady_cost,
    stop_workers,
)
from worker.store.database import Database

MANY = 100
DELIVERIES = {"CPython": 30_000, "PyPy": 80_000}
"""With a compiler more have to be seen before it is warm."""

DELIVERIES_MIN = 10_000
"""Fewer are over before they can be measured."""

WARM_UP = 0.5
SHARE_MIN = 0.3

TARGET = f"one endpoint alone gets at least {SHARE_MIN:g} of the deliveries a second of a hundred together, on each runtime"


class Pair(NamedTuple):
    """What deliveries cost with one endpoint, and with many."""

    one: Cost
    many: Cost


def run(*, quick: bool, scale: float) -> Report:
    """Deliver to one, then to many, on each runtime."""
    measured: dict[str, Pair] = {}
    for name, python in interpreters().items():
        count = max(DELIVERIES_MIN, round(DELIVERIES[name] * scale / (2 if quick else 1)))
        measured[name] = Pair(_measure(python, 1, count), _measure(python, MANY, count))
        progress(f"{name}: {measured[name]}")
    return _judge(measured)


def _judge(measured: dict[str, Pair]) -> Report:
    rows = [
        {
            "runtime": name,
            "endpoints": endpoints,
            "per_second": round(cost.per_second),
            "share": round(cost.per_second / pair.many.per_second, 2),
            "cpu_us": round(cost.cpu_us, 1),
        }
        for name, pair in measured.items()
        for endpoints, cost in ((1, pair.one), (MANY, pair.many))
    ]
    holds = all(pair.one.per_second >= SHARE_MIN * pair.many.per_second for pair in measured.values())
    return Report(TARGET, holds, rows)


def _measure(python: str, endpoints: int, count: int) -> Cost:
    with migrated_database() as dsn, counting_receiver() as receiver:

        async def fill(database: Database) -> None:
            await database.value(
                "select count(*) from generate_series(1, $1::int) as n cross join lateral webhook.create_endpoint("
                "format('http://127.0.0.1:%s/%s', $2::int, n), "
                "settings => jsonb_build_object('event_types', jsonb_build_array('t' || n)))",
                endpoints, receiver.port,
            )  # fmt: skip
            await database.value(
                "select count(*) from webhook.enqueue_many("
                "array(select 't' || 1 + n % $1::int from generate_series(1, $2::int) as n), "
                "array_fill(repeat('x', 1024), array[$2::int]))",
                endpoints, count,
            )  # fmt: skip
            await database.script(["vacuum analyze"])

        on_database(dsn, fill)
        with running_workers(dsn, [python]) as workers:
            cost = steady_cost(workers[0], receiver, 0, count, WARM_UP)
            stop_workers(workers)
            return cost
