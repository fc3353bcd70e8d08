"""What the pipeline needs from the world."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from worker.core.model import Claim, Delivery, Exchange, Outcome, Request


class StoreError(Exception):
    """The store failed; nothing was changed, or it is not known whether it was. Calling again is safe.

    `refused` says that it is the content: the same call would fail again.
    """

    refused = False


class NotSentError(Exception):
    """Raised by `before_write`: not one byte of the request may be written. `reason` is one of a few words, to count by."""

    def __init__(self, message: str = "", reason: str = "not_sent") -> None:
        super().__init__(message)
        self.reason = reason


class OutOfFilesError(NotSentError):
    """Raised by a sender: this process may open no more files, so nothing was written. That is nobody else's fault."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "out_of_files")


@dataclass(slots=True)
class Claimed:
    """What a claim brought. `database_now` is the database's Unix time while it ran; `more`: ask again at once.

    `waited_seconds` passed in the store before it read that time, `worked_seconds` after it, by the same clock.
    """

    database_now: float
    claim: Claim | None = None
    deliveries: list[Delivery] = field(default_factory=list)
    more: bool = False
    full: bool = False
    """Whether more is due that could not be claimed, and may be when something has been recorded: an endpoint has as many in
    flight as it may, or somebody, mostly a record, had locked all of those that have more."""
    waited_seconds: float = 0.0
    worked_seconds: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)
    """Those of the tenants in this claim."""


@dataclass(frozen=True, slots=True)
class Avoid:
    """What a worker wants no more of just now: endpoints by id, and whole tenants."""

    endpoints: Collection[int] = ()
    tenants: Collection[str] = ()


NOBODY = Avoid()


class Store(Protocol):
    """Leases, fences and the schedule. Every method may raise StoreError, and may then be called again."""

    async def claim(self, rows_max: int, bytes_max: int, avoid: Avoid = NOBODY, wait_seconds: float = 0.0) -> Claimed:
        """Lease due deliveries: at most `rows_max`, about `bytes_max` of payload, of nobody in `avoid`.

        With nothing to do it may wait so long for something. `lease_expires` is for the caller to set.
        """

    async def record(self, outcomes: Sequence[Outcome], now: float) -> int:
        """Write outcomes, at monotonic time `now`; return how many changed something (the others were fenced off)."""

    async def extend(self, claims: Sequence[int]) -> set[int]:
        """Extend these claims' leases; return those that still exist."""

    async def plan_again(self, delivery: Delivery) -> float | None:
        """Take a token for one more send of a delivery in hand: when it may be, on the database's clock. None: not soon."""

    async def has_due(self) -> bool:
        """Whether anything could be sent now, or as soon as a rate allows."""


class Sender(Protocol):
    """Carries one request. It never raises for what the network or the receiver does: that is in the Exchange."""

    def lead_seconds(self, url: str, transport: str, /) -> float:
        """How long before the first byte `send` should be called: 0 with a connection at hand, else the time to dial."""

    async def send(self, request: Request, before_write: Callable[[bool], Awaitable[None]]) -> Exchange:
        """Send, within the request's one deadline.

        `before_write` is awaited just before the first byte; it may wait for the planned moment, or raise NotSentError. It is
        awaited again, with True, before the request is written once more, because a kept connection turned out to be closed.
        OutOfFilesError if no connection could be opened for want of our own.
        """

    async def aclose(self) -> None:
        """Close what is open."""
