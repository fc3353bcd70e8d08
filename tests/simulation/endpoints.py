"""What holds for an endpoint: its cap, its circuit's one probe, who holds or quiets it, and its rate."""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from history import Granted, Operated, Told
from scenario import EndpointPlan
from violation import demand

from worker.core.audit import TOLERANCE_SECONDS, worst_excess

PLANNED_AHEAD_SECONDS = 0.6
"""A limit that was lowered does not recall what is planned already: half a second, and the way to the socket."""

IN_HAND_SECONDS = 40.0
"""Nor does one that is new recall what workers have in hand without a plan, until their leases end; it is charged with it."""


class Rate(NamedTuple):
    """A limit, from when on it is in force, and how many were in flight then."""

    since: float
    per_second: float | None
    in_flight: int = 0


@dataclass(slots=True)
class EndpointModel:
    """One endpoint, as producers and operators know it. Times of the database, but for `sent` and `rates`."""

    plan: EndpointPlan
    cap: int
    rates: list[Rate]
    held: bool = False
    quiet_until: float = -math.inf
    in_flight: int = 0
    probes: set[tuple[int, int]] = field(default_factory=set)
    """Claim and delivery of the probes that are out."""
    sent: list[float] = field(default_factory=list)

    def granted(self, entry: Granted, what: str) -> bool:
        """Take a claim of one of its deliveries; say whether it is a probe."""
        self.in_flight += 1
        demand(self.in_flight <= self.cap, "P4", f"{what}: {self.in_flight} in flight, {self.cap} are allowed")
        demand(not self.held, "P7", f"{what}, though an operator or its receiver has it held")
        demand(entry.database_now >= self.quiet_until, "P4", f"{what}, {self.quiet_until - entry.database_now:.1f} s too early")
        if entry.circuit == "closed":
            return False
        demand(entry.circuit == "open" and not self.probes, "P5", f"{what}, whose circuit is {entry.circuit}, beside another")
        self.probes.add((entry.claim, entry.delivery))
        return True

    def released(self, claim: int, delivery: int) -> None:
        """One of its deliveries is no longer in flight."""
        self.in_flight -= 1
        self.probes.discard((claim, delivery))

    def told(self, entry: Told) -> None:
        """An outcome of one of its deliveries was recorded."""
        if entry.hold_seconds is not None:
            self.quiet_until = max(self.quiet_until, entry.database_now + entry.hold_seconds)
        self.held = self.held or entry.disables

    def operated(self, entry: Operated) -> None:
        """Somebody changed it."""
        if entry.verb in ("pause", "disable"):
            self.held = True
        elif entry.verb in ("resume", "enable"):
            self.held = False
        elif entry.verb == "cap":
            self.cap = int(entry.value or 1)
        elif entry.verb == "rate":
            self.rates.append(Rate(entry.at, entry.value, self.in_flight))
        if entry.verb == "enable":  # somebody has looked: it begins anew
            self.quiet_until = -math.inf
            self.probes.clear()

    def rate_was_kept(self, breaks: list[float], end: float) -> None:
        """Look at all windows in which one rate was in force; not over a step of the database's clock (`breaks`)."""
        moments = sorted([rate.since for rate in self.rates] + breaks + [end + 1])
        for since, until in pairwise(moments):
            before, now = ([Rate(0, None)] + [rate for rate in self.rates if rate.since <= since])[-2:]
            if (rate := now.per_second) is None:
                continue
            begins = since
            if since and before.per_second is not None:
                begins += PLANNED_AHEAD_SECONDS
            elif since:
                begins += IN_HAND_SECONDS
                if since == now.since:
                    self._first_rate_was_charged(since, until, rate, now.in_flight)
            excess = worst_excess([at for at in self.sent if begins <= at < until], rate, self.plan.burst)
            demand(excess <= 0, "P4", f"endpoint {self.plan.number} got {excess:.2f} requests more than {rate}/s allow")

    def _first_rate_was_charged(self, since: float, until: float, rate: float, in_flight: int) -> None:
        """What was in flight goes out at any time; what is planned then waits until that would have been allowed."""
        for count, at in enumerate((at for at in self.sent if since <= at < until), start=1):
            allowed = max(in_flight, rate * (at - since + TOLERANCE_SECONDS) + self.plan.burst)
            demand(count <= allowed, "P4", f"endpoint {self.plan.number} got {count} requests since its first rate of {rate}/s")
