"""From an exchange to a decision: delivered, retry when, or dead; and what the endpoint itself must wait for."""

from worker.core.backoff import retry_delay
from worker.core.model import Decision, Delivery, Exchange
from worker.core.retry_after import parse_retry_after

HOLD_WITHOUT_HINT_SECONDS_MAX = 30.0
"""How long an overloaded endpoint rests at most when it does not say for how long."""

_OVERLOADED = (429, 503)
_GONE = 410
_DELIVERED = Decision("delivered", "ok")


def outcome_of(exchange: Exchange) -> str:
    """Return what an attempt with this exchange is recorded as: ok, http_status, or why there was no response."""
    if exchange.status is None:
        return exchange.outcome
    return "ok" if 200 <= exchange.status < 300 else "http_status"


def decide(delivery: Delivery, exchange: Exchange, now: float, chance: float) -> Decision:
    """Judge one attempt.

    `now` (Unix seconds) is what an HTTP date in `Retry-After` is compared with; `chance` in [0, 1) feeds the jitter.
    A complete 2xx head decides, however the body ended. 410 disables the endpoint, and this delivery is held with the
    others. 429 and 503 make the endpoint wait, for as long as it says, at most 24 h, and never less.
    """
    status, outcome = exchange.status, outcome_of(exchange)
    if outcome == "ok":
        return _DELIVERED
    if status == _GONE:
        return Decision("retry", outcome, disable_reason="the receiver answered 410 Gone")
    hint = parse_retry_after(exchange.retry_after, now) if status in _OVERLOADED else None
    delay = retry_delay(delivery.endpoint.retry_seconds, delivery.attempt - delivery.attempts_before, chance)
    hold = hint
    if hold is None and status in _OVERLOADED:
        hold = min(delay or HOLD_WITHOUT_HINT_SECONDS_MAX, HOLD_WITHOUT_HINT_SECONDS_MAX)
    if delay is None or delivery.payload is None:
        return Decision("dead", outcome, hold_seconds=hold)
    return Decision("retry", outcome, retry_seconds=max(delay, hint or 0.0), hold_seconds=hold)
