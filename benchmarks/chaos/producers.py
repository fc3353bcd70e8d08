"""A producer that writes down what it does, before and after each commit.

    python -m benchmarks.chaos.producers NUMBER EVENTS_A_SECOND SECONDS LOG

`DATABASE_URL` names the database; it is reached as any producer may, with asyncpg and nothing of ours. Some transactions are
rolled back. Half of the others carry an idempotency key for each of their events: when the reply to the commit is lost, they do
it all again until they know. The others then do not know.

A line of the log is a JSON object: first `{"fate": "unknown", "events": [[digest, type], …]}`, and at the transaction's end
`{"fate": …, "events": [[digest, type, id], …]}` for the same events.
"""

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import anyio
import asyncpg

from benchmarks.chaos.endpoints import SHARES, VOID, VOID_EVENTS
from benchmarks.chaos.evidence import Fate

TRANSACTION_EVENTS_MAX = 5
ROLLED_BACK = 0.1
WITH_KEYS = 0.5
BODY_CHARACTERS_MAX = 2000
AGAIN_SECONDS = 0.2
ENQUEUE = "select webhook.enqueue($1::text, $2::text, idempotency_key => $3::text)"
CONNECT_SECONDS_MAX, QUERY_SECONDS_MAX = 5.0, 10.0
FAILURES = (OSError, EOFError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
KNOWING_SECONDS_MAX = 60.0
"""How long a producer with keys tries to learn what became of them, beyond the end if need be."""


class Event(NamedTuple):
    """What is enqueued."""

    event_type: str
    payload: str
    key: str | None

    @property
    def digest(self) -> str:
        """By which it is known everywhere."""
        return hashlib.sha256(self.payload.encode()).hexdigest()


class RollBackError(Exception):
    """This transaction is not to be committed."""


class Connection:
    """A connection that is made again when it is gone."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._open: asyncpg.Connection[asyncpg.Record] | None = None

    async def transaction(self, events: list[Event], *, roll_back: bool) -> tuple[Fate, list[int]]:
        """Enqueue some events, and return what is known of that."""
        ids: list[int] = []
        committing = False
        try:
            if self._open is None or self._open.is_closed():
                self._open = await asyncpg.connect(self._dsn, timeout=CONNECT_SECONDS_MAX)
            async with self._open.transaction():
                ids = [await self._open.fetchval(ENQUEUE, *event, timeout=QUERY_SECONDS_MAX) for event in events]
                if roll_back:
                    raise RollBackError
                committing = True
        except (RollBackError, *FAILURES):
            return ("unknown" if committing else "rolled back"), []
        return "committed", ids

    def close(self) -> None:
        """Close it at once."""
        if self._open is not None:
            self._open.terminate()


async def produce(dsn: str, number: int, per_second: float, seconds: float, log: IO[str]) -> None:
    """Enqueue at a steady pace; after an outage, do not catch up."""
    chance = random.Random(number)
    connection = Connection(dsn)
    void = VOID_EVENTS if number == 0 else 0
    until, made = time.monotonic() + seconds, 0
    try:
        while time.monotonic() < until:
            started = time.monotonic()
            many = chance.randint(1, TRANSACTION_EVENTS_MAX)
            keyed = chance.random() < WITH_KEYS
            types = chance.choices(list(SHARES), list(SHARES.values()), k=many)
            if void:
                types, void = [VOID], void - 1
            events = [_event(number, made + n, name, chance, keyed=keyed) for n, name in enumerate(types)]
            made += many
            await carry_out(connection, events, log, roll_back=chance.random() < ROLLED_BACK and types != [VOID])
            await anyio.sleep(max(0.0, started + many / per_second - time.monotonic()))
    finally:
        connection.close()


def _event(number: int, n: int, event_type: str, chance: random.Random, *, keyed: bool) -> Event:
    said = "".join(chance.choices('abc ✓é\\"\n', k=chance.randint(0, BODY_CHARACTERS_MAX)))
    payload = json.dumps({"producer": number, "n": n, "said": said}, ensure_ascii=chance.random() < 0.5)
    return Event(event_type, payload, f"{number}-{n}" if keyed else None)


async def carry_out(connection: Connection, events: list[Event], log: IO[str], *, roll_back: bool) -> None:
    """Make one transaction, and write down what is known of it."""
    _write(log, "unknown", events)
    insists = events[0].key is not None and not roll_back
    deadline = time.monotonic() + KNOWING_SECONDS_MAX
    while True:
        fate, ids = await connection.transaction(events, roll_back=roll_back)
        if fate == "committed" or not insists:
            break
        if time.monotonic() > deadline:
            fate = "unknown"  # an earlier commit may have gone through
            break
        await anyio.sleep(AGAIN_SECONDS)
    _write(log, fate, events, ids)


def _write(log: IO[str], fate: Fate, events: list[Event], ids: Sequence[int] = ()) -> None:
    told = [[event.digest, event.event_type, *ids[n : n + 1]] for n, event in enumerate(events)]
    log.write(json.dumps({"fate": fate, "events": told}) + "\n")
    log.flush()


def main() -> None:
    """Run one producer."""
    number, per_second, seconds, log = sys.argv[1:]
    with Path(log).open("a") as file:
        anyio.run(produce, os.environ["DATABASE_URL"], int(number), float(per_second), float(seconds), file)


if __name__ == "__main__":
    main()
