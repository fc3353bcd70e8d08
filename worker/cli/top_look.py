"""What `top` shows: asked for every second or two, and never more than a bounded number of rows."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from worker.store.codec import loads
from worker.store.database import Database, Row
from worker.store.sql import statements

ENDPOINTS_LOOKED_AT = 200
BACKLOG_COUNTED_MAX = 1_000
"""Of one endpoint."""
ENDPOINTS_SHOWN = 20
FAILING_SHOWN = 5
WORKERS_SHOWN = 50

SLOW_EVERY_SECONDS = 10.0
SLOW_SHARE = 0.02
"""One statement reads every endpoint: not more often than that it takes so much of the time."""


@dataclass(frozen=True)
class Look:
    """One look at everything. Rates are a second; None is not known yet."""

    at: datetime
    backlog: int
    backlog_is_estimate: bool
    oldest_due_seconds: float | None
    enqueued_per_second: float | None
    delivered_per_second: float
    failed_per_second: float
    worst: Sequence[dict[str, Any]]
    workers: Sequence[Row]
    endpoints: Row
    counters: Row
    snapshot: Row | None


@dataclass
class Looker:
    """Looks again and again, and remembers what rates need, and what is asked seldom."""

    _counters: Row | None = None
    _slow: Row = field(default_factory=dict)
    _slow_at: float = 0.0

    async def look(self, database: Database) -> Look:
        """Ask once."""
        sql = statements()
        if time.monotonic() >= self._slow_at:
            started = time.monotonic()
            (self._slow,) = await database.rows(sql["top_endpoints"], FAILING_SHOWN)
            took = time.monotonic() - started
            self._slow_at = started + max(SLOW_EVERY_SECONDS, took / SLOW_SHARE)
        failing = ",".join(map(str, self._slow["worst"]))
        (found,) = await database.rows(sql["top_queue"], ENDPOINTS_LOOKED_AT, BACKLOG_COUNTED_MAX, ENDPOINTS_SHOWN, failing)
        (counters,) = await database.rows(sql["top_counters"])
        snapshots = await database.rows(sql["stats_snapshot"])
        workers = await database.rows(sql["workers"], None)
        queue = loads(found["queue"])
        present = [worker for worker in workers if worker["state"] != "silent"]
        delivered = sum(worker["delivered_per_second"] for worker in present)
        before, self._counters = self._counters, counters
        return Look(
            at=datetime.fromtimestamp(counters["now"], UTC),
            backlog=found["backlog"],
            backlog_is_estimate=found["backlog_is_estimate"],
            oldest_due_seconds=queue["oldest_due_seconds"],
            enqueued_per_second=None if before is None else _rate(before, counters),
            delivered_per_second=delivered,
            failed_per_second=sum(worker["attempted_per_second"] for worker in present) - delivered,
            worst=queue["endpoints"],
            workers=workers[:WORKERS_SHOWN],
            endpoints=self._slow,
            counters=counters,
            snapshot=snapshots[0] if snapshots else None,
        )


def _rate(before: Row, now: Row) -> float:
    """Events a second; 0 if a partition was dropped meanwhile, with what had been counted in it."""
    events, seconds = max(now["enqueued"] - before["enqueued"], 0), max(now["now"] - before["now"], 0.001)
    return float(events / seconds)
