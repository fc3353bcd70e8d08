"""Calls of `webhook.enqueue` and `webhook.enqueue_many`, for a producer's own connection to make in its own transaction.

    connection.execute(*enqueue("order.created", {"order": 17}, tenant="acme"))              # psycopg; a cursor of Django's
    await connection.execute(*enqueue("order.created", {"order": 17}).numbered())            # asyncpg
    sql, parameters = enqueue("order.created", {"order": 17}).named()                        # SQLAlchemy:
    session.execute(text(sql), parameters)

Nothing here talks to a database, so there is no transaction but the caller's. And nothing of the worker is imported, nor a
driver: an application that does not want the worker's dependencies may copy this file.
"""

import json
from collections.abc import Iterable
from datetime import date, datetime
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

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

    `payload` is sent as it is if it is a `str`. Anything else is written as JSON in UTF-8: dicts with `str` keys, lists,
    tuples, texts, numbers, booleans and None, and as texts dates, datetimes and UUIDs.

    Raises:
        TypeError: there is something else in the payload.
        ValueError: it has NaN, an infinity, itself, or half of a surrogate pair in it; or `deliver_at` has no time zone.
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
    text: str = payload
    if not isinstance(payload, str):
        text = _JSON.encode(payload)
        _check_keys([payload])
    if not text.isascii():
        text.encode()  # it names the half of a surrogate pair, which no driver can send
    return text


def _scalar(value: object) -> str:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_JSON = json.JSONEncoder(default=_scalar, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _check_keys(values: Iterable[Any]) -> None:
    """Raise unless all keys in these values are texts: `json` would make "1" of 1, beside a "1" that is there already."""
    for value in values:
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(f"keys of a payload must be str, not {type(key).__name__}: {key!r}")
            _check_keys(value.values())
        elif isinstance(value, (list, tuple)):
            _check_keys(value)


def _moment(deliver_at: datetime | None) -> str | None:
    if deliver_at is None:
        return None
    if deliver_at.utcoffset() is None:
        raise ValueError(f"deliver_at has no time zone: {deliver_at!r}. Use an aware one, as datetime.now(UTC)")
    return deliver_at.isoformat()
