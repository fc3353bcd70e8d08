"""What is counted of a worker's attempts, and whose names are shown."""

from dataclasses import replace
from typing import Any

import pytest

from worker.core.model import Claim, Decision, Delivery, Endpoint, Exchange, Outcome
from worker.pipeline.tally import Histogram, Tally
from worker.service.top_endpoints import LOOK_SECONDS, TopEndpoints

DELIVERED, RETRY = Decision("delivered", "ok"), Decision("retry", "http_status")


def delivery(endpoint: int = 1, tenant: str = "", **changes: Any) -> Delivery:
    of = Endpoint(endpoint, 1, tenant, "https://example.com/", (), 15.0, (), ())
    one = Delivery(Claim(1, 30.0, 30.0), 1, of, 1, 0, None, 1, "", b"")
    return replace(one, **changes)


def outcome(of: Delivery, decision: Decision = DELIVERED, status: int | None = 200, seconds: float = 0.5) -> Outcome:
    return Outcome(of, decision, 100.0, seconds, Exchange(status))


@pytest.mark.parametrize(("value", "bucket"), [(0.0, 0), (1.0, 0), (1.001, 1), (2.0, 1), (2.001, 2)])
def test_a_bound_belongs_to_its_bucket(value: float, bucket: int) -> None:
    """As Prometheus has it: less than or equal."""
    histogram = Histogram((1.0, 2.0))
    histogram.add(value)
    assert ([int(n == bucket) for n in range(3)], value) == (histogram.counts, histogram.sum)


def test_attempts_are_counted_by_outcome_and_class() -> None:
    """What was given back unsent is none."""
    tally = Tally()
    tally.clock.observe(0.0, 1000.0, 0.0)
    tally.add([outcome(delivery()), outcome(delivery(), RETRY, 503), outcome(delivery(), Decision("retry", "timeout"), None)])
    tally.add([outcome(delivery(), Decision("released", "released"), None), outcome(delivery())])
    assert {("ok", 2): 2, ("http_status", 5): 1, ("timeout", 0): 1} == tally.attempts
    assert (4, 2.0) == (sum(tally.durations.counts), tally.durations.sum)


@pytest.mark.parametrize(
    ("changes", "decision", "lag", "latency"),
    [
        ({"due_at": 1097.0, "created_at": 1090.0}, DELIVERED, 3.0, 3.5),
        ({"due_at": 1097.0, "created_at": 1090.0, "attempt": 2}, DELIVERED, 3.0, 10.5),
        ({"due_at": 1097.0, "created_at": 1090.0, "send_at": 1099.0}, DELIVERED, 1.0, 3.5),
        ({"due_at": 1097.0, "created_at": 1090.0, "send_at": 1101.0}, DELIVERED, 0.0, 3.5),
        ({"due_at": 1097.0, "created_at": 1090.0}, RETRY, 3.0, 0.0),
        ({}, DELIVERED, 0.0, 0.0),
    ],
)
def test_lag_is_to_the_plan_and_latency_to_the_first_due(
    changes: dict[str, Any], decision: Decision, lag: float, latency: float
) -> None:
    """On the database's clock, which is a thousand seconds ahead here: the attempt began at 1100 and took half a second."""
    tally = Tally()
    tally.clock.observe(0.0, 1000.0, 0.0)
    tally.add([outcome(delivery(**changes), decision)])
    assert tally.lags.sum == pytest.approx(lag)
    assert tally.latencies.sum == pytest.approx(latency)


def test_the_busiest_have_names_and_every_series_only_grows() -> None:
    """Names change hands once a minute; what is not named is counted with the others, and nothing is counted twice."""
    now = 0.0
    top = TopEndpoints(2, lambda: now)

    def attempts(*endpoints: int) -> None:
        for endpoint in endpoints:
            top.add(outcome(delivery(endpoint, f"t{endpoint}")))

    def totals() -> dict[str, int]:
        return {name: of.attempts["ok"] for name, of in top.totals()}

    attempts(1, 1, 1, 2, 2, 3)
    assert {"1": 0, "2": 0, "other": 6} == totals()
    attempts(1, 2, 3, 3, 3, 3)
    assert {"1": 1, "2": 1, "other": 10} == totals()
    now += LOOK_SECONDS
    assert {"3": 0, "2": 1, "other": 10} == totals()  # of two that were equally busy, the younger
    attempts(3, 3)
    assert {"3": 2, "2": 1, "other": 10} == totals()


def test_a_failure_is_a_result() -> None:
    """Whatever is not delivered is failed, with its time."""
    top = TopEndpoints(0, lambda: 0.0)
    top.add(outcome(delivery(), RETRY, 500, seconds=2.0))
    top.add(outcome(delivery(), DELIVERED, seconds=0.5))
    ((name, totals),) = top.totals()
    assert ("other", {"ok": 1, "failed": 1}, {"ok": 0.5, "failed": 2.0}) == (name, totals.attempts, totals.seconds)
