"""The circuit of an endpoint: when to stop trying, when to look again, and how fast to come back.

Closed: deliveries flow. It opens after so many failures in a row, or when most of the last attempts failed (an
exponentially weighted ratio: twenty attempts or so). Open: nothing is sent, and no delivery spends an attempt. After a
pause, which doubles with every opening and is spread by jitter, one claim takes one delivery as the probe: half-open, one
probe in the whole fleet, since the row says so. If it succeeds the circuit closes, and the rate grows from two a second,
doubling every two seconds, so that a backlog does not knock the receiver over again. (Nygard, "Release It!", 2007.)

`sql/functions/300_record.sql` (`webhook.circuit_after`) is the same decision in SQL; the conformance suite holds them together.
"""

from dataclasses import dataclass, replace
from typing import Literal

State = Literal["closed", "open", "half_open"]
Probe = Literal["ok", "failed", "void"]

OPEN_AFTER_FAILURES = 10
OPEN_AFTER_FAILURES_RECOVERING = 3
OPEN_AT_RATIO = 0.75
KEPT_PER_ATTEMPT = 0.95
PAUSE_SECONDS_MIN = 10.0
PAUSE_SECONDS_MAX = 1800.0
JITTER = 0.2
DISABLE_AFTER_SECONDS = 5 * 86_400.0
RECOVERY_RATE_FIRST = 2.0
RECOVERY_DOUBLES_SECONDS = 2.0
RECOVERY_SECONDS = 20.0

OUR_OWN = frozenset(
    {"lease_expired", "interrupted", "internal_error", "no_key", "no_transport", "bad_endpoint", "event_missing"}
)
"""Outcomes that say nothing of the receiver."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is known of an endpoint's health. Times are Unix seconds; `probe` names the claim that carries the probe."""

    state: State = "closed"
    failures: int = 0
    failure_ratio: float = 0.0
    failing_since: float | None = None
    openings: int = 0
    probe: int | None = None
    recovering_since: float | None = None

    def rate_at(self, rate: float | None, at: float) -> float | None:
        """The rate in force: the endpoint's own, or a lower one while it recovers. None: no limit."""
        if self.recovering_since is None:
            return rate
        growing: float = RECOVERY_RATE_FIRST * 2.0 ** min(10.0, (at - self.recovering_since) / RECOVERY_DOUBLES_SECONDS)
        return growing if rate is None else min(rate, growing)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What outcomes did to a circuit: quiet until then (Unix seconds, None: no new pause), and what to tell."""

    circuit: Circuit
    pause_until: float | None = None
    failing_too_long: bool = False
    recovered: bool = False


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How a batch of attempts ended: how many well and badly, and the probe's end if it was among them."""

    ok: int = 0
    failed: int = 0
    probe: Probe | None = None


def judge(circuit: Circuit, outcomes: Outcomes, now: float, chance: float) -> Judgement:
    """Decide after a batch of outcomes, at `now` (Unix seconds).

    Within a batch the order is not known: one success breaks the row of failures. `chance` in [0, 1) feeds the jitter.
    """
    ok, failed, probe = outcomes.ok, outcomes.failed, outcomes.probe
    weight = KEPT_PER_ATTEMPT ** min(ok + failed, 1000)
    before = circuit.failure_ratio if circuit.failure_ratio > 1e-9 else 0.0  # else SQL would underflow
    ratio = before * weight + ((1 - weight) * failed / (ok + failed) if failed else 0.0)
    failing_since = circuit.failing_since
    if ok:
        failing_since = None
    elif failed and failing_since is None:
        failing_since = now
    after = replace(circuit, failures=0 if ok else circuit.failures + failed, failure_ratio=ratio, failing_since=failing_since)
    too_long = bool(failed) and failing_since is not None and now - failing_since >= DISABLE_AFTER_SECONDS
    if circuit.state == "half_open" and probe == "ok":
        well = replace(after, state="closed", failures=0, failure_ratio=0.0, probe=None, recovering_since=now)
        return Judgement(well, recovered=True)
    if circuit.state == "half_open" and probe == "void":
        return Judgement(replace(after, state="open", probe=None), failing_too_long=too_long)
    limit = OPEN_AFTER_FAILURES if circuit.recovering_since is None else OPEN_AFTER_FAILURES_RECOVERING
    opens = (circuit.state == "half_open" and probe == "failed") or (
        circuit.state == "closed" and failed > 0 and (after.failures >= limit or ratio >= OPEN_AT_RATIO)
    )
    if not opens:
        return Judgement(after, failing_too_long=too_long)
    opened = replace(
        after, state="open", failures=0, failure_ratio=0.0, openings=circuit.openings + 1, probe=None, recovering_since=None
    )
    pause = min(PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN * 2.0 ** min(circuit.openings, 30))
    return Judgement(opened, now + pause * (1 - JITTER + 2 * JITTER * chance), too_long)
