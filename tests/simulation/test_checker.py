"""The checker over histories that were written by hand: one that keeps every promise, and one that breaks each."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from checker import Checker
from history import (
    Answered,
    Brought,
    Changed,
    Committed,
    Disturbed,
    Ended,
    Entry,
    Extended,
    Granted,
    NotExtended,
    Operated,
    TakenBack,
    Told,
    Written,
)
from scenario import EndpointPlan, EventPlan, Scenario
from violation import Violation

from worker.core.model import Disposition

UNIX = 1_800_000_000.0
PLAN = EndpointPlan(1, "")
SCENARIO = Scenario(0, calm=False, workers=1, lanes=2, hang_database=0.0, lose_replies=0.0, endpoints=(PLAN,))


def at(seconds: float) -> tuple[float, float]:
    return seconds, UNIX + seconds


def enqueued(seconds: float = 0.0, delivery: int = 1) -> list[Entry]:
    changed = Changed(*at(seconds), "enqueue", delivery, delivery, 1, "none", "pending", 0)
    return [Committed(*at(seconds), delivery, b"%d" % delivery, (1,), UNIX + seconds), changed]


def claimed(seconds: float = 1.0, claim: int = 1, attempt: int = 1, delivery: int = 1, process: str = "0.1") -> list[Entry]:
    return [
        Granted(*at(seconds), process, claim, delivery, 1, attempt, UNIX + seconds + 30, "closed"),
        Changed(*at(seconds), "claim", delivery, delivery, 1, "pending", "in_flight", attempt),
        Brought(*at(seconds), process, claim),
    ]


def sent(seconds: float = 1.1, claim: int = 1, attempt: int = 1, delivery: int = 1, **changes: Any) -> list[Entry]:
    body = b"%d" % delivery
    written = Written(
        *at(seconds),
        "0.1",
        claim,
        delivery,
        attempt,
        1,
        delivery,
        body,
        verified=True,
        again=False,
        frozen=False,
        timestamp=int(UNIX + seconds),
    )
    return [replace(written, **changes)]


def answered(seconds: float = 1.2, claim: int = 1, status: int | None = 200, delivery: int = 1) -> list[Entry]:
    return [Answered(*at(seconds), "0.1", claim, delivery, status)]


def recorded(
    seconds: float = 1.3, claim: int = 1, told: Disposition = "delivered", after: str = "delivered", attempt: int = 1
) -> list[Entry]:
    changed = Changed(*at(seconds), "record", 1, 1, 1, "in_flight", after, attempt)
    return [Told(*at(seconds), "0.1", claim, 1, told, None), changed]


def reaped(seconds: float, attempt: int = 1) -> list[Entry]:
    return [Changed(*at(seconds), "reap", 1, 1, 1, "in_flight", "pending", attempt)]


def judged(*entries: Sequence[Entry], scenario: Scenario = SCENARIO) -> Violation | None:
    checker = Checker(scenario)
    for entry in (one for part in entries for one in part):
        if found := checker.look(entry):
            return found
    return checker.finish()


def test_all_is_well() -> None:
    """Enqueued, claimed, sent, answered, recorded; and once more after a crash."""
    assert judged(enqueued(), claimed(), sent(), answered(), recorded()) is None
    crash = [Disturbed(*at(2), "0.1", "killed", 2.0)]
    again = claimed(40, 2, 2, process="0.2"), sent(41, 2, 2), answered(42, 2), recorded(43, 2, attempt=2)
    assert judged(enqueued(), claimed(), sent(), crash, reaped(32), *again) is None


@pytest.mark.parametrize(
    "reason",
    [
        [Disturbed(*at(2), "0.1", "killed", math.inf), Extended(*at(5), 1, UNIX + 31)],  # by a call that outlived it
        [NotExtended(*at(18.5), "0.1", (2,)), NotExtended(*at(27), "0.1", (1, 2))],
    ],
)
def test_a_lease_may_end(reason: list[Entry]) -> None:
    """Its process is gone for ever, or has tried twice in vain."""
    again = claimed(40, 2, 2, process="0.2"), sent(41, 2, 2), answered(42, 2), recorded(43, 2, attempt=2)
    assert judged(enqueued(), claimed(), reason, reaped(32), *again) is None


FAILED = recorded(1.3, told="retry", after="pending")
HOLD = [Told(*at(1.3), "0.1", 1, 1, "retry", 429, 0.0, 8.0), Changed(*at(1.3), "record", 1, 1, 1, "in_flight", "pending", 1)]
BROKEN: dict[str, tuple[str, Sequence[Sequence[Entry]]]] = {
    "nothing is queued for a subscriber": ("P1", [enqueued()[:1]]),
    "it never ends": ("P1", [enqueued()]),
    "it is given up too early": ("P1", [enqueued(), claimed(), recorded(told="dead", after="dead")]),
    "queued twice": ("P3", [enqueued(), [Changed(*at(0), "enqueue", 2, 1, 1, "none", "pending", 0)]]),
    "claimed before it is due": (
        "P1",
        [[replace(enqueued()[0], deliver_at=UNIX + 9)], enqueued()[1:], claimed()],  # type: ignore[call-arg]  # it is Committed
    ),
    "claimed while it is paused": ("P7", [enqueued(), [Operated(*at(0.5), "pause", 1, None)], claimed()]),
    "claimed while its receiver has asked for quiet": (
        "P4",
        [enqueued(), claimed(), sent(), answered(status=429), HOLD, claimed(5, 2, 2)],
    ),
    "an old timestamp": ("P2", [enqueued(), claimed(), sent(timestamp=0)]),
    "a process that does not end": ("P6", [[Ended(*at(30), "0.1", 25.0, 0)]]),
    "a process that leaves something": ("P6", [[Ended(*at(30), "0.1", 5.0, 1)]]),
    "a lease that ends though it was extended after the trouble": (
        "P3",
        [
            enqueued(),
            claimed(),
            [Disturbed(*at(2), "0.1", "frozen", 5.0), Extended(*at(11), 1, UNIX + 41), NotExtended(*at(30), "0.1", (1,))],
            reaped(42),
        ],
    ),
    "nobody enqueued it": ("P2", [enqueued()[1:]]),
    "another body": ("P2", [enqueued(), claimed(), sent(body=b"2")]),
    "a wrong signature": ("P2", [enqueued(), claimed(), sent(verified=False)]),
    "sent after it was delivered": ("P3", [enqueued(), claimed(), sent(), answered(), recorded(), sent(2)]),
    "sent under a lease that has ended": ("P3", [enqueued(), claimed(), sent(31.5)]),
    "sent though it was told": ("P3", [enqueued(), claimed(), [TakenBack(*at(2), "0.1", 1)], sent(2.1)]),
    "claimed twice": ("P3", [enqueued(), claimed(), claimed(2, 2)]),
    "a lease that ends without a reason": (
        "P3",
        [enqueued(), claimed(), [Extended(*at(11), 1, UNIX + 41), NotExtended(*at(30), "0.1", (1,))], reaped(42)],
    ),
    "a lease that is given up after two tries": (
        "P3",
        [enqueued(), claimed(), [NotExtended(*at(12), "0.1", (1,)), NotExtended(*at(13), "0.1", (1,))], reaped(32)],
    ),
    "a lease that is forgotten among others": (
        "P3",
        [enqueued(), claimed(), [NotExtended(*at(18.5), "0.1", (2,)), NotExtended(*at(27), "0.1", (2,))], reaped(32)],
    ),
    "a lease that is taken back early": ("P3", [enqueued(), claimed(), [Disturbed(*at(2), "0.1", "killed", 2.0)], reaped(3)]),
    "recorded under another's fence": (
        "P3",
        [
            enqueued(),
            claimed(),
            sent(),
            [Disturbed(*at(2), "0.1", "frozen", 40.0)],
            reaped(32),
            claimed(33, 2, 2),
            recorded(41),
        ],
    ),
    "an attempt that does not count": (
        "P3",
        [enqueued(), claimed(), sent(), [Disturbed(*at(2), "0.1", "killed", 2.0)], reaped(32), claimed(33, 2), sent(34, 2)],
    ),
    "given back as unsent, but sent": ("P3", [enqueued(), claimed(), sent(), recorded(told="released", after="pending")]),
    "a failure that is recorded as delivered": ("P3", [enqueued(), claimed(), sent(), answered(status=500), recorded()]),
    "an idempotency key that is used twice": (
        "P3",
        [[Committed(*at(0), n, b"1", (), UNIX, ("", "k")) for n in (1, 2)]],
    ),
    "out of an end": (
        "P7",
        [
            enqueued(),
            claimed(),
            sent(),
            answered(),
            recorded(),
            [Changed(*at(2), "claim", 1, 1, 1, "delivered", "in_flight", 2)],
        ],
    ),
}


@pytest.mark.parametrize(("promise", "history"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken(promise: str, history: Sequence[Sequence[Entry]]) -> None:
    """Each of these breaks a promise, and the checker names it."""
    found = judged(*history)
    assert found is not None
    assert promise == found.promise


def test_more_than_the_rate() -> None:
    """At 1/s two requests at once are one too many (P4); after the limit was lifted they are not."""
    limited = replace(SCENARIO, endpoints=(replace(PLAN, rate=1.0),))
    pair = [[*enqueued(0, n), *claimed(1, n, 1, n), *sent(5, n, 1, n), *answered(5.1, n, 200, n)] for n in (1, 2)]
    ends: list[Entry] = []
    for n in (1, 2):
        changed = Changed(*at(6), "record", n, n, 1, "in_flight", "delivered", 1)
        ends += [Told(*at(6), "0.1", n, n, "delivered", 200), changed]
    found = judged(*pair, ends, scenario=limited)
    assert found is not None
    assert "P4" == found.promise
    lifted: list[Entry] = [Operated(*at(0.5), "rate", 1, None)]
    assert judged(lifted, *pair, ends, scenario=limited) is None


def test_more_than_the_cap() -> None:
    """One more in flight than allowed (P4), by its plan or by what an operator made of it."""
    capped = replace(SCENARIO, endpoints=(replace(PLAN, max_in_flight=1),))
    operated: list[Entry] = [Operated(*at(0.5), "cap", 1, 1.0)]
    pair = enqueued(), enqueued(0, 2), claimed(), claimed(1.5, 2, 1, 2)
    for found in (judged(*pair, scenario=capped), judged(operated, *pair)):
        assert found is not None
        assert "P4" == found.promise


def test_two_probes() -> None:
    """An open circuit lets one through, a half-open none (P5)."""
    for circuits in (("open", "open"), ("half_open",)):
        entries: list[Entry] = []
        for n, circuit in enumerate(circuits, 1):
            entries += enqueued(0, n)
            entries += [replace(one, circuit=circuit) if isinstance(one, Granted) else one for one in claimed(1, 1, 1, n)]
        found = judged(entries)
        assert found is not None
        assert "P5" == found.promise


def test_poison_has_to_die() -> None:
    """What kills whoever sends it may not be delivered, nor go round for ever (P6)."""
    poison = replace(SCENARIO, events=(EventPlan(0.0, 1, "", poison=True),))
    payload = poison.events[0].payload
    committed: list[Entry] = [replace(enqueued()[0], payload=payload), enqueued()[1]]  # type: ignore[call-arg]  # it is Committed
    found = judged(committed, claimed(), sent(body=payload), answered(), recorded(), scenario=poison)
    assert found is not None
    assert "P6" == found.promise


def test_waiting_for_others() -> None:
    """Without faults, a receiver that is well gets a delivery within three seconds of its commit (P5)."""
    calm = replace(SCENARIO, calm=True)
    slow = enqueued(30), claimed(34), sent(34.1), answered(34.2), recorded(34.3)
    found = judged(*slow, scenario=calm)
    assert found is not None
    assert "P5" == found.promise
    assert judged(enqueued(30), claimed(31), sent(31.1), answered(31.2), recorded(31.3), scenario=calm) is None
