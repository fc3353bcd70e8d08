"""What docs/producers.md says of transactions: savepoints, caught errors, isolation, and a COMMIT that nobody saw."""

import psycopg
import pytest
from psycopg import errors

from worker.store.database import Database

pytestmark = pytest.mark.sql

ENQUEUE = "select webhook.enqueue('order.created', '{}', idempotency_key => 'k')"
COUNT = "select count(*) from webhook.events"


async def test_a_savepoint_takes_its_event_along(dsn: str, database: Database) -> None:
    """Rolling back to it leaves the events before it, and its idempotency key unused."""
    with psycopg.connect(dsn) as connection:
        connection.execute("select webhook.enqueue('order.created', 'kept')")
        with connection.transaction() as savepoint:
            connection.execute(ENQUEUE)
            raise psycopg.Rollback(savepoint)
        connection.execute(ENQUEUE)
    assert 2 == await database.value(COUNT)


async def test_commit_after_a_caught_error_is_a_rollback(dsn: str, database: Database) -> None:
    """Postgres does not fail it: only its answer says so."""
    with psycopg.connect(dsn) as connection:
        connection.execute(ENQUEUE)
        with pytest.raises(errors.DivisionByZero):
            connection.execute("select 1 / 0")
        assert "ROLLBACK" == connection.execute("commit").statusmessage
    assert 0 == await database.value(COUNT)


async def test_a_key_committed_meanwhile_fails_a_stricter_isolation(dsn: str, database: Database) -> None:
    """As any row would that this snapshot cannot see: 40001, and the transaction is tried again."""
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("select 1")
        first = await database.value(ENQUEUE)
        with pytest.raises(errors.SerializationFailure):
            connection.execute(ENQUEUE)
        connection.rollback()
        assert (first,) == connection.execute(ENQUEUE).fetchone()


async def test_a_commit_that_nobody_saw_may_be_repeated(dsn: str, database: Database) -> None:
    """Its connection is gone before the answer is read: with a key the transaction is simply made again."""
    connection = psycopg.connect(dsn, autocommit=True)
    connection.execute("begin")
    first = connection.execute(ENQUEUE).fetchone()
    connection.pgconn.send_query(b"commit")
    connection.close()
    assert first == (await database.value(ENQUEUE),)
    assert 1 == await database.value(COUNT)
