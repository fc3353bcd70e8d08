"""A bulk retry that is killed half-way, and run again."""

import os
import sys
from subprocess import DEVNULL

import anyio
import pytest
from fleet import ROOT, until

from worker.store.database import Database

DEAD = 300
ALL_DIE = """
    select webhook.record('test', (
        select json_agg(json_build_array(claim_id, id, 'dead', 'http_status', 500, 0, 0, null, null, 0, null, null))::text
        from webhook.inflight))
"""


@pytest.mark.sql
@pytest.mark.fault(66)
async def test_a_bulk_retry_that_was_killed(dsn: str, database: Database) -> None:
    """SIGKILL in the middle of it; the next run does what was left: each delivery is queued once, and retried once."""
    command = [sys.executable, "-m", "worker", "deliveries", "retry", "--tenant", "t"]
    environment = {**os.environ, "DATABASE_URL": dsn}
    await database.value("select id from webhook.create_endpoint('https://example.com/', 't', '{\"max_in_flight\": 1000}')")
    await database.value(
        "select count(*) from webhook.enqueue_many("
        "array_fill('t'::text, array[$1::int]), array_fill('{}'::text, array[$1::int]), 't')",
        DEAD,
    )
    while await database.value("select exists (select from webhook.pending)"):
        await database.value("select webhook.claim('test', 1000, 1000000)")
        await database.value(ALL_DIE)
    retried = "select count(*) from webhook.audit where action = 'delivery.retry'"
    async with await anyio.open_process(command, cwd=ROOT, env=environment, stdout=DEVNULL, stderr=DEVNULL) as first:
        await until(lambda: database.value(retried), every=0.005)
        first.kill()
    assert 0 < await database.value(retried) < DEAD

    again = await anyio.run_process(command, cwd=ROOT, env=environment)
    assert " due now, 0 held, 0 refused, 0 not found" in again.stderr.decode()
    queued = await database.rows("select count(*)::int as rows, count(distinct id)::int as deliveries from webhook.pending")
    audited = await database.rows(
        "select count(*)::int as rows, count(distinct delivery_id)::int as deliveries from webhook.audit "
        "where action = 'delivery.retry'"
    )
    assert queued == audited == [{"rows": DEAD, "deliveries": DEAD}]
    assert 0 == await database.value("select count(*) from webhook.finished")
