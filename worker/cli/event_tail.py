"""Events as they are committed, for somebody who only reads."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from worker.core.message import message_id
from worker.core.tail import MISSING_MAX, Tail
from worker.store.codec import dumps, loads
from worker.store.database import Database
from worker.store.sql import statements

ROWS_MAX = 1000
"""Of one look."""


class Event(NamedTuple):
    """An event as the statement `events_tail` has it, and its webhook-id."""

    id: int
    event_type: str
    tenant: str
    content_type: str
    payload: str
    trace: str | None
    webhook_id: str


class EventTail:
    """Follows the events of a tenant (None: all) that an endpoint for these `patterns` would get."""

    def __init__(self, tenant: str | None, patterns: Sequence[str]) -> None:
        self._tenant, self._patterns = tenant, patterns
        self._tail: Tail | None = None
        self._prefix = ""

    async def look(self, database: Database) -> list[Event] | None:
        """Return what was committed since the look before. The first finds out what was there already, and returns None."""
        if self._tail is None:
            (row,) = await database.rows(statements()["events_newest"])
            tail = Tail(max(row["newest"] - MISSING_MAX, 0))
            await self._read(database, tail, [])
            self._tail, self._prefix = tail, row["message_id_prefix"]
            return None
        found = await self._read(database, self._tail, self._patterns)
        return [Event._make((*row, message_id(self._prefix, row[0]))) for row in found if len(row) > 1]

    async def _read(self, database: Database, tail: Tail, patterns: Sequence[str]) -> list[list[Any]]:
        missing = ",".join(map(str, tail.missing))
        text = await database.value(
            statements()["events_tail"], tail.newest, missing, self._tenant, dumps(list(patterns)), ROWS_MAX
        )
        found: list[list[Any]] = loads(text)
        tail.read((row[0] for row in found), time.monotonic())
        return found
