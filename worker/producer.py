"""Calls of `webhook.enqueue` and `webhook.enqueue_many`, for a producer's own connection to make in its own transaction.

    connection.execute(*enqueue("order.created", {"order": 17}, tenant="acme"))              # psycopg; a cursor of Django's
    await connection.execute(*enqueue("order.created", {"order": 17}).numbered())            # asyncpg
    sql, parameters = enqueue("order.created", {"order": 17}).named()                        # SQLAlchemy:
    session.execute(text(sql), parameters)

Nothing here talks to a database, so there is no transaction but the caller's. And nothing of the worker is imported, nor a
driver: an application that does not want the worker's dependencies may copy this file.
"""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

try:
    import orjson
except ImportError:
    import json

    def _dumps(value: Any) -> str:
        def written(value: object) -> str:
            if isinstance(value, date):
                return value.isoformat()
            if isinstance(value, UUID):
                return str(value)
            raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")

        return json.dumps(value, default=written, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
else:

    def _dumps(value: Any) -> str:
        return orjson.dumps(value).decode()


# Drivers guess the types of parameters differently, and one of three functions is meant: so each parameter is text, and cast.
_ENQUEUE: LiteralString = (
    "select webhook.enqueue(cast(%(event_type)s as text), cast(%(payload)s as text), tenant => cast(%(tenant)s as text),"
    " idempotency_key => cast(%(idempotency_key)s as text),"
    " deliver_at => coalesce(cast(cast(%(deliver_at)s as text) as timestamptz), now()))"
)
_ENQUEUE_MANY: LiteralString = (
    "select webhook.enqueue_many(cast(%(event_types)s as text[]), cast(%(payloads)s as text[]),"
    " tenant => cast(%(tenant)s as text), idempotency_keys => cast(%(idempotency_keys)s as text[]),"
    " deliver_at => coalesce(cast(cast(%(deliver_at)s as text) as timestamptz), now()))"
)


class Statement(NamedTuple):
    """A call as SQL and its parameters: what DB-API names `pyformat`, and psycopg and Django take as it is."""

    sql: LiteralString
    parameters: dict[str, Any]

    def numbered(self) -> tuple[str, *tuple[Any, ...]]:
        """Return the SQL with `$1`, `$2`, …, followed by as many values: for asyncpg."""
        places = {name: f"${number}" for number, name in enumerate(self.parameters, 1)}
        return (self.sql % places, *self.parameters.values())

    def named(self) -> tuple[str, dict[str, Any]]:
        """Return the SQL with `:event_type` and so on, and the parameters: for SQLAlchemy's `text`, over any driver."""
        return self.sql % {name: f":{name}" for name in self.parameters}, self.parameters


class Event(NamedTuple):
    """One of `enqueue_many`."""

    event_type: str
    payload: Any
    idempotency_key: str | None = None


def enqueue(
    event_type: str, payload: Any, *, tenant: str = "", idempotency_key: str | None = None, deliver_at: datetime | None = None
) -> Statement:
    """Return the call that queues one event, and gives one row with its id.

    `payload` is sent as it is if it is a `str`. Anything else is written as JSON in UTF-8, by orjson where it is installed:
    dicts with `str` keys, lists, texts, numbers, booleans and None, and as texts dates, datetimes and UUIDs.

    Raises:
        TypeError: the payload cannot be written as JSON.
        ValueError: `deliver_at` has no time zone.
    """
    parameters = {
        "event_type": event_type,
        "payload": _text(payload),
        "tenant": tenant,
        "idempotency_key": idempotency_key,
        "deliver_at": _moment(deliver_at),
    }
    return Statement(_ENQUEUE, parameters)


def enqueue_many(events: Iterable[Event], *, tenant: str = "", deliver_at: datetime | None = None) -> Statement:
    """Return the call that queues many events of one tenant, and gives their ids as rows, in the order of `events`.

    Payloads and errors are those of `enqueue`.
    """
    events = list(events)
    keys = [event.idempotency_key for event in events]
    parameters = {
        "event_types": [event.event_type for event in events],
        "payloads": [_text(event.payload) for event in events],
        "tenant": tenant,
        "idempotency_keys": keys if any(key is not None for key in keys) else None,
        "deliver_at": _moment(deliver_at),
    }
    return Statement(_ENQUEUE_MANY, parameters)


def _text(payload: Any) -> str:
    return payload if isinstance(payload, str) else _dumps(payload)


def _moment(deliver_at: datetime | None) -> str | None:
    if deliver_at is None:
        return None
    if deliver_at.utcoffset() is None:
        raise ValueError(f"deliver_at has no time zone: {deliver_at!r}. Use an aware one, as datetime.now(UTC)")
    return deliver_at.isoformat()
