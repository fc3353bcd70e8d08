"""What receivers say, whatever its bytes, reaches the attempt's row, by either driver."""

import sys
from collections.abc import Callable

import pytest

from worker.core.escape import escape
from worker.core.model import Decision, Exchange, Outcome
from worker.store.database import Database
from worker.store.postgres import PostgresStore
from worker.store.psycopg_database import PsycopgDatabase

DRIVERS: list[Callable[[str], Database]] = [PsycopgDatabase]
if sys.implementation.name == "cpython":
    from worker.store.asyncpg_database import AsyncpgDatabase

    DRIVERS.append(AsyncpgDatabase)

BODIES = [bytes(range(256)), b"\xed\xa0\x80 is no character", b'"\\u0000", {"a": [', "é\u2028\U0001f642".encode(), b"\0" * 2000]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_every_byte_is_recorded(dsn: str, database: Database, driver: Callable[[str], Database]) -> None:
    """A record is one JSON value, parsed as jsonb, which takes neither NUL nor lone surrogates."""
    await database.value("select id from webhook.create_endpoint('http://127.0.0.1:9/hook')")
    for _ in BODIES:
        await database.value("select webhook.enqueue('t', '{}')")
    store = PostgresStore(dsn, "a", connect=driver)
    deliveries = (await store.claim(100, 1 << 20)).deliveries
    error = "a lone \ud800, a \0, a \x1b"
    decision = Decision("dead", "http_status")
    outcomes = [
        Outcome(delivery, decision, 0.0, 0.01, Exchange(500, "", error, body))
        for delivery, body in zip(deliveries, BODIES, strict=True)
    ]
    assert len(BODIES) == await store.record(outcomes, 1.0)
    await store.close()
    rows = await database.rows("select response, error from webhook.attempts order by delivery_id")
    assert [escape(body) for body in BODIES] == [row["response"] for row in rows]
    assert {"a lone \\ud800, a \\x00, a \\x1b"} == {row["error"] for row in rows}
