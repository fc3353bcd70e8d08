"""The judge of `python -m benchmarks chaos`: what is planted is found, each as what it is."""

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.chaos.evidence import Arrival, Attempt, Delivery, Endpoint, Evidence, Frozen, Pair, Produced
from benchmarks.chaos.reconcile import AMBIGUOUS, CRASH, EXPIRED, FORCED, FROZEN, NO_CAUSE, RESENT, Verdict, reconcile

A, B, NEXT = Pair(1, "a"), Pair(1, "b"), Pair(2, "a")
OK = Attempt(A, "ok", "")
LOST = Attempt(A, "lease_expired", "the worker host:77:abc was lost, or out of reach for longer than its lease", at=70.0)
GOOD = Evidence(
    endpoints=(
        Endpoint("a", ("order",), direct=True, rate=1.0, burst=1, max_in_flight=1),
        Endpoint("b", ("order",)),
        Endpoint("c", ("other",)),
    ),
    produced=(Produced("d1", "order", "committed", 1), Produced("d2", "order", "rolled back")),
    stored={1: "d1"},
    deliveries=(Delivery(A, "delivered", 100.1), Delivery(B, "delivered", 100.1)),
    attempts=(OK, Attempt(B, "ok", "")),
    arrivals=(Arrival(A, 100.0, 100.01, "d1", True, 200), Arrival(B, 100.0, 100.01, "d1", True, 200)),
)
FIRST = GOOD.arrivals[0]


def judged(**changes: object) -> Verdict:
    return reconcile(replace(GOOD, **changes))  # type: ignore[arg-type]


def again(*seconds: float, arrival: Arrival = FIRST) -> tuple[Arrival, ...]:
    """The good arrivals, and one of them so many seconds later again."""
    return (*GOOD.arrivals, *(arrival._replace(at=arrival.at + s, ended=arrival.ended + s) for s in seconds))


def test_a_good_run_holds() -> None:
    """And its figures are right."""
    verdict = reconcile(GOOD)
    assert verdict.holds
    figures = (verdict.committed, verdict.rolled_back, verdict.expected, verdict.delivered, verdict.requests)
    assert (1, 1, 2, 2, 2) == figures


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stored": {}, "deliveries": (), "arrivals": ()}, "event 1 was committed, and is not stored as it was"),
        ({"stored": {1: "else"}, "deliveries": (), "arrivals": ()}, "event 1 was committed, and is not stored as it was"),
        ({"deliveries": GOOD.deliveries[1:]}, "event 1 for a was never a delivery"),
        ({"arrivals": GOOD.arrivals[1:]}, "event 1 for a is recorded as delivered, and was not"),
        (
            {"arrivals": (FIRST._replace(status=500), GOOD.arrivals[1])},
            "event 1 for a is recorded as delivered, and was not",
        ),
        ({"deliveries": (Delivery(A, "dead", 101.0), GOOD.deliveries[1])}, "event 1 for a is dead without a reason"),
    ],
    ids=["event", "payload", "delivery", "request", "refused", "no reason"],
)
def test_what_is_lost(changes: dict[str, object], said: str) -> None:
    """A committed event, one of its deliveries, or a request that is only recorded."""
    verdict = judged(**changes)
    assert [said] == verdict.lost
    assert not verdict.holds


def test_a_reason_is_an_end() -> None:
    """What is dead with its reason is not lost, whether it arrived or not."""
    verdict = judged(
        deliveries=(Delivery(A, "dead", 101.0, "timeout: no answer"), GOOD.deliveries[1]),
        attempts=(Attempt(A, "timeout", "no answer"), GOOD.attempts[1]),
        arrivals=GOOD.arrivals[1:],
    )
    assert (True, 1, 1) == (verdict.holds, verdict.dead, verdict.delivered)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arrivals": again(9, arrival=FIRST._replace(pair=Pair(9, "a")))}, "event 9 for a arrived: there is no such event"),
        (
            {"arrivals": again(9, arrival=FIRST._replace(pair=Pair(1, "c")))},
            "event 1 for c arrived: it was not for this endpoint, or was rolled back",
        ),
        ({"arrivals": (FIRST._replace(digest="d2"), GOOD.arrivals[1])}, "event 1 for a arrived: its body is another"),
        ({"arrivals": (FIRST._replace(signed=False), GOOD.arrivals[1])}, "event 1 for a arrived: its signature is wrong"),
        ({"stored": {1: "d1", 2: "d2"}}, "event 2 is stored, though it was rolled back"),
        ({"stored": {1: "d1", 2: "d1"}}, "event 2 is stored, though it is 1 again"),
        ({"stored": {1: "d1", 2: "d3"}}, "event 2 is stored, and nobody enqueued it"),
        (
            {"deliveries": (*GOOD.deliveries, Delivery(Pair(1, "c"), "delivered", 1.0))},
            "event 1 for c is a delivery that nobody asked for",
        ),
    ],
    ids=["event", "endpoint", "body", "signature", "rolled back", "twice", "stranger", "delivery"],
)
def test_what_is_unexpected(changes: dict[str, object], said: str) -> None:
    """Each kind is named."""
    verdict = judged(**changes)
    assert [said] == verdict.unexpected
    assert not verdict.holds


@pytest.mark.parametrize(("stored", "committed"), [({1: "d1", 3: "d3"}, 2), ({1: "d1"}, 1)], ids=["there", "not there"])
def test_a_lost_reply_is_resolved_by_the_database(stored: dict[int, str], committed: int) -> None:
    """What is stored was committed, and is owed to its endpoints."""
    verdict = judged(stored=stored, produced=(*GOOD.produced, Produced("d3", "order", "unknown")))
    assert (committed, 1, 2 * (committed - 1)) == (verdict.committed, verdict.unknown, len(verdict.lost))


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"attempts": (LOST, *GOOD.attempts), "killed": {77: 71.0}}, CRASH),
        ({"attempts": (LOST, *GOOD.attempts)}, EXPIRED),
        ({"attempts": (LOST, *GOOD.attempts), "killed": {77: 101.0}}, EXPIRED),
        ({"attempts": (LOST, *GOOD.attempts), "frozen": (Frozen(77, 60.0, 100.5),)}, FROZEN),
        ({"attempts": (Attempt(A, "timeout", ""), *GOOD.attempts)}, AMBIGUOUS),
        ({"attempts": (Attempt(A, "ok", "written again on a new connection (closed)"), GOOD.attempts[1])}, RESENT),
        ({"attempts": (OK, *GOOD.attempts), "forced": Counter([A])}, FORCED),
    ],
    ids=[CRASH, EXPIRED, "killed later", FROZEN, AMBIGUOUS, RESENT, FORCED],
)
def test_a_duplicate_has_its_cause(changes: dict[str, object], cause: str) -> None:
    """It is a duplicate, and explained."""
    verdict = judged(arrivals=again(1.0), **changes)
    assert (True, {cause: 1}) == (verdict.holds, dict(verdict.duplicates))


@pytest.mark.parametrize(
    "attempts",
    [GOOD.attempts, (OK, *GOOD.attempts), (Attempt(A, "connect", "refused"), *GOOD.attempts)],
    ids=["unrecorded", "twice delivered", "nothing was sent"],
)
def test_a_duplicate_without_a_cause(attempts: tuple[Attempt, ...]) -> None:
    """An attempt that is not on record, and one that had no reason to be, break P3."""
    verdict = judged(arrivals=again(1.0), attempts=attempts)
    assert (False, 1, 1) == (verdict.holds, verdict.duplicates[NO_CAUSE], len(verdict.without_cause))


@pytest.mark.parametrize(("direct", "holds"), [(False, True), (True, False)])
def test_a_lost_attempt_may_have_been_written_again(*, direct: bool, holds: bool) -> None:
    """Behind a proxy, which breaks connections; its worker cannot say so any more. Nowhere more than once."""
    changes = {"attempts": (LOST, *GOOD.attempts), "endpoints": (Endpoint("a", ("order",), direct=direct), GOOD.endpoints[1])}
    verdict = judged(arrivals=again(0.01, 0.02), **changes)
    assert (holds, holds) == (verdict.holds, dict(verdict.duplicates) == {EXPIRED: 1, RESENT: 1})
    assert not judged(arrivals=again(0.01, 0.02, 0.03), **changes).holds


def test_what_is_refused_is_no_duplicate() -> None:
    """A forced retry that fails twice and then goes well makes one."""
    failed = Attempt(A, "http_status", "")
    verdict = judged(
        arrivals=(*again(3.0), *(FIRST._replace(at=FIRST.at + s, ended=FIRST.at + s, status=500) for s in (1.0, 2.0))),
        attempts=(OK, failed, failed, *GOOD.attempts),
        endpoints=(Endpoint("a", ("order",)), GOOD.endpoints[1]),
        forced=Counter([A]),
    )
    assert (True, {FORCED: 1}) == (verdict.holds, dict(verdict.duplicates))


def test_a_failure_makes_no_duplicate() -> None:
    """What its receiver refused, and got again, it got once; and it was recovered."""
    verdict = judged(
        arrivals=(FIRST._replace(status=500), *again(1.0)[1:]), attempts=(Attempt(A, "http_status", ""), *GOOD.attempts)
    )
    assert (True, Counter(), 1) == (verdict.holds, verdict.duplicates, verdict.recovered)


TWO = {
    "produced": (GOOD.produced[0], Produced("d2", "order", "committed", 2)),
    "endpoints": (GOOD.endpoints[0],),
    "stored": {1: "d1", 2: "d2"},
    "deliveries": (Delivery(A, "delivered", 100.1), Delivery(NEXT, "delivered", 100.9)),
    "attempts": (OK, Attempt(NEXT, "ok", "")),
}


@pytest.mark.parametrize(
    ("at", "ended", "said"),
    [
        (100.95, 100.96, []),
        (100.5, 100.51, ["a got 0.40 requests too many in some window"]),
        (101.0, 101.01, []),
    ],
)
def test_a_rate_that_is_not_kept(at: float, ended: float, said: list[str]) -> None:
    """One a second, a tenth of a second early at most."""
    second = FIRST._replace(pair=NEXT, digest="d2", at=at, ended=ended)
    verdict = judged(**TWO, arrivals=(FIRST, second))
    assert said == verdict.out_of_bounds
    assert verdict.holds is not bool(said)


def test_a_cap_that_is_not_kept() -> None:
    """Two at once, where one is allowed."""
    first, second = FIRST._replace(ended=102.0), FIRST._replace(pair=NEXT, digest="d2", at=101.0, ended=101.1)
    assert ["a had 2 requests at once, 1 are allowed"] == judged(**TWO, arrivals=(first, second)).out_of_bounds


LATE = again(3.0)


def test_a_request_after_delivered_was_recorded() -> None:
    """Whatever else explains it."""
    verdict = judged(arrivals=LATE, attempts=(LOST, *GOOD.attempts))
    assert ["event 1 for a arrived 2.9 s after it was recorded as delivered"] == verdict.out_of_bounds


@pytest.mark.parametrize(
    "changes",
    [
        {"attempts": (LOST, *GOOD.attempts), "frozen": (Frozen(77, 60.0, 102.5),)},
        {"attempts": (OK, *GOOD.attempts), "forced": Counter([A])},
    ],
    ids=["frozen", "forced"],
)
def test_who_may_be_late(changes: dict[str, object]) -> None:
    """A process that was frozen between its check and its write, and an operator."""
    assert judged(arrivals=LATE, **changes).holds


@pytest.mark.parametrize(
    ("delivery", "scheduled", "said"),
    [
        (Delivery(A, "pending", waits=True), 1, []),
        (Delivery(A, "pending"), 0, ["event 1 for a is still pending"]),
        (Delivery(A, "in_flight"), 0, ["event 1 for a is still in_flight"]),
    ],
)
def test_what_has_not_ended(delivery: Delivery, scheduled: int, said: list[str]) -> None:
    """What waits for its retry is scheduled; what is due or in flight after the drain is unsettled."""
    verdict = judged(deliveries=(delivery, GOOD.deliveries[1]), arrivals=GOOD.arrivals[1:], attempts=GOOD.attempts[1:])
    assert (scheduled, said) == (verdict.scheduled[A.endpoint], verdict.unsettled)
