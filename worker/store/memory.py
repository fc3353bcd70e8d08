"""The store in memory: the SQL of `sql/functions` as a readable model, for tests and simulations.

Same leases, fences, limits and schedule; one process, nothing survives it. Every call is atomic, because nothing in it
waits. Times are the clock's Unix seconds as floats; a moment that never comes is `inf`.
"""

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import anyio.lowlevel

from worker.core.model import Claim, Decision, Delivery, Outcome
from worker.pipeline.ports import Claimed, StoreError
from worker.store.memory_tables import MemoryTables, Sched, StoredAttempt, StoredDelivery

LEASE_SECONDS_MIN = 30.0


class _Told(NamedTuple):
    """One outcome: the array that 300_record.sql documents, as far as the model needs it."""

    claim_id: int
    id: int
    decision: Decision
    age: float
    duration_seconds: float
    status: int | None


@dataclass(slots=True)
class _Batch:
    claimed_at: float
    lease_seconds: float
    lease_until: float
    deliveries: set[int]


class MemoryStore(MemoryTables):
    """`worker.pipeline.ports.Store` in one object that all workers share; `clock` plays the database's (Unix seconds)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._batches: dict[int, _Batch] = {}
        self._claim_id = 0

    async def claim(self, rows_max: int, bytes_max: int, avoid: Collection[int] = ()) -> Claimed:
        """See the port, and 200_claim.sql."""
        await anyio.lowlevel.checkpoint()
        self._drain_wake()
        now = self._clock()
        wanted = (s for id_, s in self._endpoints.items() if s.next_at <= now and id_ not in avoid)
        due = sorted(wanted, key=lambda s: s.next_at)
        endpoints_max = max(8, rows_max // 4)
        visit = due[:endpoints_max]
        quotas = {s.config.id: min(s.room(now), math.ceil(rows_max / len(visit))) for s in visit}
        # One row more than may be taken: it tells when the endpoint is due again.
        seen = sorted(
            (nth, s.config.id, run_at, id_)
            for s in visit
            for nth, (run_at, id_) in enumerate(s.queue[: quotas[s.config.id] + 1], 1)
        )
        taken, rows, bytes_before = defaultdict[int, list[int]](list), 0, 0
        due_at: dict[int, float] = {}
        for nth, endpoint_id, run_at, id_ in seen:
            room = rows < rows_max and bytes_before <= bytes_max
            if room and nth <= quotas[endpoint_id] and run_at <= now:
                taken[endpoint_id].append(id_)
                rows += 1
            else:
                due_at.setdefault(endpoint_id, run_at)
            bytes_before += len(self.deliveries[id_].event.payload)
        self._claim_id += bool(visit)
        lease = max([LEASE_SECONDS_MIN, *(2 * self._endpoints[id_].config.timeout_seconds for id_ in taken)])
        claim = Claim(self._claim_id, lease, 0.0)
        deliveries = [d for s in visit for d in self._take(s, taken[s.config.id], due_at.get(s.config.id), claim, now)]
        if not deliveries:
            return Claimed(now)
        self._batches[claim.id] = _Batch(now, lease, now + lease, {d.id for d in deliveries})
        deliveries.sort(key=lambda d: (now if d.send_at is None else d.send_at, d.id))
        more = len(visit) == endpoints_max or any(s.next_at <= now for s in visit)
        return Claimed(now, claim, deliveries, more)

    def _take(self, sched: Sched, ids: list[int], due_at: float | None, claim: Claim, now: float) -> Iterable[Delivery]:
        """Move an endpoint's deliveries into the claim, plan their sends, and say when to look at it again."""
        tat, sent = max(sched.tat, now), len(ids)
        del sched.queue[:sent]
        sched.in_flight += sent
        if sched.rate is not None and sent:
            sched.tat = tat + sent / sched.rate
        full = sched.in_flight >= sched.max_in_flight
        sched.next_at = math.inf if due_at is None or full else max(now, due_at, sched.ready_at(max(sched.tat, tat)))
        for nth, id_ in enumerate(ids, 1):
            stored = self.deliveries[id_]
            stored.state, stored.attempt = "in_flight", stored.attempt + 1
            send_at = None if sched.rate is None else max(now, tat + (nth - sched.burst) / sched.rate)
            event = stored.event
            yield Delivery(
                claim, id_, sched.config, stored.attempt, stored.attempts_before,
                send_at, event.id, event.content_type, event.payload,
            )  # fmt: skip

    async def record(self, outcomes: Sequence[Outcome], now: float) -> int:
        """See the port, and 300_record.sql."""
        await anyio.lowlevel.checkpoint()
        return self._record(
            _Told(o.delivery.claim.id, o.delivery.id, o.decision, now - o.started, o.duration_seconds, o.exchange.status)
            for o in outcomes
        )

    def _record(self, outcomes: Iterable[_Told]) -> int:
        recorded, changed = self._clock(), defaultdict[int, list[tuple[StoredDelivery, Decision]]](list)
        for told in outcomes:
            batch = self._batches.get(told.claim_id)
            if batch is None or told.id not in batch.deliveries:
                continue  # fenced off
            batch.deliveries.remove(told.id)
            if not batch.deliveries:
                del self._batches[told.claim_id]
            stored, decision = self.deliveries[told.id], told.decision
            changed[stored.endpoint_id].append((stored, decision))
            if decision.disposition == "released":
                stored.attempt -= 1
            else:
                self.attempts.append(
                    StoredAttempt(
                        stored.id, stored.attempt, recorded - told.age, told.duration_seconds, decision.outcome, told.status
                    )
                )
                stored.last_status, stored.last_outcome = told.status, decision.outcome
            if decision.disposition == "retry":
                stored.run_at = recorded + decision.retry_seconds
            stored.state = decision.disposition if decision.disposition in ("delivered", "dead") else "pending"
        for endpoint_id, ended in changed.items():
            self._free(self._endpoints[endpoint_id], ended, recorded)
        return sum(map(len, changed.values()))

    def _free(self, sched: Sched, ended: list[tuple[StoredDelivery, Decision]], recorded: float) -> None:
        """Release an endpoint's slots, and let the outcomes move its next visit."""
        was_full = sched.in_flight >= sched.max_in_flight
        sched.in_flight -= len(ended)
        again = [(stored.run_at, stored.id) for stored, _ in ended if stored.state == "pending"]
        for entry in again:
            insort(sched.queue, entry)
        hold_until = recorded + max((d.hold_seconds for _, d in ended if d.hold_seconds is not None), default=-math.inf)
        sched.not_before = max(sched.not_before, hold_until)
        reason = max((d.disable_reason for _, d in ended if d.disable_reason is not None), default=None)
        if reason is not None:
            if sched.state != "disabled":
                self.audit.append(("endpoint.disable", sched.config.id, reason))
            sched.state, sched.state_reason = "disabled", reason
        if sched.state != "enabled" or sched.in_flight >= sched.max_in_flight:
            sched.next_at = math.inf
        elif was_full:
            sched.next_at = max(recorded, sched.ready_at(sched.tat))
        else:
            if again:
                sched.next_at = min(sched.next_at, max(min(again)[0], sched.ready_at(sched.tat)))
            sched.next_at = max(sched.next_at, hold_until)

    async def extend(self, claims: Sequence[int]) -> set[int]:
        """See the port."""
        await anyio.lowlevel.checkpoint()
        kept = {claim for claim in claims if claim in self._batches}
        for claim in kept:
            self._batches[claim].lease_until = self._clock() + self._batches[claim].lease_seconds
        return kept

    async def has_due(self) -> bool:
        """See the port."""
        await anyio.lowlevel.checkpoint()
        now = self._clock()
        return bool(self._wake) or any(
            s.state == "enabled" and s.not_before <= now and s.queue and s.queue[0][0] <= now for s in self._endpoints.values()
        )

    async def reap(self) -> int:
        """Take back what expired leases hold: due at once with the attempt counted, or dead. Return how many deliveries."""
        await anyio.lowlevel.checkpoint()
        now = self._clock()
        expired = [(claim_id, batch) for claim_id, batch in self._batches.items() if batch.lease_until < now]
        return self._record(
            [
                _Told(claim_id, id_, Decision(self._after_loss(id_), "lease_expired"), now - batch.claimed_at, 0.0, None)
                for claim_id, batch in expired
                for id_ in sorted(batch.deliveries)
            ]
        )

    def _after_loss(self, id_: int) -> Literal["dead", "retry"]:
        stored = self.deliveries[id_]
        retries = len(self._endpoints[stored.endpoint_id].config.retry_seconds)
        return "dead" if stored.attempt - stored.attempts_before > retries else "retry"

    async def maintain(self) -> dict[str, int]:
        """Do nothing: there are no partitions here, and no wake-up is ever lost."""
        await anyio.lowlevel.checkpoint()
        return {}

    def _drain_wake(self) -> None:
        for endpoint_id, run_at in self._wake:
            sched = self._endpoints[endpoint_id]
            if sched.state == "enabled" and sched.in_flight < sched.max_in_flight:
                sched.next_at = min(sched.next_at, max(run_at, sched.ready_at(sched.tat)))
        self._wake.clear()

    def retry(self, delivery_id: int, *, force: bool = False, reason: str = "") -> str:
        """Make a delivery due now, its schedule from the start; see 500_deliveries.sql. Return the state it was in."""
        stored, before = self.deliveries[delivery_id], self.state(delivery_id)
        if before in ("delivered", "in_flight") and not force:
            raise StoreError(f"delivery {delivery_id} is {before.replace('_', ' ')}")
        if before == "in_flight":
            claim_id = next(id_ for id_, batch in self._batches.items() if delivery_id in batch.deliveries)
            self._record([_Told(claim_id, delivery_id, Decision("retry", "interrupted"), 0.0, 0.0, None)])
        sched, now = self._endpoints[stored.endpoint_id], self._clock()
        if stored.state == "pending":
            del sched.queue[bisect_left(sched.queue, (stored.run_at, delivery_id))]
        stored.state, stored.run_at, stored.attempts_before = "pending", now, stored.attempt
        insort(sched.queue, (now, delivery_id))
        if sched.state == "enabled":
            sched.next_at = min(sched.next_at, max(now, sched.not_before))
        self.audit.append(("delivery.retry", delivery_id, reason))
        return before
