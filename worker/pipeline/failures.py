"""The log's lines about attempts that failed: one a kind of failure and minute. All of them are in the store."""

import logging
from typing import Any

from worker.core.model import Decision, Delivery, Exchange
from worker.core.sampling import Sampler

log = logging.getLogger("worker.attempts")

_NEXT = {"retry": "to be retried", "dead": "dead", "disabled": "held, as its endpoint is disabled"}
_LEVEL = {"retry": logging.INFO, "dead": logging.WARNING, "disabled": logging.WARNING}


class FailureLog:
    """A kind is an endpoint and what happened; with very many endpoints, what happened. What is over for now is a warning."""

    def __init__(self) -> None:
        self._sampler = Sampler()

    def note(self, delivery: Delivery, decision: Decision, exchange: Exchange, now: float) -> None:
        """Tell of one attempt that failed, or count it."""
        comes_next = "disabled" if decision.disable_reason else decision.disposition
        what = decision.outcome, comes_next
        left_out = self._sampler.admit((delivery.endpoint.id, *what, exchange.status), (None, *what, None), now)
        if left_out is not None:
            log.log(
                _LEVEL[comes_next],
                "endpoint %d: %s%s%s; delivery %d, attempt %d, %s",
                delivery.endpoint.id,
                decision.outcome,
                "" if exchange.status is None else f" {exchange.status}",
                f" ({exchange.error})" if exchange.error else "",
                delivery.id,
                delivery.attempt,
                _NEXT[comes_next],
                extra={
                    "endpoint_id": delivery.endpoint.id,
                    "delivery_id": delivery.id,
                    "event_id": delivery.event_id,
                    "attempt": delivery.attempt,
                    "outcome": decision.outcome,
                    "status": exchange.status,
                    "left_out": left_out,
                },
            )

    def settle(self, now: float, *, all_of_them: bool = False) -> None:
        """Tell how many were left out, where nothing has come since: once a second, and at the end."""
        for kind, left_out in self._sampler.settle(now, all_of_them=all_of_them):
            self._more(kind, left_out)

    def _more(self, kind: Any, left_out: int) -> None:
        endpoint_id, outcome, comes_next, status = kind
        log.log(
            _LEVEL[comes_next],
            "%s: %s%s, %s",
            "other endpoints" if endpoint_id is None else f"endpoint {endpoint_id}",
            outcome,
            "" if status is None else f" {status}",
            _NEXT[comes_next],
            extra={"endpoint_id": endpoint_id, "outcome": outcome, "status": status, "left_out": left_out},
        )
