"""What there is to judge after a run: what producers, the database and receivers each say. Times are Unix seconds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from worker.store.memory import LEASE_SECONDS_MIN

LEASE_SECONDS = LEASE_SECONDS_MIN
"""No receiver here has a deadline that would make it longer."""

Fate = Literal["committed", "rolled back", "unknown"]


@dataclass(frozen=True)
class Endpoint:
    """A receiver, and what it may expect. `direct`: no proxy is in between, so that its log tells when it was sent to."""

    name: str
    event_types: tuple[str, ...]
    direct: bool = False
    rate: float | None = None
    burst: int = 1
    max_in_flight: int = 64


class Produced(NamedTuple):
    """An event of a producer's log. `unknown`: the reply to its commit was lost, and it had no idempotency key."""

    digest: str
    event_type: str
    fate: Fate
    event: int | None = None


class Pair(NamedTuple):
    """A delivery, by what it is of: an event's id and an endpoint's name."""

    event: int
    endpoint: str


class Delivery(NamedTuple):
    """Where a delivery stands. `waits`: pending, and not due yet."""

    pair: Pair
    state: str
    finished_at: float | None = None
    last_error: str | None = None
    waits: bool = False


class Attempt(NamedTuple):
    """One recorded attempt. `at` is when it began; when it was claimed, if its lease expired."""

    pair: Pair
    outcome: str
    error: str
    at: float = 0.0


class Arrival(NamedTuple):
    """One request that a receiver has read whole, and when it had answered it, how. `signed`: its signature was valid."""

    pair: Pair
    at: float
    ended: float
    digest: str
    signed: bool
    status: int

    @property
    def accepted(self) -> bool:
        """Whether the receiver took it."""
        return 200 <= self.status < 300


class Frozen(NamedTuple):
    """A worker's process that was stopped, and let go on."""

    pid: int
    since: float
    until: float


@dataclass(frozen=True)
class Evidence:
    """All of it.

    `stored` has the digest of each event's payload, `attempts` are in order, `forced` counts retries of what was delivered.
    """

    endpoints: Sequence[Endpoint]
    produced: Sequence[Produced]
    stored: Mapping[int, str]
    deliveries: Sequence[Delivery]
    attempts: Sequence[Attempt]
    arrivals: Sequence[Arrival]
    forced: Counter[Pair] = field(default_factory=Counter)
    killed: Mapping[int, float] = field(default_factory=dict)
    """When, by process id."""
    frozen: Sequence[Frozen] = ()
