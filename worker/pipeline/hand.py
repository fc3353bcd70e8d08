"""How much a worker holds at once: a delivery that waits here waits behind what came before it, and nobody else can send it."""

from collections.abc import Callable

from worker.pipeline.limits import Limits

MEASURE_SECONDS = 0.25


class Hand:
    """Bounds what is claimed: what the lanes carry, and ahead of them what they will be through with in a moment.

    So what has just become due waits no longer than that moment behind what was claimed before, however slow the receivers.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits, self._clock = limits, clock
        self._carried, self._lane_seconds = 0, 0.0
        self._since, self._per_second = clock(), 0.0

    def carried(self, seconds: float) -> None:
        """Count one delivery that a lane is through with, after so long."""
        self._carried += 1
        self._lane_seconds += seconds

    @property
    def ahead(self) -> int:
        """How many deliveries more than there are lanes the worker should hold now: the work of a moment."""
        now = self._clock()
        if now - self._since >= MEASURE_SECONDS:
            # What the lanes could do if all were busy (Little's law): what they did says little while they wait for claims.
            busy = self._lane_seconds / self._limits.concurrency
            self._per_second = self._carried / min(now - self._since, max(busy, 1e-6))
            self._carried, self._lane_seconds, self._since = 0, 0.0, now
        return max(self._limits.ahead_min, int(self._per_second * self._limits.ahead_seconds))

    @property
    def size(self) -> int:
        """How many deliveries the worker should hold now, planned and parked ones apart."""
        return min(self._limits.claimed_max, self._limits.concurrency + self.ahead)
