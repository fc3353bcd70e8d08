"""The statements of worker.producer on the connections that producers have, in transactions that commit or roll back."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import psycopg
import pytest

from worker.producer import Event, Statement, enqueue, enqueue_many
from worker.store.database import Database


class RolledBack(Exception):
    """Leaves a transaction without committing it."""


Execute = Callable[[Statement], Any]
Transaction = Callable[[str], AbstractAsyncContextManager[Execute]]
"""Opens a transaction on a DSN; what it yields executes a statement in it, and returns (an awaitable of) rows."""


@asynccontextmanager
async def psycopg_transaction(dsn: str) -> AsyncIterator[Execute]:
    with psycopg.connect(dsn) as connection:
        yield lambda statement: connection.execute(*statement).fetchall()


@asynccontextmanager
async def psycopg_async_transaction(dsn: str) -> AsyncIterator[Execute]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:

        async def execute(statement: Statement) -> list[Any]:
            cursor = await connection.execute(*statement)
            return await cursor.fetchall()

        yield execute


@asynccontextmanager
async def asyncpg_transaction(dsn: str) -> AsyncIterator[Execute]:
    asyncpg = pytest.importorskip("asyncpg")
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            yield lambda statement: connection.fetch(*statement.numbered())
    finally:
        await connection.close()


def sqlalchemy_transaction(driver: str) -> Transaction:
    @asynccontextmanager
    async def opened(dsn: str) -> AsyncIterator[Execute]:
        asyncio = pytest.importorskip("sqlalchemy.ext.asyncio", reason="the extra examples is not installed")
        from sqlalchemy import text

        engine = asyncio.create_async_engine(dsn.replace("postgresql", f"postgresql+{driver}", 1))
        try:
            async with engine.begin() as connection:

                async def execute(statement: Statement) -> Sequence[Any]:
                    sql, parameters = statement.named()
                    result = await connection.execute(text(sql), parameters)
                    return list(result)

                yield execute
        finally:
            await engine.dispose()

    return opened


TRANSACTIONS: dict[str, Transaction] = {
    "psycopg": psycopg_transaction,
    "psycopg, async": psycopg_async_transaction,
    "asyncpg": asyncpg_transaction,
    "SQLAlchemy, psycopg": sqlalchemy_transaction("psycopg"),
    "SQLAlchemy, asyncpg": sqlalchemy_transaction("asyncpg"),
}
LATER = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
ONE = enqueue("order.created", {"order": 17, "who": "Zoë"}, tenant="acme", idempotency_key="order:17", deliver_at=LATER)
PLAIN = enqueue("order.paid", '{"order":  17}', tenant="acme")
MANY = enqueue_many([Event("a.b", {"n": n}, None if n == 1 else f"{n % 2}") for n in range(3)], tenant="acme", deliver_at=LATER)
NONE = enqueue_many([])
EVENTS = "select id, tenant, event_type, payload from webhook.events order by id"
DUE = "select count(*) from webhook.deliveries where (next_attempt_at = '2030-01-02T03:04:05Z') = (event_type <> 'order.paid')"


@pytest.mark.parametrize("name", TRANSACTIONS)
async def test_a_call_is_part_of_its_transaction(name: str, dsn: str, database: Database) -> None:
    """With every driver: each argument arrives, ids come back in order, and a rollback leaves nothing."""
    if name == "asyncpg" and not find_spec("asyncpg"):
        pytest.skip("asyncpg is not for this runtime")
    await database.value("select id from webhook.create_endpoint('http://127.0.0.1:9/', 'acme')")
    with suppress(RolledBack):
        async with TRANSACTIONS[name](dsn) as execute:
            await ids_of(execute, ONE)
            raise RolledBack
    assert [] == await database.rows(EVENTS)

    async with TRANSACTIONS[name](dsn) as execute:
        (one,), (plain,), many = [await ids_of(execute, statement) for statement in (ONE, PLAIN, MANY)]
        assert [one] == await ids_of(execute, ONE), "its key was used"
        assert [] == await ids_of(execute, NONE)
    assert many[0] == many[2]
    rows = await database.rows(EVENTS)
    assert [(one, "order.created"), (plain, "order.paid"), (many[0], "a.b"), (many[1], "a.b")] == [
        (row["id"], row["event_type"]) for row in rows
    ]
    assert [json.dumps({"order": 17, "who": "Zoë"}, separators=(",", ":"), ensure_ascii=False), '{"order":  17}'] == [
        row["payload"] for row in rows[:2]
    ]
    assert ['{"n":0}', '{"n":1}'] == [row["payload"] for row in rows[2:]]
    assert {"acme"} == {row["tenant"] for row in rows}
    assert 4 == await database.value(DUE)


async def ids_of(execute: Execute, statement: Statement) -> list[int]:
    """Execute a statement, whether its driver is async or not."""
    found = execute(statement)
    return [row[0] for row in (found if isinstance(found, list) else await found)]
