"""The words of this project as types. See docs/glossary.md."""

from dataclasses import dataclass, field
from typing import Literal

from worker.core.signing import Signer

Disposition = Literal["delivered", "retry", "dead", "released"]
"""What becomes of a delivery: terminal, due again later, terminal, or given back unsent (the attempt does not count)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL that receives events, as the worker needs it: `version` rises with every change.

    Without `keys` nothing is sent, since it would be unsigned; `problem` says why else nothing may be sent, if so. `transport`
    names how it is reached, in the workers' configuration. `withheld`: it has been paused, since its keys cannot be unsealed.
    """

    id: int
    version: int
    tenant: str
    url: str
    headers: tuple[tuple[str, str], ...]
    timeout_seconds: float
    retry_seconds: tuple[float, ...]
    keys: tuple[Signer, ...]
    problem: str | None = None
    transport: str = "default"
    withheld: bool = False


@dataclass(slots=True)
class Claim:
    """One leased batch. `lease_expires` is on the pipeline's monotonic clock; `open` counts deliveries not yet recorded."""

    id: int
    lease_seconds: float
    lease_expires: float
    open: int = 0


@dataclass(slots=True)
class Delivery:
    """One event for one endpoint, claimed for one attempt.

    `attempt` counts from 1, this one included; `attempts_before` of them came before the last manual retry.
    `send_at` is the planned send on the database's clock (Unix seconds), None for an endpoint without a rate.
    `payload` is None if the event is gone. `trace` is the headers of the trace context that its producer gave, if any.
    """

    claim: Claim
    id: int
    endpoint: Endpoint
    attempt: int
    attempts_before: int
    send_at: float | None
    event_id: int
    content_type: str
    payload: bytes | None
    parked: bool = False
    """Whether it had to wait for a lane that its endpoint may have."""
    due_at: float | None = None
    """When it became due, on the database's clock (Unix seconds); None where nobody asks."""
    created_at: float | None = None
    """When its event was enqueued, on the same clock."""
    trace: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Request:
    """One HTTP request, ready to be written: everything but the connection. `delivery` is what it is an attempt of."""

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    timeout_seconds: float
    transport: str = "default"
    delivery: Delivery | None = None


@dataclass(slots=True)
class Exchange:
    """What happened on the wire. `status` is None unless a complete response head came.

    `outcome` names the failure if there is no status (`timeout`, `connect`, `tls_certificate`, `blocked_address`, …);
    `error` says more in words, or how the body of a response ended. `body` is what was kept of it, undecoded.
    """

    status: int | None = None
    outcome: str = ""
    error: str | None = None
    body: bytes = b""
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do after an exchange. Durations in seconds."""

    disposition: Disposition
    outcome: str
    retry_seconds: float = 0.0
    hold_seconds: float | None = None
    disable_reason: str | None = None


@dataclass(slots=True)
class Outcome:
    """One delivery's result on its way to the store. `started` is on the pipeline's monotonic clock."""

    delivery: Delivery
    decision: Decision
    started: float
    duration_seconds: float
    exchange: Exchange = field(default_factory=Exchange)
