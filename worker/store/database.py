"""One Postgres connection behind the same few calls, whichever driver the runtime has: asyncpg, or psycopg on PyPy.

Both take `$1` placeholders. A call on a broken connection opens a new one: there is no session state to lose. So this also
works through PgBouncer in transaction mode, if the DSN says `pgbouncer=true`: then no statement is prepared by name.
"""

import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from worker.pipeline.ports import StoreError

Row = dict[str, Any]

CONNECT_SECONDS_MAX = 5.0
QUERY_SECONDS_MAX = 30.0
"""What takes longer is taken for a lost connection, unless whoever asked has more patience."""

_UNAVAILABLE = ("08", "57P", "530", "531", "532", "533", "25006")
"""SQLSTATE prefixes that say "not now": connection lost, shutting down, out of resources (53400 is a tenant's backlog limit), a
read-only replica."""

GIVE_UP = ("08", "57P", "25006")
"""SQLSTATE prefixes after which only a new connection helps; to another server, where the DSN names several."""

_STATEMENT_IS_ELSEWHERE = ("26000", "42P05")
"""A prepared statement that is not there, or that somebody else has made: the mark of a pool that was not declared."""


class DatabaseUnavailableError(StoreError):
    """The database cannot be reached: check DATABASE_URL and that Postgres is running."""


class TransactionLostError(DatabaseUnavailableError):
    """The connection ended between two statements of a transaction: all of it is undone, and none of the rest may run."""

    def __init__(self) -> None:
        super().__init__("the connection was lost in the middle of a transaction, which is undone: try again")


class DatabaseError(StoreError):
    """Postgres refused a statement. `sqlstate` is its code, `hint` its advice."""

    def __init__(self, message: str, sqlstate: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate, self.hint = sqlstate, hint
        self.refused = sqlstate.startswith(("22", "23"))  # data exceptions and violated constraints


def error_from(message: str, sqlstate: str, hint: str | None = None) -> StoreError:
    """Return our error for what Postgres answered."""
    if sqlstate in _STATEMENT_IS_ELSEWHERE:
        message += ": through PgBouncer in transaction mode, the database's URL must say pgbouncer=true"
    if sqlstate.startswith(_UNAVAILABLE):
        return DatabaseUnavailableError(message)
    return DatabaseError(message, sqlstate, hint)


def unavailable(error: BaseException) -> DatabaseUnavailableError:
    """Return our error for a driver's, when Postgres did not answer: its words on one line."""
    return DatabaseUnavailableError(f"{type(error).__name__}: {' '.join(str(error).split())}")


class Database(Protocol):
    """One connection, opened at its first use. Not for concurrent calls: whoever needs two opens two."""

    is_pooled: bool
    """Between transactions the server's side belongs to others: leave nothing behind in it, and do not wait in it."""

    async def value(self, sql: str, *args: Any) -> Any:
        """Run one statement and return the first column of its first row, or None."""

    async def rows(self, sql: str, *args: Any) -> list[Row]:
        """Run one statement and return its rows."""

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Run the calls inside in one transaction."""

    async def script(self, statements: Sequence[str]) -> None:
        """Run texts of one or more statements without parameters. All or nothing inside `transaction`."""

    async def close(self) -> None:
        """Close the connection, without waiting long."""


def connect(dsn: str, *, query_seconds_max: float = QUERY_SECONDS_MAX) -> Database:
    """Return a connection through the driver of this runtime. Nothing is opened yet."""
    dsn, is_pooled = _read_pgbouncer(dsn)
    if sys.implementation.name == "cpython":
        from worker.store.asyncpg_database import AsyncpgDatabase

        return AsyncpgDatabase(dsn, is_pooled=is_pooled, query_seconds_max=query_seconds_max)
    from worker.store.psycopg_database import PsycopgDatabase

    return PsycopgDatabase(dsn, is_pooled=is_pooled, query_seconds_max=query_seconds_max)


def _read_pgbouncer(dsn: str) -> tuple[str, bool]:
    """Take `pgbouncer=…` out of a DSN, which the drivers do not know, and return whether it was `true`."""
    address, _, query = dsn.partition("?")
    parameters = query.split("&") if query else []
    kept = [parameter for parameter in parameters if not parameter.startswith("pgbouncer=")]
    return "?".join([address, *filter(None, ["&".join(kept)])]), "pgbouncer=true" in parameters
