"""Producers at a steady rate, whose events say when they were sent: one that is gentle, and one in a process of its own.

    python -m benchmarks.stream DSN EVENTS_PER_SECOND SECONDS ENDPOINTS

supplies numbered kilobytes in small batches, and then prints how many.
"""

import itertools
import random
import sys
import time
from collections.abc import Sequence

import anyio

from worker.store.database import Database, connect

PAYLOAD_BYTES = 1024
SLOT_SECONDS = 0.02


async def steady_stream(
    dsn: str, event_types: Sequence[str], per_second: float, sent: list[float], stop: anyio.Event, *, tenant: str = ""
) -> None:
    """Enqueue events of these types in turn, each in a transaction of its own, until `stop`; note in `sent` when.

    That is in monotonic seconds and just before the statement, so what is measured from it includes enqueue and commit.
    Each event has a random place in its slot, so that the stream never falls into step with the workers' polls. It does
    not wait for a late event: those after it keep their slots.
    """
    chance = random.Random(5)
    database = connect(dsn)
    try:
        await database.value("select 1")
        started = time.monotonic()
        for n in itertools.count():
            await anyio.sleep(max(0.0, started + (n + chance.random()) / per_second - time.monotonic()))
            if stop.is_set():
                return
            sent.append(time.monotonic())
            await database.value(
                "select webhook.enqueue($1::text, $2::text, $3::text)",
                event_types[n % len(event_types)],
                f'{{"sent": {sent[-1]!r}}}',
                tenant,
            )
    finally:
        await database.close()


async def enqueue_numbered(database: Database, numbers: range, endpoints: int) -> None:
    """Enqueue events of 1 KiB that say their number and the moment, for the types `t0`, `t1`, … in turn."""
    head = f', "sent": {time.monotonic()!r}, "x": "'
    await database.value(
        "select count(*) from webhook.enqueue_many($1::text[], $2::text[])",
        [f"t{number % endpoints}" for number in numbers],
        [f'{{"n": {number}{head}'.ljust(PAYLOAD_BYTES - 2, "x") + '"}' for number in numbers],
    )


async def paced_supply(dsn: str, per_second: float, seconds: float, endpoints: int) -> int:
    """Enqueue what each slot of 20 ms brings in a transaction; return how many. What is late is made up for."""
    database = connect(dsn)
    try:
        await database.value("select 1")
        started, done = time.monotonic(), 0
        for slot in range(1, round(seconds / SLOT_SECONDS) + 1):
            await anyio.sleep(max(0.0, started + slot * SLOT_SECONDS - time.monotonic()))
            due = int(slot * SLOT_SECONDS * per_second)
            if due > done:
                await enqueue_numbered(database, range(done, due), endpoints)
            done = due
    finally:
        await database.close()
    return done


if __name__ == "__main__":
    print(anyio.run(paced_supply, sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
