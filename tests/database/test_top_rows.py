"""What `top` asks each second reads a bounded number of rows, whatever there is."""

import json

import pytest
from test_plans import COUNTS, HOSTILE, STATISTICS, load, session

from worker.cli.top_look import BACKLOG_COUNTED_MAX, ENDPOINTS_LOOKED_AT, ENDPOINTS_SHOWN
from worker.store.database import Database
from worker.store.sql import statements

ROWS_MAX = 10 * ENDPOINTS_LOOKED_AT + 2 * ENDPOINTS_SHOWN * BACKLOG_COUNTED_MAX
SAMPLED_MAX = 30_000
"""Of 200 pages."""


@pytest.mark.fault(51)
@pytest.mark.parametrize("statistics", STATISTICS)
async def test_a_look_reads_no_more_than_it_shows(dsn: str, database: Database, statistics: str) -> None:
    """With 50,000 pending over 5,000 endpoints, nothing is scanned but a sample of the backlog, whatever the planner thinks."""
    await load(database, statistics)
    await database.value("select webhook.claim('w', 200, 1000000)")  # which puts endpoints into the queue
    busiest = await database.value("select min(id) from webhook.endpoint")
    async with session(dsn) as one:
        await one.script([*HOSTILE, "begin"])
        (found,) = await one.rows(
            statements()["top_queue"], ENDPOINTS_LOOKED_AT, BACKLOG_COUNTED_MAX, ENDPOINTS_SHOWN, str(busiest)
        )
        read = {row["name"]: row for row in await one.rows(COUNTS)}
        await one.script(["rollback"])
    assert 0 == sum(read[table]["by_scan"] for table in ("endpoint_sched", "endpoint"))
    assert SAMPLED_MAX >= read["pending"]["by_scan"]
    assert read["pending"]["by_index"] + read["endpoint_sched"]["by_index"] <= ROWS_MAX
    shown = {row["id"]: row for row in json.loads(found["queue"])["endpoints"]}
    assert ENDPOINTS_SHOWN <= len(shown) <= ENDPOINTS_SHOWN + 1
    assert (BACKLOG_COUNTED_MAX, True) == (shown[busiest]["backlog"], shown[busiest]["backlog_is_at_least"])
    assert found["backlog_is_estimate"]
    assert 50_000 == pytest.approx(found["backlog"], rel=0.2)
