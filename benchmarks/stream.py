"""A producer at a steady, gentle rate, whose events say when they were sent."""

import itertools
import random
import time
from collections.abc import Sequence

import anyio

from worker.store.database import connect


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
