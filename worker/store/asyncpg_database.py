"""Postgres through asyncpg (CPython)."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
import asyncpg

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

_DRIVER_ERRORS = (OSError, EOFError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""A connection that ends under a call can show as any of these."""

STATEMENTS_CACHED_MAX = 100


class AsyncpgDatabase:
    """See `worker.store.database.Database`."""

    def __init__(self, dsn: str, *, is_pooled: bool = False, query_seconds_max: float = QUERY_SECONDS_MAX) -> None:
        self._dsn, self.is_pooled, self._query_seconds_max = dsn, is_pooled, query_seconds_max
        self._in_transaction = False
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    async def value(self, sql: str, *args: Any) -> Any:
        with self._translated():
            return await (await self._open()).fetchval(sql, *args, timeout=self._query_seconds_max)

    async def rows(self, sql: str, *args: Any) -> list[Row]:
        with self._translated():
            return [dict(row) for row in await (await self._open()).fetch(sql, *args, timeout=self._query_seconds_max)]

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
                await connection.execute(statement)

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(Exception):
                await connection.close(timeout=2)

    async def _open(self) -> "asyncpg.Connection[asyncpg.Record]":
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            if self._in_transaction:
                raise TransactionLostError
            cached = 0 if self.is_pooled else STATEMENTS_CACHED_MAX
            self._connection = await asyncpg.connect(self._dsn, timeout=CONNECT_SECONDS_MAX, statement_cache_size=cached)
        return self._connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the driver's errors into ours, and give up the connection unless it was Postgres that answered."""
        try:
            yield
        except _DRIVER_ERRORS as error:
            sqlstate = error.sqlstate if isinstance(error, asyncpg.PostgresError) else None
            answered = self._connection is not None and sqlstate is not None and not sqlstate.startswith(GIVE_UP)
            if not answered:  # also when connecting failed, for whatever reason
                self._give_up()
                raise unavailable(error) from error
            raise error_from(str(error.args[0]), sqlstate or "", getattr(error, "hint", None)) from error
        except BaseException:  # cancelled half-way through a call: the connection's state is unknown
            self._give_up()
            raise

    def _give_up(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
