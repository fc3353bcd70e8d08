"""`deliveries show`: why a delivery has not been sent, in words."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.cli.delivery_why import why

NOW = datetime(2026, 1, 31, 9, 0, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
EARLIER = NOW - timedelta(minutes=1)
DUE: dict[str, Any] = {
    "state": "pending", "now": NOW, "attempts": 0, "finished_at": None, "last_error": None, "run_at": EARLIER,
    "set_aside": False, "held_by": None,
    "held_reason": None, "held_at": None, "worker": None, "lease_until": None, "endpoint_id": 7,
    "endpoint_state": "enabled", "endpoint_reason": "", "circuit": "closed", "not_before": None, "rate": None, "tat": None,
    "burst": 1, "in_flight": 0, "max_in_flight": 64, "recovering": False, "ahead": 0,
}  # fmt: skip
AT_LATER, AT_EARLIER = "2026-01-31T09:01:00.000000Z", "2026-01-31T08:59:00.000000Z"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, "due: a worker takes it next. If it stays so, is one running? `webhook-worker check` says"),
        (
            {"ahead": 1},
            (
                "due, behind 1 other of its endpoint: a worker takes it next. If it stays so, is one running? "
                "`webhook-worker check` says"
            ),
        ),
        ({"run_at": LATER}, f"not to be sent before its time, until {AT_LATER}"),
        ({"run_at": LATER, "attempts": 2}, f"waiting for its next attempt, by its retry schedule, until {AT_LATER}"),
        ({"not_before": LATER}, f"the receiver of endpoint 7 asked for quiet until {AT_LATER}"),
        (
            {"circuit": "open", "not_before": LATER},
            (
                f"the circuit of endpoint 7 is open until {AT_LATER}, then one delivery is sent "
                "to see whether the receiver is back"
            ),
        ),
        (
            {"circuit": "open", "not_before": EARLIER},
            ("the circuit of endpoint 7 is open, and now one delivery is sent to see whether the receiver is back"),
        ),
        (
            {"circuit": "half_open"},
            "the circuit of endpoint 7 is half open: one delivery is out to see whether the receiver is back",
        ),
        (
            {"in_flight": 64, "ahead": 12_000},
            ("endpoint 7 has 64 requests in flight, and may have 64, behind 10,000 or more others of its endpoint"),
        ),
        (
            {"rate": 0.5, "tat": NOW, "ahead": 30},
            (f"endpoint 7 is limited to 0.5 a second: its turn is about {AT_LATER}, behind 30 others of its endpoint"),
        ),
        (
            {"rate": 0.5, "burst": 31, "ahead": 30},
            (
                "due, behind 30 others of its endpoint: a worker takes it next. If it stays so, is "
                "one running? `webhook-worker check` says"
            ),
        ),
        (
            {"rate": 2.0, "recovering": True, "ahead": 120},
            (
                "endpoint 7 is recovering, at 2 a second and more by and by: its turn is "
                f"about {AT_LATER}, behind 120 others of its endpoint"
            ),
        ),
        (
            {"endpoint_state": "paused", "endpoint_reason": "their move"},
            ("endpoint 7 is paused (their move). `endpoints resume` lets its deliveries go"),
        ),
        ({"endpoint_state": "disabled"}, "endpoint 7 is disabled. `endpoints enable` lets its deliveries go"),
        (
            {"set_aside": True, "run_at": None, "held_by": "ann", "held_at": EARLIER, "held_reason": "ticket 42"},
            f"held by ann since {AT_EARLIER} (ticket 42). `deliveries release` lets it go",
        ),
        ({"set_aside": True, "run_at": None}, "held. `deliveries release` lets it go"),
        (
            {"state": "in_flight", "worker": "a:1", "lease_until": LATER},
            f"leased by a:1 until {AT_LATER}: being sent, or about to be",
        ),
        (
            {"state": "in_flight", "worker": "a:1", "lease_until": EARLIER},
            (f"was leased by a:1 until {AT_EARLIER}, and not heard of since: the next worker that keeps house takes it back"),
        ),
        ({"state": "delivered", "finished_at": EARLIER}, f"it was delivered at {AT_EARLIER}"),
        (
            {"state": "dead", "attempts": 10, "last_error": "timeout"},
            ("its attempts are used up (10); the last: timeout. `deliveries retry` starts anew"),
        ),
        (
            {"state": "cancelled", "finished_at": EARLIER, "last_error": "purged"},
            (f"it was given up at {AT_EARLIER} (purged). `deliveries retry` brings it back"),
        ),
    ],
)
def test_each_reason_has_its_words(facts: dict[str, Any], expected: str) -> None:
    """One thing in the way, one sentence, and what to do about it."""
    assert [expected] == why({**DUE, **facts})


def test_several_reasons_are_all_told() -> None:
    """Whoever removes the first should not have to ask again."""
    held = {"set_aside": True, "run_at": None, "endpoint_state": "paused"}
    waits = {"circuit": "open", "not_before": LATER, "run_at": LATER, "attempts": 1}

    assert ["held", "endpoint 7 is paused"] == [words.partition(".")[0] for words in why({**DUE, **held})]
    assert ["the circuit", "waiting for"] == [" ".join(words.split()[:2]) for words in why({**DUE, **waits})]
