"""Attempts by endpoint, for the busiest few by name: labels are dear, and endpoints are many."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from worker.core.model import Outcome

LOOK_SECONDS = 60.0
SEEN_MAX = 10_000
"""How many endpoints without a name are told apart at a time."""

OK, FAILED = "ok", "failed"


@dataclass(slots=True)
class Totals:
    """Of one endpoint, or of all others together: attempts and their seconds, by result."""

    tenant: str = ""
    attempts: dict[str, int] = field(default_factory=lambda: {OK: 0, FAILED: 0})
    seconds: dict[str, float] = field(default_factory=lambda: {OK: 0.0, FAILED: 0.0})
    lately: int = 0
    """Attempts since the last look."""


class TopEndpoints:
    """Counts attempts of up to `count` endpoints by name, and all others' together.

    A name is kept while its endpoint is among the busiest; what somebody had before he got a name stays with the others', so
    that every series only grows, and ends when another takes its place.
    """

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._clock = count, clock
        self._named: dict[int, Totals] = {}
        self._others = Totals()
        self._seen: dict[int, tuple[int, str]] = {}
        """Those without a name: attempts since the last look, and the tenant."""
        self._look_at = clock()

    def add(self, outcome: Outcome) -> None:
        """Count one attempt."""
        endpoint = outcome.delivery.endpoint
        totals = self._named.get(endpoint.id)
        if totals is None:
            totals = self._others
            if endpoint.id in self._seen or len(self._seen) < SEEN_MAX:
                self._seen[endpoint.id] = self._seen.get(endpoint.id, (0, ""))[0] + 1, endpoint.tenant
        result = OK if outcome.decision.disposition == "delivered" else FAILED
        totals.attempts[result] += 1
        totals.seconds[result] += outcome.duration_seconds
        totals.lately += 1

    def totals(self) -> Iterator[tuple[str, Totals]]:
        """Give each name, or "other", with its totals. Names are given anew once a minute at most."""
        if self._clock() >= self._look_at and self._seen:
            self._name()
        yield from ((str(endpoint), totals) for endpoint, totals in self._named.items())
        yield "other", self._others

    def _name(self) -> None:
        """Give the names to those who were busiest since the last look; among equals who has a name keeps it."""
        lately = [(totals.lately, True, endpoint) for endpoint, totals in self._named.items()]
        lately += [(attempts, False, endpoint) for endpoint, (attempts, _) in self._seen.items()]
        top = [endpoint for _, _, endpoint in sorted(lately, reverse=True)[: self._count]]
        self._named = {
            endpoint: self._named[endpoint] if endpoint in self._named else Totals(self._seen[endpoint][1]) for endpoint in top
        }
        for totals in self._named.values():
            totals.lately = 0
        self._seen.clear()
        self._look_at = self._clock() + LOOK_SECONDS
