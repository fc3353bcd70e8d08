"""Joins what producers, the database and receivers say, and judges it. Pure: its test plants faults of each kind.

A *duplicate* is a request that its receiver accepted, having accepted the same event before. Each attempt that is on record
explains one request, and one that was written again on a new connection two. So may one whose worker was lost, where a proxy
breaks connections: nobody is left to say so. What made the sender try again is the cause: an attempt that is on record and is
not `ok`. Without one there is no cause, and that breaks promise P3.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.chaos.evidence import LEASE_SECONDS, Arrival, Attempt, Delivery, Endpoint, Evidence, Frozen, Pair
from worker.core.audit import worst_excess

AFTER_DELIVERED_SECONDS = 1.0
"""So late a receiver on a busy machine may read a request that was written before `delivered` was recorded."""

THAWED_SECONDS = 5.0
"""How long after it goes on a frozen process may write what it had checked before."""

CRASH, EXPIRED, FROZEN = "crash", "expired lease", "frozen process"
AMBIGUOUS, RESENT, FORCED = "ambiguous response", "written again", "forced retry"
NO_CAUSE = "no cause"
CAUSES = (CRASH, EXPIRED, FROZEN, AMBIGUOUS, RESENT, FORCED, NO_CAUSE)

_AMBIGUOUS = frozenset({"timeout", "disconnected", "protocol_error", "interrupted"})
_LOST_WORKER = re.compile(r"the worker [^ ]*:([0-9]+):[^ ]* was lost")
_WRITTEN_AGAIN = "written again on a new connection"


@dataclass
class Verdict:
    """Counts, and of what is wrong a line each."""

    committed: int = 0
    rolled_back: int = 0
    unknown: int = 0
    expected: int = 0
    delivered: int = 0
    dead: int = 0
    scheduled: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    recovered: int = 0
    duplicates: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    without_cause: list[str] = field(default_factory=list)
    out_of_bounds: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.unexpected or self.without_cause or self.out_of_bounds or self.unsettled)


def reconcile(evidence: Evidence) -> Verdict:
    """Judge a run."""
    verdict = Verdict(requests=len(evidence.arrivals))
    expected = _expected(evidence, verdict)
    arrivals, attempts = defaultdict[Pair, list[Arrival]](list), defaultdict[Pair, list[Attempt]](list)
    for arrival in sorted(evidence.arrivals, key=lambda one: one.at):
        arrivals[arrival.pair].append(arrival)
        if wrong := _wrong(arrival, evidence, expected):
            verdict.unexpected.append(f"{_name(arrival.pair)} arrived: {wrong}")
    for attempt in evidence.attempts:
        attempts[attempt.pair].append(attempt)
    deliveries = {delivery.pair: delivery for delivery in evidence.deliveries}
    verdict.unexpected += [f"{_name(pair)} is a delivery that nobody asked for" for pair in deliveries.keys() - expected]
    for pair in sorted(expected):
        _follow(deliveries.get(pair), pair, arrivals[pair], verdict)
        _count_duplicates(pair, arrivals[pair], attempts[pair], evidence, verdict)
        lost_first = bool(attempts[pair]) and attempts[pair][0].outcome != "ok"
        verdict.recovered += lost_first and any(arrival.accepted for arrival in arrivals[pair])
    late = _of_thawed(arrivals, attempts, evidence.frozen)
    for endpoint in evidence.endpoints:
        if endpoint.direct:
            mine = [one for pair, several in arrivals.items() if pair.endpoint == endpoint.name for one in several]
            in_time = sorted((one for one in mine if one not in late), key=lambda one: one.at)
            verdict.out_of_bounds += _excesses(endpoint, in_time)
            verdict.out_of_bounds += _after_delivered(in_time, deliveries, evidence.forced)
    return verdict


def _expected(evidence: Evidence, verdict: Verdict) -> set[Pair]:
    """Return the deliveries that producers are owed, by the database for those that do not know."""
    by_digest = defaultdict[str, list[int]](list)
    for event, digest in evidence.stored.items():
        by_digest[digest].append(event)
    owed: set[Pair] = set()
    for produced in evidence.produced:
        events = by_digest.pop(produced.digest, [])
        verdict.unknown += produced.fate == "unknown"
        if produced.fate == "rolled back" or (produced.fate == "unknown" and not events):
            verdict.rolled_back += 1
            verdict.unexpected += [f"event {event} is stored, though it was rolled back" for event in events]
            continue
        verdict.committed += 1
        if produced.event is not None and produced.event not in events:
            verdict.lost.append(f"event {produced.event} was committed, and is not stored as it was")
        verdict.unexpected += [f"event {event} is stored, though it is {events[0]} again" for event in events[1:]]
        owed |= {
            Pair(event, endpoint.name)
            for event in events[:1]
            for endpoint in evidence.endpoints
            if produced.event_type in endpoint.event_types
        }
    strangers = [event for events in by_digest.values() for event in events]
    verdict.unexpected += [f"event {event} is stored, and nobody enqueued it" for event in strangers]
    verdict.expected = len(owed)
    return owed


def _wrong(arrival: Arrival, evidence: Evidence, expected: set[Pair]) -> str | None:
    if arrival.pair.event not in evidence.stored:
        return "there is no such event"
    if arrival.pair not in expected:
        return "it was not for this endpoint, or was rolled back"
    if arrival.digest != evidence.stored[arrival.pair.event]:
        return "its body is another"
    return None if arrival.signed else "its signature is wrong"


def _follow(delivery: Delivery | None, pair: Pair, arrivals: Sequence[Arrival], verdict: Verdict) -> None:
    """Say how a delivery ended."""
    if delivery is None:
        verdict.lost.append(f"{_name(pair)} was never a delivery")
    elif delivery.state == "delivered":
        verdict.delivered += 1
        if not any(arrival.accepted for arrival in arrivals):
            verdict.lost.append(f"{_name(pair)} is recorded as delivered, and was not")
    elif delivery.state in ("dead", "cancelled"):
        verdict.dead += 1
        if not delivery.last_error:
            verdict.lost.append(f"{_name(pair)} is {delivery.state} without a reason")
    elif delivery.waits:
        verdict.scheduled[pair.endpoint] += 1
    else:
        verdict.unsettled.append(f"{_name(pair)} is still {delivery.state}")


def _count_duplicates(
    pair: Pair, arrivals: Sequence[Arrival], attempts: Sequence[Attempt], evidence: Evidence, verdict: Verdict
) -> None:
    causes = [cause for attempt in attempts if (cause := _cause(attempt, evidence))]
    direct = any(endpoint.direct for endpoint in evidence.endpoints if endpoint.name == pair.endpoint)
    resent = sum(_WRITTEN_AGAIN in attempt.error or (attempt.outcome == "lease_expired" and not direct) for attempt in attempts)
    causes += [RESENT] * resent + [FORCED] * evidence.forced[pair]
    duplicates = max(0, sum(arrival.accepted for arrival in arrivals) - 1)
    verdict.duplicates.update(causes[:duplicates])
    unexplained = max(duplicates - len(causes), len(arrivals) - len(attempts) - resent)
    if unexplained > 0:
        verdict.duplicates[NO_CAUSE] += unexplained
        told = ", ".join(f"{attempt.outcome} ({attempt.error})" if attempt.error else attempt.outcome for attempt in attempts)
        verdict.without_cause.append(f"{_name(pair)} arrived {len(arrivals)} times, on record are: {told or 'no attempts'}")


def _cause(attempt: Attempt, evidence: Evidence) -> str | None:
    """Return what an attempt that did not end well is a cause of, if its request may have arrived."""
    if attempt.outcome == "lease_expired":
        pid = _lost_pid(attempt)
        if any(one.pid == pid and one.since - LEASE_SECONDS <= attempt.at <= one.until for one in evidence.frozen):
            return FROZEN
        killed_at = evidence.killed.get(pid, math.inf)
        return CRASH if killed_at - attempt.at <= LEASE_SECONDS else EXPIRED
    return AMBIGUOUS if attempt.outcome in _AMBIGUOUS else None


def _lost_pid(attempt: Attempt) -> int:
    """Return whose lease it was; 0 if that is not told."""
    found = _LOST_WORKER.search(attempt.error)
    return int(found[1]) if found else 0


def _of_thawed(
    arrivals: dict[Pair, list[Arrival]], attempts: dict[Pair, list[Attempt]], frozen: Sequence[Frozen]
) -> set[Arrival]:
    """Return what processes wrote that had been frozen between their last check and the write: the limits except it."""
    late: set[Arrival] = set()
    for pair, several in attempts.items():
        lost = {_lost_pid(attempt) for attempt in several if attempt.outcome == "lease_expired"}
        for one in frozen:
            if one.pid in lost:
                late |= {arrival for arrival in arrivals[pair] if one.until <= arrival.at <= one.until + THAWED_SECONDS}
    return late


def _excesses(endpoint: Endpoint, arrivals: Sequence[Arrival]) -> Iterable[str]:
    if endpoint.rate is not None:
        excess = worst_excess((arrival.at for arrival in arrivals), endpoint.rate, endpoint.burst)
        if excess > 0:
            yield f"{endpoint.name} got {excess:.2f} requests too many in some window"
    # At one moment an end counts before a beginning: the slot was free.
    moves = sorted(move for one in arrivals for move in ((one.at, 1), (one.ended, -1)))
    at_once = most = 0
    for _, step in moves:
        at_once += step
        most = max(most, at_once)
    if most > endpoint.max_in_flight:
        yield f"{endpoint.name} had {most} requests at once, {endpoint.max_in_flight} are allowed"


def _after_delivered(arrivals: Iterable[Arrival], deliveries: dict[Pair, Delivery], forced: Counter[Pair]) -> Iterable[str]:
    for arrival in arrivals:
        delivery = deliveries.get(arrival.pair)
        if delivery is None or delivery.state != "delivered" or delivery.finished_at is None or forced[arrival.pair]:
            continue
        late = arrival.at - delivery.finished_at
        if late > AFTER_DELIVERED_SECONDS:
            yield f"{_name(arrival.pair)} arrived {late:.1f} s after it was recorded as delivered"


def _name(pair: Pair) -> str:
    return f"event {pair.event} for {pair.endpoint}"
