"""What claim and record cost as the backlog grows: they should not notice.

The store's own calls, 500 rows a claim, all of them recorded as delivered; one endpoint holds a tenth of the backlog. A claim
brings what its endpoints have, 500 rows or fewer, so what is compared is the cost of a row: all the time of up to 200 rounds,
divided by all their rows. With ten deliveries an endpoint each round visits a hundred of them or so.
"""

import time

from benchmarks.report import Report, progress
from benchmarks.stage import migrated_database, on_database
from worker.core.model import Decision, Outcome
from worker.store.database import Database
from worker.store.postgres import PostgresStore
from worker.store.sql import statements

TARGET_GROWTH = 2.0
ROWS = 500
ROUNDS = 200
ENDPOINTS_MAX = 100_000


def run(*, quick: bool, scale: float) -> Report:
    """Measure rounds of claim + record at each size of backlog, each in a database of its own."""
    sizes = (10_000, 100_000, 1_000_000) if quick else (10_000, 100_000, 1_000_000, 10_000_000)
    rows = []
    for pending in (max(ROWS, round(size * scale)) for size in sizes):
        with migrated_database() as dsn:
            claims, records, delivered = _measure(dsn, pending)
        rows.append(
            {
                "pending": pending,
                "endpoints": min(ENDPOINTS_MAX, pending // 10),
                "rounds": len(claims),
                "rows_a_round": round(delivered / len(claims)),
                "claim_ms": round(sum(claims) / len(claims) * 1e3, 2),
                "record_ms": round(sum(records) / len(claims) * 1e3, 2),
                "us_a_row": round((sum(claims) + sum(records)) / delivered * 1e6, 1),
            }
        )
        progress(str(rows[-1]))
    growth = round(rows[-1]["us_a_row"] / rows[0]["us_a_row"], 2)
    target = f"claim + record of a row grow at most {TARGET_GROWTH:g} times"
    return Report(target, growth <= TARGET_GROWTH, rows, [f"growth {growth}"])


def _measure(dsn: str, pending: int) -> tuple[list[float], list[float], int]:
    claims: list[float] = []
    records: list[float] = []
    delivered = 0

    async def load(database: Database) -> None:
        sql = statements()
        await database.script(["set statement_timeout = 0"])
        await database.script(
            [sql["bench_load"].replace("$1", str(pending)).replace("$2", str(min(ENDPOINTS_MAX, pending // 10)))]
        )
        await database.script([sql["bench_settle"]])

    async def measure(_: Database) -> None:
        nonlocal delivered
        store = PostgresStore(dsn, "benchmark")
        while len(claims) < ROUNDS and delivered < pending:
            started = time.perf_counter()
            claimed = await store.claim(ROWS, 1 << 30)
            claims.append(time.perf_counter() - started)
            outcomes = [Outcome(delivery, Decision("delivered", "ok"), started, 0.01) for delivery in claimed.deliveries]
            started = time.perf_counter()
            delivered += await store.record(outcomes, started)
            records.append(time.perf_counter() - started)
        await store.close()

    on_database(dsn, load)
    on_database(dsn, measure)
    return claims, records, delivered
