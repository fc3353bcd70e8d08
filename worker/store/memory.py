"""The store in memory: the SQL of `sql/functions` as a readable model, for tests and simulations.

Same leases, fences, limits and schedule; one process, nothing survives it. Every call is atomic, because nothing in it
waits. Times are the clock's Unix seconds as floats; a moment that never comes is `inf`.
"""

import math
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import anyio.lowlevel

from worker.core.circuit import RECOVERY_SECONDS
from worker.core.model import Claim, Decision, Delivery, Outcome
from worker.core.trace import trace_headers
from worker.pipeline.ports import NOBODY, Avoid, Claimed, StoreError
from worker.store.memory_operational import died
from worker.store.memory_schedule import QUANTUM, MemorySchedule, Told, wanted
from worker.store.memory_tables import AHEAD_SECONDS, Sched, StoredAttempt, StoredDelivery

LEASE_SECONDS_MIN = 30.0


@dataclass(slots=True)
class _Batch:
    claimed_at: float
    lease_seconds: float
    lease_until: float
    deliveries: set[int]


class MemoryStore(MemorySchedule):
    """`worker.pipeline.ports.Store` in one object that all workers share; `clock` plays the database's (Unix seconds)."""

    def __init__(self, clock: Callable[[], float], chance: Callable[[], float] = lambda: 0.5) -> None:
        super().__init__(clock, chance)
        self._batches: dict[int, _Batch] = {}
        self._claim_id = 0

    async def claim(self, rows_max: int, bytes_max: int, avoid: Avoid = NOBODY, _wait_seconds: float = 0.0) -> Claimed:
        """See the port, and 200_claim.sql."""
        await anyio.lowlevel.checkpoint()
        self._drain_wake()
        now = self._clock()
        visit = self._choose(rows_max, avoid, now)
        fair = math.ceil(rows_max / len(visit)) if visit else 0
        quotas = {s.config.id: min(s.room(now), max(s.expected, fair)) for s in visit}
        taken, rows, bytes_before = defaultdict[int, list[int]](list), 0, 0
        due_at, seen, left = dict[int, float](), Counter[int](), Counter[int]()
        for nth, sched, run_at, id_ in self._in_turn(visit, quotas, now):
            endpoint_id = sched.config.id
            if nth <= quotas[endpoint_id] and run_at <= now and rows < rows_max and bytes_before <= bytes_max:
                taken[endpoint_id].append(id_)
                rows += 1
            else:
                due_at[endpoint_id] = min(due_at.get(endpoint_id, math.inf), run_at)
                left[endpoint_id] += run_at <= now
            seen[endpoint_id] += run_at <= now
            bytes_before += len(self.deliveries[id_].event.payload)
        self._claim_id += bool(visit)
        lease = max([LEASE_SECONDS_MIN, *(2 * self._endpoints[id_].config.timeout_seconds for id_ in taken)])
        claim = Claim(self._claim_id, lease, 0.0)
        last, deliveries = {s.config.tenant: self._last_turn(s.config.tenant, again=True) for s in visit}, list[Delivery]()
        for s in visit:
            deliveries += self._take(s, taken[s.config.id], claim, now)
            known = QUANTUM if seen[s.config.id] > QUANTUM else left[s.config.id]
            self._visit_again(s, due_at.get(s.config.id), known, last, now)
        full = any(s.in_flight >= s.max_in_flight and left[s.config.id] for s in visit)
        more = any(s.turn is not None and wanted(s, avoid) for s in self._endpoints.values())
        if not deliveries:
            return Claimed(now, more=more, full=full)
        self._batches[claim.id] = _Batch(now, lease, now + lease, {d.id for d in deliveries})
        deliveries.sort(key=lambda d: (now if d.send_at is None else d.send_at, d.id))
        tenants = {s.config.tenant for s in visit}
        return Claimed(now, claim, deliveries, more, full, weights={name: self._weight(name) for name in tenants})

    def _take(self, sched: Sched, ids: list[int], claim: Claim, now: float) -> Iterable[Delivery]:
        """Move an endpoint's deliveries into the claim, and plan their sends."""
        (rate, burst), tat, sent = sched.limits(now), max(sched.tat, now), len(ids)
        is_probe = sched.circuit.state == "open" and sent > 0
        del sched.queue[:sent]
        sched.in_flight += sent
        if rate is not None and sent:
            sched.tat = tat + sent / rate
        if is_probe:
            sched.circuit = replace(sched.circuit, state="half_open", probe=claim.id)
        elif sched.circuit.recovering_since is not None and now - sched.circuit.recovering_since > RECOVERY_SECONDS:
            sched.circuit = replace(sched.circuit, recovering_since=None, openings=0)
        for nth, id_ in enumerate(ids, 1):
            stored = self.deliveries[id_]
            stored.state, stored.attempt = "in_flight", stored.attempt + 1
            stored.is_probe = is_probe
            stored.attempts_before += is_probe  # a probe spends nothing of its delivery's retries
            send_at = None if rate is None else max(now, tat + (nth - burst) / rate)
            event = stored.event
            yield Delivery(
                claim, id_, sched.config, stored.attempt, stored.attempts_before,
                send_at, event.id, event.content_type, event.payload, trace=trace_headers(event.trace),
            )  # fmt: skip

    async def record(self, outcomes: Sequence[Outcome], now: float) -> int:
        """See the port, and 300_record.sql."""
        await anyio.lowlevel.checkpoint()
        return self._record(
            Told(o.delivery.claim.id, o.delivery.id, o.decision, now - o.started, o.duration_seconds, o.exchange.status)
            for o in outcomes
        )

    def _record(self, outcomes: Iterable[Told]) -> int:
        recorded, changed = self._clock(), defaultdict[int, list[tuple[StoredDelivery, Told]]](list)
        for told in outcomes:
            batch = self._batches.get(told.claim_id)
            if batch is None or told.id not in batch.deliveries:
                continue  # fenced off
            batch.deliveries.remove(told.id)
            if not batch.deliveries:
                del self._batches[told.claim_id]
            stored, decision = self.deliveries[told.id], told.decision
            changed[stored.endpoint_id].append((stored, told))
            if decision.disposition == "released":
                stored.attempt -= 1
                stored.attempts_before -= stored.is_probe
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
            if stored.state == "dead" and not stored.event.operational:
                self._tell("delivery.dead", self._endpoints[stored.endpoint_id], died(stored))
        for endpoint_id, ended in changed.items():
            self._free(self._endpoints[endpoint_id], ended, recorded)
        return sum(map(len, changed.values()))

    async def extend(self, claims: Sequence[int]) -> set[int]:
        """See the port."""
        await anyio.lowlevel.checkpoint()
        kept = {claim for claim in claims if claim in self._batches}
        for claim in kept:
            self._batches[claim].lease_until = self._clock() + self._batches[claim].lease_seconds
        return kept

    async def plan_again(self, delivery: Delivery) -> float | None:
        """See the port, and 200_claim.sql."""
        await anyio.lowlevel.checkpoint()
        batch, sched, now = self._batches.get(delivery.claim.id), self._endpoints[delivery.endpoint.id], self._clock()
        held = batch is not None and delivery.id in batch.deliveries
        if not held or sched.state != "enabled" or sched.not_before > now:
            return None
        rate, burst = sched.limits(now)
        if rate is None:
            return now
        tat = max(sched.tat, now)
        planned = max(now, tat + (1 - burst) / rate)
        if planned > now + AHEAD_SECONDS:
            return None
        sched.tat = tat + 1 / rate
        return planned

    async def has_due(self) -> bool:
        """See the port."""
        await anyio.lowlevel.checkpoint()
        now = self._clock()
        return bool(self._wake) or any(
            s.state == "enabled" and s.not_before <= now and s.circuit.state != "half_open" and s.queue and s.queue[0][0] <= now
            for s in self._endpoints.values()
        )

    async def reap(self) -> int:
        """Take back what expired leases hold: due at once with the attempt counted, or dead. Return how many deliveries."""
        await anyio.lowlevel.checkpoint()
        now = self._clock()
        expired = [(claim_id, batch) for claim_id, batch in self._batches.items() if batch.lease_until < now]
        return self._record(
            [
                Told(claim_id, id_, Decision(self._after_loss(id_), "lease_expired"), now - batch.claimed_at, 0.0, None)
                for claim_id, batch in expired
                for id_ in sorted(batch.deliveries)
            ]
        )

    def _after_loss(self, id_: int) -> Literal["dead", "retry"]:
        stored = self.deliveries[id_]
        retries = len(self._endpoints[stored.endpoint_id].config.retry_seconds)
        return "dead" if stored.attempt - stored.attempts_before > retries else "retry"

    def _drain_wake(self) -> None:
        for endpoint_id, run_at in self._wake:
            sched = self._endpoints[endpoint_id]
            if not sched.waits and sched.turn is None:
                sched.next_at = min(sched.next_at, max(run_at, sched.ready_at(sched.tat, self._clock())))
        self._wake.clear()

    def retry(self, delivery_id: int, *, force: bool = False, reason: str = "") -> str:
        """Make a delivery due now, its schedule from the start; see 500_deliveries.sql. Return the state it was in."""
        stored, before = self.deliveries[delivery_id], self.state(delivery_id)
        if before in ("delivered", "in_flight") and not force:
            raise StoreError(f"delivery {delivery_id} is {before.replace('_', ' ')}")
        if before == "in_flight":
            claim_id = next(id_ for id_, batch in self._batches.items() if delivery_id in batch.deliveries)
            self._record([Told(claim_id, delivery_id, Decision("retry", "interrupted"), 0.0, 0.0, None)])
        sched, now = self._endpoints[stored.endpoint_id], self._clock()
        if stored.state == "pending":
            del sched.queue[bisect_left(sched.queue, (stored.run_at, delivery_id))]
        stored.state, stored.run_at, stored.attempts_before = "pending", now, stored.attempt
        insort(sched.queue, (now, delivery_id))
        if sched.state == "enabled" and sched.turn is None and sched.circuit.state != "half_open":
            sched.next_at = min(sched.next_at, max(now, sched.not_before))
        self.audit.append(("delivery.retry", delivery_id, reason))
        return before
