"""The promises P1 to P7 (docs/guarantees.md), judged by the history alone, with a model of its own."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from endpoints import EndpointModel, Rate
from history import (
    Answered,
    Brought,
    Changed,
    Committed,
    Disturbed,
    Ended,
    Entry,
    Extended,
    Failed,
    Faulty,
    Granted,
    NotExtended,
    Operated,
    TakenBack,
    Told,
    Written,
)
from scenario import Scenario
from violation import BrokenError, Violation, demand

ENDED = ("delivered", "dead")

TRIES_MIN = 2
"""So often a process tries in vain to extend leases before it lets one end; that one at least once: others may hold it up."""

LAST_TRY_SECONDS = 9.5
"""So long before the end the last try ended at most: there is a second until the next, which takes seven and a half."""

TRIES_SECONDS = 18.0
"""So long these take at most: seven and a half each, and a second before each."""

END_SECONDS_MAX = 3.0 + 5.0 + 3.0
"""A process that is asked to stop has time to finish and time to record, and may then be in a call."""

FRESH_SECONDS = 60.0
"""So far may a request's timestamp be from the database's clock: receivers allow for five minutes. A claim whose answer takes
long, just after a step, tells little of that clock."""

NOTICED_SECONDS = 3.0
"""With nothing wrong but other receivers, so long may a delivery to one that is well take."""

GRACE_SECONDS = 20.0
"""But for so long after receivers that had answered begin to hang, all at once: they keep the lanes they have (P5)."""


@dataclass(slots=True)
class Lease:
    """One delivery under one claim, as the database granted it."""

    process: str
    attempt: int
    granted_at: float
    lease_until: float
    extended_at: float
    is_probe: bool
    brought_at: float = math.inf
    """Since when the process knows of it."""
    taken_back: bool = False
    """Whether the process knows that it is no longer there."""
    written: int = 0
    answers: list[int | None] = field(default_factory=list)
    ended: str = ""
    """By what it ended; empty while it holds."""


@dataclass(slots=True)
class DeliveryModel:
    """One delivery. `due` is the database's time from which it may be claimed; `spent` counts attempts since the last retry."""

    event: int
    endpoint: int
    state: str
    made_at: float
    due: float
    spent: int = 0
    is_spared: bool = False
    """Nothing dies of a 410, which holds its endpoint, nor of a worker that stopped before an answer came."""
    holder: int | None = None
    written_attempts: dict[int, int] = field(default_factory=dict)
    """By attempt, the claim under which it was written."""
    received_at: float = math.inf
    forced_at: float = -math.inf


class Checker:
    """Fed with every entry as it happens; `finish` judges what only the whole history shows."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._endpoints = {p.number: EndpointModel(p, p.max_in_flight, [Rate(0, p.rate)]) for p in scenario.endpoints}
        self._committed: dict[int, Committed] = {}
        self._keys: dict[tuple[str, str], int] = {}
        self._queued: dict[tuple[int, int], int] = {}
        self._deliveries: dict[int, DeliveryModel] = {}
        self._claims: dict[int, dict[int, Lease]] = defaultdict(dict)
        """By claim and delivery."""
        self._telling: dict[tuple[int, int], Told] = {}
        """What the record that is just looked at told of, by claim and delivery."""
        self._not_extended: dict[str, list[NotExtended]] = defaultdict(list)
        self._failed_at: dict[str, float] = defaultdict(lambda: -math.inf)
        self._disturbed_at: dict[str, float] = defaultdict(lambda: -math.inf)
        self._stepped_at: list[float] = []
        self._locked_until = -math.inf
        self._left_in_hand: dict[str, int] = {}
        """Of the processes that have ended."""
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
            NotExtended: self._tried,
            Brought: self._brought,
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
            return error.violation
        return None

    def finish(self) -> Violation | None:
        """Judge the whole."""
        try:
            self._everything_arrived()
            for endpoint in self._endpoints.values():
                endpoint.rate_was_kept(self._stepped_at, self._at)
            if self._scenario.calm:
                self._nobody_waited_for_others()
        except BrokenError as error:
            return error.violation
        return None

    # -- producers, and what is queued -----------------------------------------------------------------------------------

    def _committed_one(self, entry: Committed) -> None:
        if entry.key is not None:
            first = self._keys.setdefault(entry.key, entry.event)
            demand(first == entry.event, "P3", f"idempotency key {entry.key} made events {first} and {entry.event}")
        self._committed.setdefault(entry.event, entry)

    def _made(self, entry: Changed) -> None:
        event = self._committed.get(entry.event)
        if event is None or entry.endpoint not in event.endpoints or entry.after != "pending":
            what = f"delivery {entry.delivery} of event {entry.event} for endpoint {entry.endpoint}"
            raise BrokenError(Violation("P2", f"{what}, which nobody asked for"))
        twice = self._queued.setdefault((entry.event, entry.endpoint), entry.delivery) != entry.delivery
        demand(not twice, "P3", f"event {entry.event} was queued twice for endpoint {entry.endpoint}")
        self._deliveries[entry.delivery] = DeliveryModel(entry.event, entry.endpoint, entry.after, entry.at, event.deliver_at)

    # -- the life of a delivery ------------------------------------------------------------------------------------------

    def _changed(self, entry: Changed) -> None:
        self.counts[f"{entry.by}: {entry.before} → {entry.after}"] += 1
        if entry.before == "none":
            self._made(entry)
            return
        delivery = self._deliveries[entry.delivery]
        what = f"delivery {entry.delivery} went from {entry.before} to {entry.after} by {entry.by}"
        demand(entry.before not in ENDED or entry.by.startswith("retry"), "P7", what)
        if entry.before == "in_flight":
            self._released(entry, delivery, what)
        if entry.after == "in_flight":
            demand(entry.by == "claim" and delivery.holder is not None, "P3", what)
        retries = len(self._endpoints[delivery.endpoint].plan.retry_seconds)
        if entry.after == "dead":
            demand(delivery.spent > retries, "P1", f"{what} after {delivery.spent} attempts, with {retries} retries")
        elif entry.after == "pending" and not delivery.is_spared:
            demand(delivery.spent <= retries, "P1", f"{what} after {delivery.spent} attempts, with {retries} retries")
        delivery.state = entry.after

    def _granted(self, entry: Granted) -> None:
        delivery = self._deliveries[entry.delivery]
        what = f"{entry.process} claimed delivery {entry.delivery} of endpoint {entry.endpoint} as claim {entry.claim}"
        demand(delivery.state == "pending" and delivery.holder is None, "P3", f"{what}, though it was {delivery.state}")
        demand(entry.database_now >= delivery.due, "P1", f"{what}, {delivery.due - entry.database_now:.1f} s before it is due")
        is_probe = self._endpoints[entry.endpoint].granted(entry, what)
        self.counts["probes"] += is_probe
        self._claims[entry.claim][entry.delivery] = Lease(
            entry.process, entry.attempt, entry.at, entry.lease_until, entry.at, is_probe
        )
        delivery.holder = entry.claim

    def _extended(self, entry: Extended) -> None:
        for lease in self._claims[entry.claim].values():
            if not lease.ended:
                lease.lease_until, lease.extended_at = entry.lease_until, entry.at

    def _tried(self, entry: NotExtended) -> None:
        self._not_extended[entry.process].append(entry)

    def _brought(self, entry: Brought) -> None:
        for lease in self._claims[entry.claim].values():
            lease.brought_at = entry.at

    def _taken_back(self, entry: TakenBack) -> None:
        for lease in self._claims[entry.claim].values():
            lease.taken_back = True

    def _told(self, entry: Told) -> None:
        """An outcome was brought; whether it counts shows in what changes, which follows at once."""
        self._telling[entry.claim, entry.delivery] = entry
        lease = self._claims[entry.claim][entry.delivery]
        self.counts["fenced off"] += bool(lease.ended)
        if entry.disposition == "released":
            what = f"{entry.process} gave delivery {entry.delivery} back as unsent"
            demand(not lease.written, "P3", f"{what}, but it had sent it")

    def _released(self, entry: Changed, delivery: DeliveryModel, what: str) -> None:
        """A delivery is no longer in flight: who may have said so?"""
        claim, delivery.holder = delivery.holder, None
        if claim is None:
            raise BrokenError(Violation("P3", f"{what}, but nobody held it"))
        lease, endpoint = self._claims[claim][entry.delivery], self._endpoints[delivery.endpoint]
        lease.ended = entry.by
        endpoint.released(claim, entry.delivery)
        if entry.by == "record":
            told = self._telling.get((claim, entry.delivery))
            if told is None:
                raise BrokenError(Violation("P3", f"{what} under a fence that no longer held"))
            endpoint.told(told)
            last = lease.answers[-1] if lease.answers else None
            well = last is not None and 200 <= last < 300
            demand((entry.after == "delivered") == well, "P3", f"{what}, and {lease.process} was answered {last}")
            if told.disposition == "retry":
                delivery.due = entry.database_now + told.retry_seconds
            if told.disposition != "released":
                delivery.is_spared = told.disables or told.outcome == "interrupted"
            spends = not lease.is_probe or not endpoint.plan.retry_seconds  # with no retries, a probe is the one attempt
            delivery.spent += told.disposition != "released" and spends
        elif entry.by == "reap":
            self.counts["leases expired"] += 1
            demand(lease.lease_until < entry.database_now, "P3", f"{what} before its lease had ended")
            reason = f"nothing had kept {lease.process} from recording or extending it"
            demand(self._lost(claim, lease, entry.at - (entry.database_now - lease.lease_until)), "P3", f"{what}, and {reason}")
            delivery.due = entry.database_now
            delivery.spent += not lease.is_probe
        else:
            demand(entry.by == "retry_forced", "P3", what)

    def _lost(self, claim: int, lease: Lease, ended_at: float) -> bool:
        """Whether a process had a reason to let a lease end: killed, frozen, told too late or never, or it tried in vain."""
        if self._disturbed_at[lease.process] >= lease.extended_at or lease.brought_at > ended_at - TRIES_SECONDS:
            return True
        if lease.process in self._left_in_hand:
            return self._left_in_hand[lease.process] > 0
        self.counts["leases tried in vain"] += 1
        tries = [tried for tried in self._not_extended[lease.process] if lease.extended_at <= tried.at <= ended_at]
        last = max((tried.at for tried in tries if claim in tried.claims), default=-math.inf)
        return len(tries) >= TRIES_MIN and last >= ended_at - LAST_TRY_SECONDS

    # -- what goes over the wire -----------------------------------------------------------------------------------------

    def _written(self, entry: Written) -> None:
        delivery, event = self._deliveries[entry.delivery], self._committed.get(entry.event)
        what = f"{entry.process} sent delivery {entry.delivery} under claim {entry.claim}"
        same = (entry.event, entry.endpoint) == (delivery.event, delivery.endpoint)
        demand(event is not None and entry.body == event.payload and same, "P2", f"{what}: that was never enqueued")
        demand(entry.verified, "P2", f"{what}, and its signature does not verify")
        lease = self._claims[entry.claim][entry.delivery]
        if self._disturbed_at[entry.process] < lease.granted_at:
            old = entry.database_now - entry.timestamp
            demand(abs(old) <= FRESH_SECONDS, "P2", f"{what} with a timestamp {old:.1f} s old")
        if entry.frozen:
            self.counts["written by a frozen process"] += 1
        else:
            if entry.on_time:
                self._endpoints[delivery.endpoint].sent.append(entry.at)
            else:
                self.counts["written by a clock known too vaguely"] += 1
            self._may_be_sent(entry, delivery, lease, what)
        lease.written += 1
        if entry.again:
            self.counts["written again"] += 1
            return
        first = delivery.written_attempts.setdefault(entry.attempt, entry.claim)
        demand(first == entry.claim, "P3", f"{what} as attempt {entry.attempt}, as it was sent under claim {first}")
        demand(entry.attempt == lease.attempt, "P3", f"{what} as attempt {entry.attempt}, but it was {lease.attempt}")

    def _may_be_sent(self, entry: Written, delivery: DeliveryModel, lease: Lease, what: str) -> None:
        """Nobody writes without a lease; operators' force and the database's clock are what a process cannot know of."""
        late = entry.database_now - lease.lease_until
        demand(not lease.taken_back, "P3", f"{what}, which it knew to be taken back")
        if delivery.forced_at >= lease.granted_at or any(at >= lease.granted_at for at in self._stepped_at):
            return
        demand(late < 0, "P3", f"{what}, whose lease had ended {late:.3f} s before")
        demand(not lease.ended, "P3", f"{what}, which had ended ({lease.ended})")
        demand(delivery.state == "in_flight", "P3", f"{what}, which was {delivery.state}")

    def _answered(self, entry: Answered) -> None:
        self._claims[entry.claim][entry.delivery].answers.append(entry.status)
        if entry.status is not None and 200 <= entry.status < 300:
            delivery = self._deliveries[entry.delivery]
            delivery.received_at = min(delivery.received_at, entry.at)

    # -- people and faults -----------------------------------------------------------------------------------------------

    def _disturbed(self, entry: Disturbed) -> None:
        self._disturbed_at[entry.process] = max(self._disturbed_at[entry.process], entry.until)
        self.counts[entry.how] += 1

    def _failed(self, entry: Failed) -> None:
        self._failed_at[entry.process] = entry.at
        self.counts[entry.how] += 1

    def _operated(self, entry: Operated) -> None:
        if entry.refused:
            return
        if entry.verb.startswith("retry"):
            delivery = self._deliveries[entry.subject]
            delivery.spent, delivery.due, delivery.forced_at = 0, entry.database_now, entry.at
        else:
            self._endpoints[entry.subject].operated(entry)

    def _faulty(self, entry: Faulty) -> None:
        self.counts[f"fault: {entry.kind}"] += 1
        if entry.kind == "step":
            self._stepped_at.append(entry.at)
        if entry.kind == "lock":
            self._locked_until = max(self._locked_until, entry.at + entry.seconds)

    def _process_ended(self, entry: Ended) -> None:
        self._left_in_hand[entry.process] = entry.in_hand
        stopped_at = entry.at - entry.seconds
        if max(self._disturbed_at[entry.process], self._failed_at[entry.process], self._locked_until) >= stopped_at:
            return
        self.counts["processes that ended well"] += 1
        slow = self._scenario.hang_database > 0
        demand(entry.seconds <= END_SECONDS_MAX + 30 * slow, "P6", f"{entry.process} took {entry.seconds:.1f} s to end")
        demand(entry.in_hand == 0 or slow, "P6", f"{entry.process} ended with {entry.in_hand} not recorded")

    # -- at the end ------------------------------------------------------------------------------------------------------

    def _everything_arrived(self) -> None:
        for event in self._committed.values():
            for endpoint in event.endpoints:
                queued = self._queued.get((event.event, endpoint))
                demand(queued is not None, "P1", f"event {event.event} was never queued for endpoint {endpoint}")
        for id_, delivery in self._deliveries.items():
            if self._committed[delivery.event].payload in self._scenario.poisonous:
                demand(delivery.state == "dead", "P6", f"delivery {id_}, which kills who sends it, is {delivery.state}")
            else:
                arrived = delivery.state == "delivered" and delivery.received_at < math.inf
                demand(arrived, "P1", f"delivery {id_} ended as {delivery.state}")

    def _nobody_waited_for_others(self) -> None:
        """Receivers that are always well get everything in time, once they have shown that they are."""
        planned = {plan.payload: plan for plan in self._scenario.events}
        changes = [at for endpoint in self._scenario.endpoints for at, _ in endpoint.behaviours]
        for id_, delivery in self._deliveries.items():
            event = planned.get(self._committed[delivery.event].payload)
            made_at = delivery.made_at + ((event.deliver_in or 0.0) if event else 0.0)
            fresh = made_at < GRACE_SECONDS or any(at - NOTICED_SECONDS <= made_at <= at + GRACE_SECONDS for at in changes)
            if fresh or not self._endpoints[delivery.endpoint].plan.always_well:
                continue
            self.counts["waited for nobody"] += 1
            waited = delivery.received_at - made_at
            demand(waited <= NOTICED_SECONDS, "P5", f"delivery {id_} to endpoint {delivery.endpoint} took {waited:.1f} s")
