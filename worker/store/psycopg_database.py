"""Postgres through psycopg 3, pure Python over libpq (PyPy)."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import anyio
import psycopg
from psycopg.abc import PQGen
from psycopg.rows import dict_row, tuple_row

from worker.pipeline.ports import StoreError
from worker.store.database import (
    CONNECT_SECONDS_MAX,
    GIVE_UP,
    QUERY_SECONDS_MAX,
    Row,
    TransactionLostError,
    error_from,
    unavailable,
)

_T = TypeVar("_T")

WAKE_SECONDS = 30.0


class _Connection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection that waits for Postgres without waking ten times a second to look for Ctrl-C: cancellation tells us."""

    async def wait(self, gen: PQGen[_T], interval: float = WAKE_SECONDS, *args: Any, **options: Any) -> _T:
        return await super().wait(gen, interval, *args, **options)


class PsycopgDatabase:
    """See `worker.store.database.Database`."""

    def __init__(self, dsn: str, *, is_pooled: bool = False, query_seconds_max: float = QUERY_SECONDS_MAX) -> None:
        self._dsn, self.is_pooled, self._query_seconds_max = dsn, is_pooled, query_seconds_max
        self._in_transaction = False
        self._connection: _Connection | None = None

    async def value(self, sql: str, *args: Any) -> Any:
        with self._translated(), anyio.fail_after(self._query_seconds_max):
            cursor = psycopg.AsyncRawCursor(await self._open(), row_factory=tuple_row)
            await cursor.execute(sql, args)
            row = await cursor.fetchone() if cursor.description else None
            if cursor.pgresult is not None:
                cursor.pgresult.clear()  # a claim's document is large, and PyPy's collector does not see libpq's copy of it
            return row[0] if row else None

    async def rows(self, sql: str, *args: Any) -> list[Row]:
        with self._translated(), anyio.fail_after(self._query_seconds_max):
            cursor = psycopg.AsyncRawCursor(await self._open(), row_factory=dict_row)
            await cursor.execute(sql, args)
            return await cursor.fetchall() if cursor.description else []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        await self.script(["begin"])
        self._in_transaction = True
        try:
            yield
            await self.script(["commit"])
        except BaseException:  # the caller's own, too: it goes through as it is
            with anyio.CancelScope(shield=True), suppress(StoreError):
                await self.script(["rollback"])
            raise
        finally:
            self._in_transaction = False

    async def script(self, statements: Sequence[str]) -> None:
        with self._translated():
            connection = await self._open()
            for statement in statements:
                await connection.execute(statement.encode())

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(Exception), anyio.move_on_after(2):
                await connection.close()

    async def _open(self) -> _Connection:
        if self._connection is None or self._connection.closed:
            self._connection = None
            if self._in_transaction:
                raise TransactionLostError
            with anyio.fail_after(CONNECT_SECONDS_MAX):
                self._connection = await _Connection.connect(self._dsn, autocommit=True)
            self._connection.prepare_threshold = None if self.is_pooled else 2
        return self._connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the driver's errors into ours, and give up the connection unless it was Postgres that answered."""
        try:
            yield
        except (OSError, psycopg.Error) as error:
            sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
            answered = self._connection is not None and sqlstate is not None and not sqlstate.startswith(GIVE_UP)
            if not answered or not isinstance(error, psycopg.Error):  # also when connecting failed, for whatever reason
                self._give_up()
                raise unavailable(error) from error
            message = error.diag.message_primary or str(error)
            raise error_from(message, sqlstate or "", error.diag.message_hint) from error
        except BaseException:  # cancelled half-way through a call: the connection's state is unknown
            self._give_up()
            raise

    def _give_up(self) -> None:
        if self._connection is not None:
            self._connection.pgconn.finish()
            self._connection = None
