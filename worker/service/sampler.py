"""What the queue looks like, looked at now and then for whoever shows it: metrics, systemd's status line."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import anyio

from worker.pipeline.ports import StoreError

EVERY_SECONDS = 15.0

log = logging.getLogger("worker.sampler")


class Queue(Protocol):
    """What the sampler needs of a store."""

    async def sample_queue(self) -> dict[str, Any]:
        """Return the fields of a `Sample` that are the queue's. May raise StoreError."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The queue at one moment, and what this process delivered since the one before.

    What it costs the database has a bound, so large numbers are estimates (`sql/functions/260_sample.sql` says which).
    """

    deliveries: Mapping[str, int]
    """By state: pending, held, in_flight, dead."""
    endpoints: Sequence[tuple[str, str, int]]
    """State, circuit, and how many."""
    oldest_due_seconds: float
    """How long the oldest delivery has been due that no limit and no circuit holds back; 0 if nothing is due."""
    dead_rows: Mapping[str, int]
    """By hot table."""
    oldest_snapshot_seconds: float
    oldest_snapshot_transactions: int
    delivered_per_second: float
    """By this process."""


class Sampler:
    """Keeps the latest sample. Whoever wants it runs it."""

    def __init__(self, queue: Queue, delivered: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self.latest: Sample | None = None
        """None before the first, and while the database is away."""
        self._queue, self._delivered, self._clock = queue, delivered, clock
        self._before = (clock(), delivered())
        self._failed = False

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await anyio.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """Take one sample."""
        try:
            self.latest = self._sample(await self._queue.sample_queue())
            self._failed = False
        except StoreError as error:
            self.latest = None
            if not self._failed:
                log.warning("the queue cannot be looked at, its numbers are unknown for now: %s", error)
            self._failed = True

    def _sample(self, queue: dict[str, Any]) -> Sample:
        (then, before), (now, delivered) = self._before, (self._clock(), self._delivered())
        self._before = now, delivered
        return Sample(
            queue["deliveries"],
            [(state, circuit, count) for state, circuit, count in queue["endpoints"]],
            queue["oldest_due_seconds"],
            queue["dead_rows"],
            queue["oldest_snapshot_seconds"],
            queue["oldest_snapshot_transactions"],
            (delivered - before) / max(now - then, 1e-9),
        )
