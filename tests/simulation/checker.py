"""The promises P1 to P7 (docs/guarantees.md), judged by the history alone: it keeps a model of its own and asks nobody."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from history import (
    Answered,
    Changed,
    Committed,
    Disturbed,
    Ended,
    Entry,
    Extended,
    Failed,
    Faulty,
    Granted,
    Operated,
    Reached,
    TakenBack,
    Told,
    Written,
)
from scenario import Scenario

from worker.core.audit import worst_excess

ENDED = ("delivered", "dead")

PLANNED_AHEAD_SECONDS = 0.6
"""A limit that was lowered does not recall what is planned already: half a second, and the way to the socket."""

CUT_OFF_SECONDS = 15.0
"""A process that reached the database this long after a lease was granted or extended should have extended it again: it tries
when a third has passed, ten seconds."""

END_SECONDS_MAX = 3.0 + 5.0 + 3.0
"""A process that is asked to stop has time to finish and time to record, and may then be in a call."""

NOTICED_SECONDS = 3.0
"""With nothing wrong but other receivers, so long may a delivery wait beyond the deadlines of those that hang just now."""


class Violation(NamedTuple):
    """A promise that was broken, and how."""

    promise: str
    text: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.text}"


class BrokenError(Exception):
    """Raised inside the checker for the first violation."""


@dataclass(slots=True)
class Lease:
    """One delivery under one claim, as the database granted it."""

    process: str
    delivery: int
    attempt: int
    granted_at: float
    lease_until: float
    extended_at: float
    brought: bool = False
    """Whether the process knows of it."""
    taken_back: bool = False
    """Whether the process knows that it is no longer there."""
    written: int = 0
    answers: list[int | None] = field(default_factory=list)
    ended: str = ""
    """By what it ended; empty while it holds."""


@dataclass(slots=True)
class Of:
    """What is known of one delivery."""

    event: int
    endpoint: int
    state: str
    attempt: int
    made_at: float
    holder: int | None = None
    attempts_at_retry: int = 0
    written_attempts: dict[int, int] = field(default_factory=dict)
    """By attempt, the claim under which it was written."""
    received_at: float = math.inf
    forced_at: float = -math.inf


class Checker:
    """Fed with every entry as it happens; `finish` judges what only the whole history shows."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._plans = {plan.number: plan for plan in scenario.endpoints}
        self._committed: dict[int, Committed] = {}
        self._keys: dict[tuple[str, str], int] = {}
        self._telling: set[tuple[int, int]] = set()
        """What the record that is just looked at told of: claim and delivery."""
        self._reached_at: dict[str, list[float]] = defaultdict(list)
        self._queued: dict[tuple[int, int], int] = {}
        self._deliveries: dict[int, Of] = {}
        self._leases: dict[tuple[int, int], Lease] = {}
        self._failed_at: dict[str, float] = defaultdict(lambda: -math.inf)
        self._disturbed_at: dict[str, float] = defaultdict(lambda: -math.inf)
        self._in_flight: dict[int, int] = defaultdict(int)
        self._sent: dict[int, list[float]] = defaultdict(list)
        self._limits: dict[int, list[tuple[float, float | None]]] = {p.number: [(0.0, p.rate)] for p in scenario.endpoints}
        self._stepped_at: list[float] = []
        self._locked_until = -math.inf
        self._ended_well: set[str] = set()
        self._at = 0.0
        self.counts: dict[str, int] = defaultdict(int)
        """How often what the simulation is for has happened."""
        self._looks: dict[type[Entry], Callable[[Any], None]] = {
            Committed: self._committed_one,
            Granted: self._granted,
            Extended: self._extended,
            Written: self._written,
            Answered: self._answered,
            Told: self._told,
            Changed: self._changed,
            Disturbed: self._disturbed,
            Failed: self._failed,
            Reached: self._reached,
            TakenBack: self._taken_back,
            Operated: self._operated,
            Faulty: self._faulty,
            Ended: self._process_ended,
        }

    def look(self, entry: Entry) -> Violation | None:
        """Take one entry; return what it breaks."""
        self._at = entry.at
        if not isinstance(entry, Told | Changed):
            self._telling.clear()
        try:
            self._looks[type(entry)](entry)
        except BrokenError as error:
            return Violation(*error.args)
        return None

    def finish(self) -> Violation | None:
        """Judge the whole."""
        try:
            self._everything_arrived()
            self._limits_were_kept()
            if self._scenario.calm:
                self._nobody_waited_for_others()
        except BrokenError as error:
            return Violation(*error.args)
        return None

    # -- producers, and what is queued (P1) -----------------------------------------------------------------------------

    def _committed_one(self, entry: Committed) -> None:
        if entry.key is not None:
            first = self._keys.setdefault(entry.key, entry.event)
            _demand(first == entry.event, "P3", f"idempotency key {entry.key} made events {first} and {entry.event}")
        self._committed.setdefault(entry.event, entry)

    def _changed(self, entry: Changed) -> None:
        self.counts[f"{entry.by}: {entry.before} → {entry.after}"] += 1
        if entry.before == "none":
            self._made(entry)
            return
        of = self._deliveries[entry.delivery]
        what = f"delivery {entry.delivery} went from {entry.before} to {entry.after} by {entry.by}"
        _demand(entry.before not in ENDED or entry.by.startswith("retry"), "P7", what)
        if entry.before == "in_flight":
            self._released(entry, of)
        if entry.after == "in_flight":
            _demand(entry.by == "claim" and of.holder is not None, "P3", what)
        if entry.by.startswith("retry"):
            of.attempts_at_retry, of.forced_at = entry.attempt, entry.at
        if entry.after == "dead":
            spent, retries = entry.attempt - of.attempts_at_retry, len(self._plans[of.endpoint].retry_seconds)
            _demand(spent > retries, "P1", f"delivery {entry.delivery} is dead after {spent} attempts, with {retries} retries")
        of.state, of.attempt = entry.after, entry.attempt

    def _made(self, entry: Changed) -> None:
        event = self._committed.get(entry.event)
        _demand(
            event is not None and entry.endpoint in event.endpoints and entry.after == "pending",
            "P2", f"delivery {entry.delivery} of event {entry.event} for endpoint {entry.endpoint}, which nobody asked for",
        )  # fmt: skip
        twice = self._queued.setdefault((entry.event, entry.endpoint), entry.delivery) != entry.delivery
        _demand(not twice, "P3", f"event {entry.event} was queued twice for endpoint {entry.endpoint}")
        self._deliveries[entry.delivery] = Of(entry.event, entry.endpoint, entry.after, entry.attempt, entry.at)

    # -- leases and fences (P3) ------------------------------------------------------------------------------------------

    def _granted(self, entry: Granted) -> None:
        of = self._deliveries[entry.delivery]
        what = f"delivery {entry.delivery} was claimed by {entry.process} as claim {entry.claim}"
        _demand(of.state == "pending" and of.holder is None, "P3", f"{what}, though it was {of.state}")
        self._leases[entry.claim, entry.delivery] = Lease(
            entry.process, entry.delivery, entry.attempt, entry.at, entry.lease_until, entry.at
        )
        of.holder = entry.claim
        self._in_flight[of.endpoint] += 1
        in_flight = self._in_flight[of.endpoint]
        _demand(
            in_flight <= entry.max_in_flight,
            "P4",
            f"{in_flight} in flight of endpoint {of.endpoint}, {entry.max_in_flight} allowed",
        )
        if entry.circuit == "open":
            self.counts["probes"] += 1
        _demand(
            entry.circuit == "closed" or (entry.circuit == "open" and not self._probed(entry)),
            "P5", f"{what}, though the circuit of endpoint {of.endpoint} was {entry.circuit}",
        )  # fmt: skip

    def _probed(self, entry: Granted) -> bool:
        """Whether the same claim brought another one of an endpoint whose circuit is open."""
        same = [key for key, lease in self._leases.items() if key[0] == entry.claim and lease.granted_at == entry.at]
        return any(self._deliveries[id_].endpoint == entry.endpoint for _, id_ in same if id_ != entry.delivery)

    def _extended(self, entry: Extended) -> None:
        for (claim, _), lease in self._leases.items():
            if claim == entry.claim and not lease.ended:
                lease.lease_until, lease.extended_at = entry.lease_until, entry.at

    def _reached(self, entry: Reached) -> None:
        self._reached_at[entry.process].append(entry.at)
        for (claim, _), lease in self._leases.items():
            if claim == entry.claim:
                lease.brought = True

    def _taken_back(self, entry: TakenBack) -> None:
        for (claim, _), lease in self._leases.items():
            if claim == entry.claim:
                lease.taken_back = True

    def _released(self, entry: Changed, of: Of) -> None:
        """A delivery is no longer in flight: who may have said so?"""
        what = f"delivery {entry.delivery} went from in flight to {entry.after} by {entry.by}"
        _demand(of.holder is not None, "P3", f"{what}, but nobody held it")
        assert of.holder is not None
        lease_claim, of.holder = of.holder, None
        lease = self._leases[lease_claim, entry.delivery]
        lease.ended = entry.by
        self._in_flight[of.endpoint] -= 1
        if entry.by == "record":
            _demand((lease_claim, entry.delivery) in self._telling, "P3", f"{what} under a fence that no longer held")
            last = lease.answers[-1] if lease.answers else None
            well = last is not None and 200 <= last < 300
            _demand(
                (entry.after == "delivered") == well, "P3", f"{what}, and what {lease.process} knows of the answer is {last}"
            )
        elif entry.by == "reap":
            self.counts["leases expired"] += 1
            _demand(lease.lease_until < entry.database_now, "P3", f"{what} before its lease had ended")
            _demand(
                self._lost(lease, entry.at, entry.database_now),
                "P3",
                f"{what}, and nothing had kept {lease.process} from recording or extending it",
            )
        else:
            _demand(entry.by == "retry_forced", "P3", what)

    def _lost(self, lease: Lease, at: float, database_now: float) -> bool:
        """Whether a process had a reason to let a lease end: it was killed or frozen, never heard of it, or was cut off."""
        if self._disturbed_at[lease.process] >= lease.granted_at or not lease.brought:
            return True
        if lease.process in self._ended_well:
            return False
        end = at - (database_now - lease.lease_until)
        return not any(lease.extended_at + CUT_OFF_SECONDS <= reached < end for reached in self._reached_at[lease.process])

    def _told(self, entry: Told) -> None:
        """An outcome was brought; whether it counts shows in what changes. `changed` entries follow at once."""
        self._telling.add((entry.claim, entry.delivery))
        lease = self._leases[entry.claim, entry.delivery]
        if lease.ended:
            self.counts["fenced off"] += 1
        if entry.disposition == "released":
            _demand(
                lease.written == 0,
                "P3",
                f"delivery {entry.delivery} was given back as unsent by {entry.process}, but it was sent",
            )

    # -- what goes over the wire (P2, P3, P4) ------------------------------------------------------------------------------

    def _written(self, entry: Written) -> None:
        of, event = self._deliveries[entry.delivery], self._committed.get(entry.event)
        _demand(
            event is not None and entry.body == event.payload and entry.event == of.event and entry.endpoint == of.endpoint,
            "P2", f"what was sent as event {entry.event} to endpoint {entry.endpoint} was never enqueued",
        )  # fmt: skip
        _demand(entry.verified, "P2", f"the signature of delivery {entry.delivery} does not verify")
        lease = self._leases[entry.claim, entry.delivery]
        if entry.frozen:
            self.counts["written by a frozen process"] += 1
        else:
            self._sent[of.endpoint].append(entry.at)
            self._may_be_sent(entry, of, lease)
        lease.written += 1
        if entry.again:
            self.counts["written again"] += 1
            return
        first = of.written_attempts.setdefault(entry.attempt, entry.claim)
        _demand(
            first == entry.claim, "P3",
            f"delivery {entry.delivery} was sent as attempt {entry.attempt} under claim {first} and under claim {entry.claim}",
        )  # fmt: skip
        _demand(entry.attempt == lease.attempt, "P3", f"delivery {entry.delivery} was sent as attempt {entry.attempt}")

    def _may_be_sent(self, entry: Written, of: Of, lease: Lease) -> None:
        """Nobody writes without a lease; an operator's force is the one thing that a process cannot know of."""
        what = f"{entry.process} sent delivery {entry.delivery} under claim {entry.claim}"
        excused = of.forced_at >= lease.granted_at or any(at >= lease.granted_at for at in self._stepped_at)
        _demand(
            lease.lease_until > entry.database_now or excused,
            "P3", f"{what}, whose lease had ended {entry.database_now - lease.lease_until:.3f} s before",
        )  # fmt: skip
        _demand(not lease.taken_back, "P3", f"{what}, which it knew to be taken back")
        _demand(not lease.ended or excused, "P3", f"{what}, which had ended ({lease.ended})")
        _demand(of.state == "in_flight" or excused, "P3", f"{what}, which was {of.state}")

    def _answered(self, entry: Answered) -> None:
        self._leases[entry.claim, entry.delivery].answers.append(entry.status)
        if entry.status is not None and 200 <= entry.status < 300:
            of = self._deliveries[entry.delivery]
            of.received_at = min(of.received_at, entry.at)

    # -- people and faults -------------------------------------------------------------------------------------------------

    def _disturbed(self, entry: Disturbed) -> None:
        self._disturbed_at[entry.process] = max(self._disturbed_at[entry.process], entry.until)
        self.counts[entry.how] += 1

    def _failed(self, entry: Failed) -> None:
        self._failed_at[entry.process] = entry.at
        self.counts[entry.how] += 1

    def _operated(self, entry: Operated) -> None:
        if entry.verb == "rate" and not entry.refused:
            self._limits[entry.subject].append((entry.at, entry.value))

    def _faulty(self, entry: Faulty) -> None:
        if entry.kind == "step":
            self._stepped_at.append(entry.at)
        if entry.kind == "lock":
            self._locked_until = max(self._locked_until, entry.at + entry.seconds)

    def _process_ended(self, entry: Ended) -> None:
        if entry.in_hand == 0:
            self._ended_well.add(entry.process)
        stopped_at = entry.at - entry.seconds
        calm = max(self._disturbed_at[entry.process], self._failed_at[entry.process], self._locked_until) < stopped_at
        _demand(
            not calm or self._scenario.hang_database > 0 or (entry.in_hand == 0 and entry.seconds <= END_SECONDS_MAX),
            "P6", f"{entry.process} took {entry.seconds:.1f} s to end, with {entry.in_hand} not recorded",
        )  # fmt: skip

    # -- at the end --------------------------------------------------------------------------------------------------------

    def _everything_arrived(self) -> None:
        for event in self._committed.values():
            for endpoint in event.endpoints:
                queued = self._queued.get((event.event, endpoint))
                _demand(queued is not None, "P1", f"event {event.event} was never queued for endpoint {endpoint}")
        poisonous = {event.payload for event in self._scenario.events if event.poison}
        for id_, of in self._deliveries.items():
            if self._committed[of.event].payload in poisonous:
                _demand(of.state == "dead", "P6", f"delivery {id_}, which kills who sends it, is {of.state}")
            else:
                _demand(of.state == "delivered" and of.received_at < math.inf, "P1", f"delivery {id_} ended as {of.state}")

    def _limits_were_kept(self) -> None:
        for endpoint, changes in self._limits.items():
            burst = self._plans[endpoint].burst
            breaks = sorted([at for at, _ in changes] + self._stepped_at + [self._at + 1])
            for since, until in pairwise(breaks):
                rate = next(rate for at, rate in reversed(changes) if at <= since)
                if rate is None:
                    continue
                begins = since + (PLANNED_AHEAD_SECONDS if since else 0.0)
                times = [at for at in self._sent[endpoint] if begins <= at < until]
                excess = worst_excess(times, rate, burst)
                _demand(excess <= 0, "P4", f"endpoint {endpoint} got {excess:.2f} requests more than {rate}/s allow")

    def _nobody_waited_for_others(self) -> None:
        """Receivers that are always well get everything in time, once they have shown that they are."""
        longest = max((plan.timeout_seconds for plan in self._scenario.endpoints if plan.behaviours), default=0.0)
        for id_, of in self._deliveries.items():
            event = next((plan for plan in self._scenario.events if plan.payload == self._committed[of.event].payload), None)
            if event is None or event.at < 10 or not self._plans[of.endpoint].always_well:
                continue
            waited = of.received_at - of.made_at - (event.deliver_in or 0.0)
            self.counts["waited for nobody"] += 1
            _demand(waited <= NOTICED_SECONDS + longest, "P5", f"delivery {id_} to endpoint {of.endpoint} took {waited:.1f} s")


def _demand(holds: bool, promise: str, text: str) -> None:
    if not holds:
        raise BrokenError(promise, text)
