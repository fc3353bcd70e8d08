"""What the hot path counts for whoever shows it: plain numbers, added up a batch of outcomes at a time, or not at all."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from worker.core.clock import DatabaseClock
from worker.core.model import Outcome

CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ATTEMPT_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0)
WAIT_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0)


class Histogram:
    """Counts of values by upper bounds, which belong to their buckets; the last count is of what is above all of them."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Tally:
    """How attempts ended and how long everything took, since the process started. All times in seconds."""

    def __init__(self) -> None:
        self.clock = DatabaseClock()
        """The pipeline's: it says when things were due."""
        self.attempts = {("ok", 2): 0}
        """By outcome and the status's first digit, 0 without a status."""
        self.durations = Histogram(ATTEMPT_SECONDS)
        """Of attempts."""
        self.lags = Histogram(WAIT_SECONDS)
        """From when an attempt was planned, or else its delivery due, until it began."""
        self.latencies = Histogram(WAIT_SECONDS)
        """From when a delivery was first due until it was delivered; after a retry, from when its event was enqueued."""
        self.claims = Histogram(CALL_SECONDS)
        self.records = Histogram(CALL_SECONDS)
        self.each: Callable[[Outcome], None] | None = None
        """Who else wants to see each attempt."""

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Count these outcomes; what was given back unsent is no attempt."""
        offset, attempts, each = self.clock.unix(0.0), self.attempts, self.each
        for outcome in outcomes:
            decision, delivery = outcome.decision, outcome.delivery
            if decision.disposition == "released":
                continue
            status = outcome.exchange.status
            key = decision.outcome, 0 if status is None else status // 100
            attempts[key] = attempts.get(key, 0) + 1
            duration, started = outcome.duration_seconds, outcome.started + offset
            self.durations.add(duration)
            due_at, created_at = delivery.due_at, delivery.created_at
            if due_at is not None and created_at is not None:
                self.lags.add(max(0.0, started - (due_at if delivery.send_at is None else delivery.send_at)))
                if decision.disposition == "delivered":
                    self.latencies.add(max(0.0, started + duration - (due_at if delivery.attempt == 1 else created_at)))
            if each is not None:
                each(outcome)
