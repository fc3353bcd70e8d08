"""The decision table: from an exchange to what becomes of the delivery and of its endpoint."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.classify import HOLD_WITHOUT_HINT_SECONDS_MAX, decide
from worker.core.model import Claim, Decision, Delivery, Endpoint, Exchange
from worker.core.signing import SigningKey

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT
SCHEDULE = (5.0, 300.0, 1800.0)
NO_JITTER = 0.5

ENDPOINT = Endpoint(1, 1, "", "https://example.com/", (), 15.0, SCHEDULE, (SigningKey(b"k" * 24),))
DELIVERY = Delivery(Claim(1, 30.0, 30.0), 1, ENDPOINT, 1, 0, None, 1, "application/json", b"{}")

FAILURES = ["timeout", "connect", "tls_certificate", "blocked_address", "protocol_error", "no_key", "internal_error"]


def decided(exchange: Exchange, delivery: Delivery = DELIVERY, chance: float = NO_JITTER) -> Decision:
    return decide(delivery, exchange, NOW, chance)


@pytest.mark.fault(27)
@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
@pytest.mark.parametrize("exchange", [Exchange(), Exchange(outcome="timeout", error="cut off"), Exchange(retry_after="120")])
def test_2xx(status: int, exchange: Exchange) -> None:
    """A complete 2xx head decides, however the body ended and whatever else it says."""
    assert Decision("delivered", "ok") == decided(replace(exchange, status=status))


@pytest.mark.fault(16)
@pytest.mark.fault(24)
@pytest.mark.fault(25)
@pytest.mark.fault(31)
@pytest.mark.parametrize(
    "status", [100, 101, 103, 199, 300, 301, 302, 307, 308, 400, 401, 403, 404, 409, 413, 418, 500, 502, 504, 599, 600, 999, 0]
)
def test_other_status(status: int) -> None:
    """Every other status is a failure that is retried, redirects too; a Retry-After counts only where it is meant."""
    assert Decision("retry", "http_status", retry_seconds=5.0) == decided(Exchange(status, retry_after="3600"))


@pytest.mark.fault(15)
@pytest.mark.fault(19)
@pytest.mark.fault(32)
@pytest.mark.parametrize("outcome", FAILURES)
def test_no_status(outcome: str) -> None:
    """Without a response the sender's reason stands, and the delivery is retried."""
    assert Decision("retry", outcome, retry_seconds=5.0) == decided(Exchange(outcome=outcome))


@pytest.mark.parametrize(("attempt", "delay"), [(1, 5.0), (2, 300.0), (3, 1800.0)])
def test_schedule(attempt: int, delay: float) -> None:
    """Each attempt waits for its delay."""
    assert delay == decided(Exchange(500), replace(DELIVERY, attempt=attempt)).retry_seconds


@pytest.mark.parametrize("exchange", [Exchange(500), *(Exchange(outcome=outcome) for outcome in FAILURES)])
@pytest.mark.parametrize("attempt", [4, 5, 1030])
def test_used_up(attempt: int, exchange: Exchange) -> None:
    """After the last delay the delivery is dead."""
    assert Decision("dead", exchange.outcome or "http_status") == decided(exchange, replace(DELIVERY, attempt=attempt))


def test_no_retries() -> None:
    """An endpoint without a schedule gets one attempt."""
    once = replace(DELIVERY, endpoint=replace(ENDPOINT, retry_seconds=()))
    assert "dead" == decided(Exchange(500), once).disposition
    assert "delivered" == decided(Exchange(200), once).disposition


@pytest.mark.parametrize(("attempt", "delay"), [(11, 5.0), (12, 300.0), (13, 1800.0), (14, None)])
def test_manual_retry(attempt: int, delay: float | None) -> None:
    """A manual retry starts the schedule anew."""
    decision = decided(Exchange(500), replace(DELIVERY, attempt=attempt, attempts_before=10))
    expected = Decision("dead", "http_status") if delay is None else Decision("retry", "http_status", retry_seconds=delay)
    assert expected == decision


@pytest.mark.fault(34)
@pytest.mark.parametrize("attempt", [1, 3, 4, 100])
def test_gone(attempt: int) -> None:
    """410 disables the endpoint, and the delivery is held with the others, even after its last attempt."""
    decision = decided(Exchange(410, retry_after="60"), replace(DELIVERY, attempt=attempt))
    assert Decision("retry", "http_status", disable_reason="the receiver answered 410 Gone") == decision


@pytest.mark.fault(33)
@pytest.mark.fault(35)
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("hint", "retry", "hold"),
    [
        ("120", 120.0, 120.0),
        ("2", 5.0, 2.0),
        ("1000000000", 86_400.0, 86_400.0),
        ("Sun, 06 Nov 1994 08:51:37 GMT", 120.0, 120.0),
        (None, 5.0, 5.0),
        ("-5", 5.0, 5.0),
        ("٣", 5.0, 5.0),
        ("Sun, 06 Nov 1994 08:49:36 GMT", 5.0, 5.0),
    ],
)
def test_overloaded(status: int, hint: str | None, retry: float, hold: float) -> None:
    """429 and 503 make the whole endpoint wait, for as long as they say or else for the first delay."""
    assert Decision("retry", "http_status", retry, hold) == decided(Exchange(status, retry_after=hint))


@pytest.mark.fault(35)
@pytest.mark.parametrize("attempt", [2, 3, 4])
def test_overloaded_without_hint(attempt: int) -> None:
    """An endpoint that does not say for how long rests half a minute at most, though this delivery waits longer."""
    assert HOLD_WITHOUT_HINT_SECONDS_MAX == decided(Exchange(503), replace(DELIVERY, attempt=attempt)).hold_seconds


@pytest.mark.fault(35)
def test_overloaded_and_used_up() -> None:
    """The last attempt of one delivery still makes its endpoint wait for the others."""
    assert Decision("dead", "http_status", hold_seconds=600.0) == decided(
        Exchange(429, retry_after="600"), replace(DELIVERY, attempt=4)
    )


def test_event_missing() -> None:
    """Without its payload a delivery can never be sent: it is dead at once."""
    assert Decision("dead", "event_missing") == decided(Exchange(outcome="event_missing"), replace(DELIVERY, payload=None))


statuses = st.none() | st.integers(0, 999) | st.sampled_from([410, 429, 503])
hints = st.none() | st.integers(-10, 10**6).map(str) | st.text(max_size=8)


@settings(deadline=None, max_examples=40)
@given(
    status=statuses,
    hint=hints,
    attempt=st.integers(1, 10),
    before=st.integers(0, 9),
    schedule=st.lists(st.floats(0, 1e9), max_size=5),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_every_decision(
    *, status: int | None, hint: str | None, attempt: int, before: int, schedule: list[float], chance: float
) -> None:
    """Whatever comes: delivered if and only if 2xx, dead only when the schedule is used up, and no hint is undercut."""
    delivery = replace(
        DELIVERY, endpoint=replace(ENDPOINT, retry_seconds=tuple(schedule)), attempt=attempt + before, attempts_before=before
    )
    decision = decided(Exchange(status, "" if status is not None else "timeout", retry_after=hint), delivery, chance)
    assert (status is not None and 200 <= status < 300) == (decision.disposition == "delivered")
    assert decision.outcome
    assert (decision.disable_reason is not None) == (status == 410)
    assert (decision.hold_seconds is not None) == (status in (429, 503))
    if decision.disposition == "dead":
        assert attempt > len(schedule)
    if status in (429, 503) and hint is not None and hint.isascii() and hint.isdigit() and int(hint):
        assert min(int(hint), 86_400) == decision.hold_seconds
        assert decision.disposition == "dead" or min(int(hint), 86_400) <= decision.retry_seconds
