"""Storms become a few lines: core/sampling.py and pipeline/failures.py."""

import logging
import time
from dataclasses import replace

import pytest

from worker.core.model import Claim, Decision, Delivery, Endpoint, Exchange
from worker.core.sampling import Sampler
from worker.pipeline.failures import FailureLog

ENDPOINT = Endpoint(1, 1, "", "https://example.com/", (), 15.0, (5.0,), ())
DELIVERY = Delivery(Claim(1, 30.0, 0.0), 5, ENDPOINT, 2, 0, None, 9, "text/plain", b"")
RETRY, DEAD = Decision("retry", "http_status"), Decision("dead", "timeout")


def test_the_first_at_once_then_one_a_minute_with_how_many_were_left_out() -> None:
    sampler = Sampler()

    assert 0 == sampler.admit("a", "w", 0.0)
    assert [None] * 59 == [sampler.admit("a", "w", float(second)) for second in range(1, 60)]
    assert (59, None) == (sampler.admit("a", "w", 60.0), sampler.admit("a", "w", 61.0))


def test_kinds_do_not_hide_each_other() -> None:
    sampler = Sampler()

    assert [0, 0, None] == [sampler.admit(kind, "w", 0.0) for kind in ("a", "b", "a")]


def test_too_many_kinds_count_as_their_wider_one() -> None:
    """Until a minute later those that came no more are forgotten."""
    sampler = Sampler(kinds_max=3)
    told = [sampler.admit(kind, "wider", 0.0) for kind in range(10)]
    later = [sampler.admit(kind, "wider", 100.0) for kind in range(20, 22)]

    assert [0, 0, 0, 0, *[None] * 6] == told
    assert [0, 0] == later


def test_what_was_left_out_last_is_told_too() -> None:
    """A storm that ends does not take its number along."""
    sampler = Sampler()
    for _ in range(5):
        sampler.admit("a", "w", 0.0)

    assert [] == sampler.settle(59.0)
    assert [("a", 4)] == sampler.settle(60.0)
    assert [] == sampler.settle(200.0)
    sampler.admit("a", "w", 201.0)
    sampler.admit("a", "w", 202.0)
    assert [("a", 1)] == sampler.settle(203.0, all_of_them=True)


def test_a_failed_attempt_says_what_whose_and_what_next(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    failures = FailureLog()
    failures.note(DELIVERY, RETRY, Exchange(503), 0.0)
    failures.note(DELIVERY, DEAD, Exchange(None, "timeout", "not complete within 15 s"), 0.0)
    failures.note(DELIVERY, replace(RETRY, disable_reason="gone"), Exchange(410), 0.0)

    assert [
        "endpoint 1: http_status 503; delivery 5, attempt 2, to be retried",
        "endpoint 1: timeout (not complete within 15 s); delivery 5, attempt 2, dead",
        "endpoint 1: http_status 410; delivery 5, attempt 2, held, as its endpoint is disabled",
    ] == caplog.messages
    assert ["INFO", "WARNING", "WARNING"] == [record.levelname for record in caplog.records]
    said = [
        (record.__dict__["endpoint_id"], record.__dict__["delivery_id"], record.__dict__["status"]) for record in caplog.records
    ]
    assert [(1, 5, 503), (1, 5, None), (1, 5, 410)] == said


def test_a_storm_of_100_000_failed_attempts_is_few_lines_and_nearly_free(caplog: pytest.LogCaptureFixture) -> None:
    """Of 1,000 endpoints in two minutes: the first hundred are told of, the others together; and all are counted."""
    caplog.set_level(logging.INFO)
    failures = FailureLog()
    deliveries = [replace(DELIVERY, endpoint=replace(ENDPOINT, id=id_)) for id_ in range(1000)]
    exchange = Exchange(None, "connect", "refused")
    decision = Decision("retry", "connect")
    started = time.process_time()
    for nth in range(100_000):
        failures.note(deliveries[nth % 1000], decision, exchange, nth * 120 / 100_000)
    spent = time.process_time() - started
    failures.settle(121.0, all_of_them=True)

    assert len(caplog.records) <= 3 * 101
    assert 100_000 == sum(
        1 - ("other" in r.getMessage() or "delivery" not in r.getMessage()) + r.__dict__["left_out"] for r in caplog.records
    )
    assert spent < 100_000 * 10e-6, "more than 10 µs an attempt"
