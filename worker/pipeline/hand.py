"""How much a worker holds at once: a delivery that waits here waits behind what came before it, and nobody else can send it."""

from collections.abc import Callable

from worker.pipeline.limits import Limits

MEASURE_SECONDS = 0.25
STARVED_TIMES = 2


class Hand:
    """Bounds what is claimed: what the lanes carry, and ahead of them what they will be through with in a moment.

    So what has just become due waits no longer than that moment behind what was claimed before, however slow the receivers.
    Lanes that ran dry while more was due could carry more than they were given, nobody knows how much: twice that is tried.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits, self._clock = limits, clock
        self._ended, self._since, self._per_second = 0, clock(), 0.0
        self._starved = False

    def ended(self) -> None:
        """Count one delivery that a lane is through with."""
        self._ended += 1

    def starved(self) -> None:
        """Say that the lanes ran dry before a claim that had more to give."""
        self._starved = True

    @property
    def ahead(self) -> int:
        """How many deliveries more than there are lanes the worker should hold now: the work of a moment."""
        now = self._clock()
        if now - self._since >= MEASURE_SECONDS:
            self._per_second = self._ended / (now - self._since) * (STARVED_TIMES if self._starved else 1)
            self._ended, self._since, self._starved = 0, now, False
        return max(self.limits.ahead_min, int(self._per_second * self.limits.ahead_seconds))

    @property
    def size(self) -> int:
        """How many deliveries the worker should hold now, planned and parked ones apart."""
        return min(self.limits.claimed_max, self.limits.concurrency + self.ahead)
