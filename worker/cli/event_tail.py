"""Events as they are committed, for somebody who only reads."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from worker.core.message import message_id
from worker.core.tail import GAPS_MAX, LAST_ID, Snapshot, Tail
from worker.store.codec import dumps, loads
from worker.store.database import Database
from worker.store.sql import statements

ROWS_MAX = 1000
BYTES_MAX = 8_000_000
"""Of one look: so many bytes of payloads, and at most one payload more."""

GAPS_EVERY_SECONDS = 1.0
"""A gap costs a look-up in each partition."""


class CommittedEvent(NamedTuple):
    """An event, and its webhook-id. It was created when its transaction began."""

    id: int
    created_at: datetime
    event_type: str
    tenant: str
    content_type: str
    payload: str
    trace: str | None
    webhook_id: str


class Look(NamedTuple):
    """What was committed since the look before, oldest first; whether there is more; and what tells databases apart."""

    events: list[CommittedEvent]
    is_cut: bool
    message_id_prefix: str


class EventTail:
    """Follows the events of a tenant (None: all) that an endpoint for these `patterns` would get."""

    def __init__(self, tenant: str | None, patterns: Sequence[str]) -> None:
        self._tenant, self._patterns = tenant, patterns
        self._tail: Tail | None = None
        self._prefix = ""
        self._gaps_due = 0.0

    async def look(self, database: Database) -> Look:
        """Look once. The first time, and where the database was made anew, find out what there is, and return no events."""
        if self._tail is not None:
            found = await self._read(database, self._tail, self._patterns)
            if found["message_id_prefix"] == self._prefix:
                events = [_event(row, self._prefix) for row in found["events"] if len(row) > 1]
                return Look(events, found["through"] is not None, self._prefix)
        tail = Tail(await database.value(statements()["events_before"], GAPS_MAX))
        found = await self._read(database, tail, [])
        self._tail, self._prefix = tail, found["message_id_prefix"]
        return Look([], False, self._prefix)

    async def _read(self, database: Database, tail: Tail, patterns: Sequence[str]) -> dict[str, Any]:
        now = time.monotonic()
        gaps = tail.gaps if now >= self._gaps_due else []
        text = await database.value(
            statements()["events_tail"], dumps([*gaps, tail.to_come]), self._tenant, dumps(list(patterns)), ROWS_MAX, BYTES_MAX
        )
        found: dict[str, Any] = loads(text)
        through: int | None = found["through"]
        if gaps and through is None:
            self._gaps_due = now + GAPS_EVERY_SECONDS
        snapshot = Snapshot(found["xmin"], found["xmax"])
        tail.read((row[0] for row in found["events"]), snapshot, (through or LAST_ID) if gaps else 0)
        return found


def _event(row: Sequence[Any], prefix: str) -> CommittedEvent:
    return CommittedEvent._make((row[0], datetime.fromisoformat(row[1]), *row[2:], message_id(prefix, row[0])))
