"""How much one worker process takes on, and what it did."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a worker takes on. Seconds and bytes; every bound is one that a benchmark or a promise needs."""

    concurrency: int = 64
    claimed_max: int = 1024
    ahead_seconds: float = 0.06
    ahead_min: int = 16
    claim_bytes_max: int = 16 * 1024 * 1024
    poll_seconds: float = 0.03
    poll_busy_seconds: float = 0.01
    """After a claim that brought at least `ahead_min`: there will be as many again, soon."""
    idle_wait_seconds: float = 1.0
    drain_seconds: float = 20.0
    slow_share: float = 0.5
    """How much of the lanes is for endpoints of which nobody knows that they answer quickly: in (0, 1]."""
    record_seconds_max: float = 5.0
    retry_store_seconds: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0)

    @classmethod
    def for_lanes(cls, concurrency: int, drain_seconds: float = 20.0, slow_share: float = 0.5) -> "Limits":
        """Sixteen deliveries a lane may be in hand, unrecorded ones included; at least 256, at most 4,000 or two a lane."""
        claimed_max = max(256, min(16 * concurrency, 4000), 2 * concurrency)
        return cls(concurrency, claimed_max, drain_seconds=drain_seconds, slow_share=slow_share)


DEFERRALS = ("draining", "late", "lease_expired", "no_lane", "out_of_files", "quiet", "withheld", "written_again", "not_sent")
"""Why deliveries are given back unsent; docs/metrics.md says what each means."""


@dataclass(slots=True)
class Counts:
    """What this process did since it started."""

    claimed: int = 0
    delivered: int = 0
    retried: int = 0
    dead: int = 0
    deferred: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(DEFERRALS, 0)))
    """Given back unsent, by reason: one of DEFERRALS."""

    @property
    def released(self) -> int:
        """All that were given back unsent."""
        return self.deferred.total()
