"""Who is served next, in memory: the run queue, timers and circuits of 200_claim.sql and 300_record.sql."""

import math
from bisect import insort
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from worker.core.circuit import OUR_OWN, Judgement, Outcomes, Probe, judge
from worker.core.model import Decision
from worker.pipeline.ports import Avoid
from worker.store.memory_operational import changed
from worker.store.memory_tables import MemoryTables, Sched, StoredDelivery

BESIDE_OTHERS = 4
"""Rows between the turns of a tenant's endpoints that have just become due, while siblings that have more wait."""

QUANTUM = 16
"""Rows of an endpoint in a visit, at least, once it is known to have more."""


class Told(NamedTuple):
    """One outcome: the array that 300_record.sql documents, as far as the model needs it."""

    claim_id: int
    id: int
    decision: Decision
    age: float
    duration_seconds: float
    status: int | None


class MemorySchedule(MemoryTables):
    """What a claim visits, and what a record does to an endpoint. `chance` in [0, 1) feeds the circuits' jitter."""

    def __init__(self, clock: Callable[[], float], chance: Callable[[], float] = lambda: 0.5) -> None:
        super().__init__(clock)
        self._chance = chance
        self._virtual_now = 0.0

    def _choose(self, rows_max: int, avoid: Avoid, now: float) -> list[Sched]:
        """Put endpoints whose timer has fired into the run queue, and return those whose turn it is."""
        places = [(turn, s) for s in self._endpoints.values() if (turn := s.turn) is not None]
        self._virtual_now = max(self._virtual_now, min((turn for turn, _ in places), default=self._virtual_now))
        places = [(turn, s) for turn, s in places if wanted(s, avoid)]
        fired = [s for s in self._endpoints.values() if s.next_at <= now and s.config.id not in avoid.endpoints]
        last_new: dict[str, float] = {}
        for sched in sorted(fired, key=lambda s: s.next_at):
            tenant = sched.config.tenant
            rows = BESIDE_OTHERS if self._last_turn(tenant, again=True) > self._virtual_now else 1
            last_new[tenant] = last_new.get(tenant, self._last_turn(tenant, again=False)) + rows / self._weight(tenant)
            places.append((last_new[tenant], sched))
        expected = 0
        visit: list[Sched] = []
        for turn, sched in sorted(places, key=lambda place: (place[0], place[1].config.id)):
            if expected < rows_max and wanted(sched, avoid):
                visit.append(sched)
            elif sched.turn is None:
                sched.turn, sched.expected, sched.next_at = turn, 1, math.inf
            expected += sched.expected * wanted(sched, avoid)
        return visit

    def _last_turn(self, tenant: str, *, again: bool) -> float:
        """The last turn of a tenant's endpoints that have just become due, or that have more; or now: virtual time."""
        turns = [s.turn for s in self._endpoints.values() if s.config.tenant == tenant and (s.expected > 1) == again]
        return max([self._virtual_now, *(turn for turn in turns if turn is not None)])

    def _visit_again(self, sched: Sched, due_at: float | None, due_rows: int, last: dict[str, float], now: float) -> None:
        """Say when to look at an endpoint again: in its next turn, at a time, or when somebody says so."""
        again = math.inf if due_at is None or sched.waits else max(due_at, sched.ready_at(max(sched.tat, now), now))
        sched.turn, sched.expected, sched.next_at = None, 1, again
        if again <= now:
            tenant = sched.config.tenant
            expected = max(2, due_rows)
            last[tenant] += expected / self._weight(tenant)
            sched.turn, sched.expected, sched.next_at = last[tenant], expected, math.inf

    def _weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)

    def _in_turn(self, visit: list[Sched], quotas: dict[int, int], now: float) -> list[tuple[int, Sched, float, int]]:
        """The rows of a claim in the order in which they are taken: tenants take turns, and the endpoints of each.

        More rows of each endpoint than may be taken: they tell when the endpoint is due again, and how much it has then.
        """
        looks = {id_: max(quota, min(4 * quota, QUANTUM)) for id_, quota in quotas.items()}
        seen = [
            (nth, s, run_at, id_)
            for s in visit
            for nth, (run_at, id_) in enumerate(s.queue[: min(s.room(now), looks[s.config.id]) + 1], 1)
        ]
        seen.sort(key=lambda row: (row[0], row[1].config.id))
        turns: dict[tuple[str, bool], float] = defaultdict(float)
        keyed = []
        for nth, sched, run_at, id_ in seen:
            tenant, due = sched.config.tenant, nth <= quotas[sched.config.id] and run_at <= now
            turns[tenant, due] += 1 / self._weight(tenant)
            keyed.append(((not due, turns[tenant, due], nth, sched.config.id), (nth, sched, run_at, id_)))
        return [row for _, row in sorted(keyed, key=lambda entry: entry[0])]

    def _free(self, sched: Sched, ended: list[tuple[StoredDelivery, Told]], recorded: float) -> None:
        """Release an endpoint's slots, and let the outcomes move its circuit and its next visit."""
        was_full = sched.in_flight >= sched.max_in_flight
        sched.in_flight -= len(ended)
        again = [(stored.run_at, stored.id) for stored, _ in ended if stored.state == "pending"]
        for entry in again:
            insort(sched.queue, entry)
        decisions = [told.decision for _, told in ended]
        hold_until = recorded + max((d.hold_seconds for d in decisions if d.hold_seconds is not None), default=-math.inf)
        sched.not_before = max(sched.not_before, hold_until)
        reason = max((d.disable_reason for d in decisions if d.disable_reason is not None), default=None)
        judged, before = self._judge(sched, [told for _, told in ended], recorded), sched.state
        if judged.failing_too_long:
            reason = reason or "nothing but failures"
        if before != "disabled" and any(_speaks(told.decision) and not stored.event.operational for stored, told in ended):
            self._tell_change(sched, reason, recovered=judged.recovered)
        if reason is not None:
            if sched.state != "disabled":
                self.audit.append(("endpoint.disable", sched.config.id, reason))
            sched.state, sched.state_reason = "disabled", reason
        if sched.state != "enabled" or sched.circuit.state == "open":
            sched.turn = None
            sched.next_at = sched.not_before if sched.state == "enabled" else math.inf
        elif sched.waits:
            sched.next_at = math.inf
        elif sched.turn is None:
            ready_at = sched.ready_at(sched.tat, recorded)
            if was_full or judged.recovered:
                sched.next_at = max(recorded, ready_at)
            else:
                due = max(min(again)[0], ready_at) if again else math.inf
                sched.next_at = max(hold_until, min(sched.next_at, due))

    def _tell_change(self, sched: Sched, disable_reason: str | None, *, recovered: bool) -> None:
        if disable_reason is not None:
            self._tell("endpoint.disabled", sched, changed(sched, disable_reason))
        elif recovered:
            self._tell("endpoint.recovered", sched, changed(sched, "the receiver answers again"))

    def _judge(self, sched: Sched, ended: list[Told], recorded: float) -> Judgement:
        """Let the outcomes move the endpoint's circuit, and its quiet."""
        verdicts = [(told.claim_id, _verdict(told.decision)) for told in ended]
        found = [verdict for _, verdict in verdicts]
        probe = next((verdict for claim_id, verdict in verdicts if claim_id == sched.circuit.probe), None)
        outcomes = Outcomes(found.count("ok"), found.count("failed"), probe)
        judged = judge(sched.circuit, outcomes, recorded, self._chance())
        sched.circuit = judged.circuit
        if judged.pause_until is not None:
            sched.not_before = max(sched.not_before, judged.pause_until)
        return judged


def wanted(sched: Sched, avoid: Avoid) -> bool:
    """Whether a claim may visit it."""
    return sched.config.id not in avoid.endpoints and sched.config.tenant not in avoid.tenants


def _verdict(decision: Decision) -> Probe:
    """What an outcome says of the receiver, if anything."""
    if decision.disposition == "delivered":
        return "ok"
    ours = decision.disposition == "released" or decision.disable_reason is not None or decision.outcome in OUR_OWN
    return "void" if ours else "failed"


def _speaks(decision: Decision) -> bool:
    """Whether an outcome says something of the receiver, be it that it is gone."""
    return decision.disable_reason is not None or _verdict(decision) != "void"
