"""The tables in memory, and what producers and operators do to them. Workers: see `worker.store.memory`."""

import hashlib
import math
from bisect import insort
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from worker.core.backoff import DEFAULT_SCHEDULE, parse_schedule
from worker.core.circuit import Circuit
from worker.core.model import Endpoint
from worker.core.signing import SigningKey
from worker.core.trace import trace_context
from worker.pipeline.ports import StoreError
from worker.store.memory_operational import changed, document

AHEAD_SECONDS = 0.5
"""How far ahead of the claim a send may be planned."""

EndpointState = Literal["enabled", "paused", "disabled"]
DeliveryState = Literal["pending", "in_flight", "delivered", "dead", "cancelled"]

_DEFAULT_RETRY = parse_schedule(DEFAULT_SCHEDULE)
_CONFIG = frozenset({"url", "headers", "timeout_seconds", "retry_seconds", "keys", "transport"})


@dataclass(slots=True)
class StoredEvent:
    """What a producer enqueued."""

    id: int
    tenant: str
    event_type: str
    payload: bytes
    content_type: str
    operational: bool = False
    trace: str | None = None


@dataclass(slots=True)
class StoredDelivery:
    """One event for one endpoint. `held` is derived: see `MemoryStore.state`."""

    id: int
    endpoint_id: int
    event: StoredEvent
    run_at: float
    state: DeliveryState = "pending"
    attempt: int = 0
    attempts_before: int = 0
    is_probe: bool = False
    last_status: int | None = None
    last_outcome: str = ""


@dataclass(slots=True)
class StoredAttempt:
    """One HTTP request, or a lease that expired before anybody said how it ended."""

    delivery_id: int
    attempt: int
    started_at: float
    duration_seconds: float
    outcome: str
    status: int | None


@dataclass(slots=True)
class Sched:
    """An endpoint's row of `endpoint_sched`, and its part of `pending` in the order of the index."""

    config: Endpoint
    event_types: tuple[str, ...]
    rate: float | None
    burst: int
    max_in_flight: int
    state: EndpointState = "enabled"
    state_reason: str = ""
    in_flight: int = 0
    tat: float = -math.inf
    not_before: float = -math.inf
    next_at: float = math.inf
    turn: float | None = None
    expected: int = 1
    circuit: Circuit = field(default_factory=Circuit)
    queue: list[tuple[float, int]] = field(default_factory=list)

    def limits(self, now: float) -> tuple[float | None, int]:
        """Rate and burst in force: while its circuit recovers, an endpoint has a growing rate and no burst."""
        recovering = self.circuit.recovering_since is not None
        return self.circuit.rate_at(self.rate, now), 1 if recovering else self.burst

    def ready_at(self, tat: float, now: float) -> float:
        """When quiet and rate next allow a claim: when half of what may be planned ahead has become plannable.

        At the next full tenth of a second, as in 200_claim.sql.
        """
        rate, burst = self.limits(now)
        if rate is None or math.isinf(tat):
            return self.not_before
        return max(self.not_before, math.floor((tat + (1 - burst) / rate - AHEAD_SECONDS / 2 + 0.1) * 10) / 10)

    def room(self, now: float) -> int:
        """How many deliveries circuit, cap and bucket allow now."""
        if self.circuit.state == "half_open" or self.not_before > now:
            return 0
        room = self.max_in_flight - self.in_flight
        if self.circuit.state == "open":
            room = min(room, 1)
        rate, burst = self.limits(now)
        if rate is not None:
            room = min(room, math.floor((now + AHEAD_SECONDS - max(self.tat, now)) * rate + burst))
        return max(0, room)

    @property
    def waits(self) -> bool:
        """Whether only somebody else can make it due: it is not enabled, full, or its probe is out."""
        return self.state != "enabled" or self.in_flight >= self.max_in_flight or self.circuit.state == "half_open"


class MemoryTables:
    """Events, deliveries, attempts and endpoints. Methods are those of `sql/functions`; what they refuse is a StoreError."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.events: dict[int, StoredEvent] = {}
        self.deliveries: dict[int, StoredDelivery] = {}
        self.attempts: list[StoredAttempt] = []
        self.audit: list[tuple[str, int, str]] = []  # (action, endpoint or delivery id, reason)
        self._clock = clock
        self._endpoints: dict[int, Sched] = {}
        self._idempotency_keys: dict[tuple[str, str], int] = {}
        self._wake: list[tuple[int, float]] = []
        self._weights: dict[str, float] = {}

    # -- producers ---------------------------------------------------------------------------------------------------

    def enqueue(  # noqa: PLR0913 - as the SQL function has them
        self,
        event_type: str,
        payload: bytes,
        *,
        tenant: str = "",
        idempotency_key: str | None = None,
        deliver_at: float | None = None,
        content_type: str = "application/json",
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> int:
        """Queue an event for the tenant's subscribed endpoints; return its id, or the first one's of the same key."""
        event_id = len(self.events) + 1
        if idempotency_key is not None:
            first = self._idempotency_keys.setdefault((tenant, idempotency_key), event_id)
            if first != event_id:
                return first
        trace = trace_context(traceparent, tracestate)
        event = StoredEvent(event_id, tenant, event_type, payload, content_type, trace=trace)
        run_at = self._clock() if deliver_at is None else deliver_at
        self._queue(event, self._subscribers(tenant, patterns(event_type)), run_at)
        return event_id

    def _subscribers(self, tenant: str, wanted: Collection[str]) -> list[Sched]:
        of_tenant = [sched for sched in self._endpoints.values() if sched.config.tenant == tenant]
        return [sched for sched in of_tenant if not set(wanted).isdisjoint(sched.event_types or ("*",))]

    def _queue(self, event: StoredEvent, targets: list[Sched], run_at: float) -> None:
        self.events[event.id] = event
        for sched in targets:
            id_ = len(self.deliveries) + 1
            self.deliveries[id_] = StoredDelivery(id_, sched.config.id, event, run_at)
            insort(sched.queue, (run_at, id_))
            self._wake.append((sched.config.id, run_at))

    def _tell(self, event_type: str, about: Sched, data: Mapping[str, Any]) -> None:
        """Enqueue an operational event for those who name it, and are not the endpoint it is about: see 290_operational.sql."""
        tenant, now = about.config.tenant, self._clock()
        targets = [sched for sched in self._subscribers(tenant, patterns(event_type) - {"*"}) if sched is not about]
        if targets:
            payload = document(event_type, now, data)
            event = StoredEvent(len(self.events) + 1, tenant, event_type, payload, "application/json", operational=True)
            self._queue(event, targets, now)

    # -- operators ---------------------------------------------------------------------------------------------------

    def add_endpoint(self, url: str, *, tenant: str = "", **settings: Any) -> int:
        """Register an endpoint with the settings of `webhook.create_endpoint`, and `keys`; return its id."""
        id_ = len(self._endpoints) + 1
        key = SigningKey(hashlib.sha256(b"endpoint %d" % id_).digest())  # the same in every run
        config = Endpoint(id_, 1, tenant, url, (), 15.0, _DEFAULT_RETRY, (key,))
        self._endpoints[id_] = Sched(config, (), None, 1, 64)
        self.set_endpoint(id_, **settings)
        return id_

    def set_endpoint(self, endpoint_id: int, **changes: Any) -> None:
        """Change settings; what was sent already counts against a new rate, and what is in flight against a first one."""
        sched, now = self._sched(endpoint_id), self._clock()
        if "rate" in changes:
            old, new = sched.rate, changes["rate"]
            if old is None and new is not None:  # what is in flight goes out without a plan
                sched.tat = max(sched.tat, now + sched.in_flight / new)
            elif old is not None and sched.tat > now:
                sched.tat = now + (sched.tat - now) * old / new if new else now
        for name, value in changes.items():
            if name == "headers":
                value = tuple(value.items()) if isinstance(value, Mapping) else tuple(value)  # noqa: PLW2901
            elif name in ("event_types", "retry_seconds", "keys"):
                value = tuple(value)  # noqa: PLW2901
            if name in _CONFIG:
                sched.config = replace(sched.config, **{name: value})
            else:
                setattr(sched, name, value)
        sched.config = replace(sched.config, version=sched.config.version + 1)
        if sched.state == "enabled" and sched.turn is None and sched.circuit.state != "half_open":
            sched.next_at = max(now, sched.not_before)

    def set_tenant(self, tenant: str, weight: float) -> None:
        """Give a tenant its share of the workers, relative to the others' 1."""
        self._weights[tenant] = weight

    def pause(self, endpoint_id: int, reason: str = "") -> None:
        """Hold an endpoint's deliveries until it is resumed."""
        self._refuse_disabled(endpoint_id)
        self._set_state(endpoint_id, "paused", reason, "endpoint.pause")

    def resume(self, endpoint_id: int, reason: str = "") -> None:
        """Release what a pause holds."""
        self._refuse_disabled(endpoint_id)
        self._set_state(endpoint_id, "enabled", reason, "endpoint.resume")

    def disable(self, endpoint_id: int, reason: str = "") -> None:
        """Hold an endpoint's deliveries until it is enabled."""
        self._set_state(endpoint_id, "disabled", reason, "endpoint.disable")

    def enable(self, endpoint_id: int, reason: str = "") -> None:
        """Release what a disabled endpoint holds."""
        self._set_state(endpoint_id, "enabled", reason, "endpoint.enable")

    def state(self, delivery_id: int) -> DeliveryState | Literal["held"]:
        """A delivery's state as the view shows it: pending ones of an endpoint that is not enabled are held."""
        stored = self.deliveries[delivery_id]
        held = stored.state == "pending" and self._endpoints[stored.endpoint_id].state != "enabled"
        return "held" if held else stored.state

    def endpoint_state(self, endpoint_id: int) -> tuple[EndpointState, str]:
        """An endpoint's state and the reason for it."""
        sched = self._sched(endpoint_id)
        return sched.state, sched.state_reason

    def circuit(self, endpoint_id: int) -> str:
        """The state of an endpoint's circuit."""
        return self._sched(endpoint_id).circuit.state

    def _sched(self, endpoint_id: int) -> Sched:
        if endpoint_id not in self._endpoints:
            raise StoreError(f"there is no endpoint {endpoint_id}")
        return self._endpoints[endpoint_id]

    def _refuse_disabled(self, endpoint_id: int) -> None:
        if self._sched(endpoint_id).state == "disabled":
            raise StoreError(f"endpoint {endpoint_id} is disabled")

    def _set_state(self, endpoint_id: int, state: EndpointState, reason: str, action: str) -> None:
        sched, closes = self._sched(endpoint_id), action == "endpoint.enable"
        if sched.state == state and not (closes and sched.circuit.state != "closed"):
            return
        enabled = state == "enabled"
        before = sched.state
        if closes:  # somebody has looked; what failed before then comes back at a growing rate
            failing = sched.circuit.failing_since is not None
            sched.circuit = Circuit(recovering_since=self._clock() if failing else None)
            sched.not_before = -math.inf
        sched.state, sched.state_reason = state, "" if enabled else reason
        sched.turn = None
        if enabled and sched.circuit.state != "half_open":
            sched.next_at = max(self._clock(), sched.not_before)
        else:
            sched.next_at = math.inf
        self.audit.append((action, endpoint_id, reason))
        if "disabled" in (before, state):
            self._tell("endpoint.recovered" if before == "disabled" else "endpoint.disabled", sched, changed(sched, reason))


def patterns(event_type: str) -> set[str]:
    """Return the subscriptions that an event type matches: `a.b.c` gives `*`, `a.b.c`, `a.*` and `a.b.*`."""
    parts = event_type.split(".")
    return {"*", event_type, *(".".join(parts[:n]) + ".*" for n in range(1, len(parts)))}
