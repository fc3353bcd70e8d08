"""An event for a hundred thousand endpoints: what its producer waits for, and how soon the workers have made its deliveries.

Beside an event for ten endpoints, in the same database. The producer's part is `enqueue` with its commit, median and worst of
several. The workers' part is their own call, `fan_out_step` in batches of a thousand as every claim makes one, until none is
left; then every endpoint must have one delivery of each event, and none two.
"""

import statistics
import time
from typing import Any

from benchmarks.report import Report, progress
from benchmarks.stage import migrated_database, on_database
from worker.store.database import Database

WIDE, NARROW = 100_000, 10
EVENTS = 5
BATCH = 5_000
PRODUCER_MS_MAX = 10.0
SECONDS_MAX = 5.0
TARGET = (
    f"enqueue takes at most {PRODUCER_MS_MAX:g} ms for {WIDE:,} endpoints, and the workers {SECONDS_MAX:g} s to make "
    "an event's deliveries (medians); each endpoint has one"
)


def run(*, quick: bool, scale: float) -> Report:
    """Enqueue events for few and for many, and finish what was left to the workers."""
    wide = max(2_000, round(WIDE * scale))
    events = EVENTS if quick else 4 * EVENTS
    waited: dict[str, list[float]] = {"narrow": [], "wide": []}
    seconds: list[float] = []
    wrong = 0

    async def measure(database: Database) -> None:
        nonlocal wrong
        await database.script(["set statement_timeout = 0"])
        for kind, count in (("narrow", NARROW), ("wide", wide)):
            for first in range(0, count, BATCH):
                await database.value(
                    "select count(*) from generate_series($2::int, $3::int - 1) as n cross join lateral "
                    "webhook.create_endpoint('https://example.com/' || n, settings => $1::text::jsonb)",
                    f'{{"event_types": ["{kind}"]}}', first, min(first + BATCH, count),
                )  # fmt: skip
        await database.script(["vacuum analyze"])
        for _ in range(events):
            for kind, times in waited.items():
                started = time.perf_counter()
                await database.value("select webhook.enqueue($1::text, '{}')", kind)
                times.append(time.perf_counter() - started)
            started = time.perf_counter()
            while await database.value("select webhook.fan_out_step()"):
                pass
            seconds.append(time.perf_counter() - started)
        wrong = await database.value(
            "select count(*) from ("
            "select e.id from webhook.endpoint as e left join webhook.pending as p on p.endpoint_id = e.id "
            "group by e.id having count(p.id) <> $1::int or count(distinct p.event_id) <> $1::int) as w",
            events,
        )

    with migrated_database() as dsn:
        on_database(dsn, measure)
    rows = [
        {
            "event": kind,
            "endpoints": NARROW if kind == "narrow" else wide,
            "enqueue_ms_median": round(statistics.median(times) * 1e3, 2),
            "enqueue_ms_max": round(max(times) * 1e3, 2),
            "workers_seconds_median": round(statistics.median(seconds), 2) if kind == "wide" else 0.0,
            "wrong_endpoints": wrong,
        }
        for kind, times in waited.items()
    ]
    progress(str(rows))
    return _judge(rows)


def _judge(rows: list[dict[str, Any]]) -> Report:
    wide = rows[-1]
    holds = (
        wide["enqueue_ms_median"] <= PRODUCER_MS_MAX
        and wide["workers_seconds_median"] <= SECONDS_MAX
        and wide["wrong_endpoints"] == 0
    )
    return Report(TARGET, holds, rows)
