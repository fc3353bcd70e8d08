"""Whether `dev` may have a database, and its schema there."""

import os
import socket
from contextlib import suppress

from worker.dev.keeper import ACTOR
from worker.store.database import Database, Row
from worker.store.migrate import migrate_up, read_schema
from worker.store.sql import statements

NAMED_MAX = 5
"""How many of those who are in the way a message names."""

_ELSEWHERE = (
    "Without --database-url and DATABASE_URL, `dev` brings a database of its own; `webhook-worker listen` passes this one's "
    "events to you"
)


class CannotDevelopError(RuntimeError):
    """It cannot begin. The text says why, and what to do."""


async def prepare(database: Database, *, is_own: bool) -> None:
    """Bring the schema, if `dev` made this database (`is_own`) or there is none. Raises CannotDevelopError, or StoreError.

    What others deliver from is not for trying things out: neither where a worker is, nor where endpoints are enabled that were
    there before `dev` ever was.
    """
    if is_own or not await database.value(statements()["migrate_exists"]):
        await migrate_up(database)
        return
    await read_schema(database)
    workers = await database.rows(statements()["workers"], None)
    if present := [f"{row['name']} on {row['host']}" for row in workers if row["state"] != "silent" and not _has_ended(row)]:
        raise CannotDevelopError(f"from this database delivers {_named(present)}: end it. {_ELSEWHERE}")
    endpoints = await database.rows(statements()["dev_before"], ACTOR)
    if before := [str(row["id"]) for row in endpoints]:
        raise CannotDevelopError(
            f"this database has endpoints that are enabled, and not `dev`'s: {_named(before)}; events would go to them without "
            f"guard rails. {_ELSEWHERE}; if it is for trying things out, `webhook-worker endpoints disable ID` first"
        )


def _has_ended(worker: Row) -> bool:
    """Whether a worker of this machine was killed: it is listed for half a minute more."""
    if worker["host"] != socket.gethostname():
        return False
    if worker["pid"] == os.getpid():  # in a container, each has the same
        return True
    try:
        with suppress(PermissionError):  # somebody else's
            os.kill(worker["pid"], 0)
    except ProcessLookupError:
        return True
    return False


def _named(names: list[str]) -> str:
    rest = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {rest} more" if rest > 0 else "")
