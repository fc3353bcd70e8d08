"""Who receives what, and how it is reached."""

from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.chaos.evidence import Endpoint

NAME = "receiver.chaos.test"
TIMEOUT_SECONDS = 4.0
RETRY_SECONDS = [0.5, 1.0, 1.0, 2.0, 2.0] + [4.0] * 90
RETRY_SECONDS_MAX = 4.0

ORDER, LIMITED, SLOW, CAPPED, VOID = "order", "limited", "slow", "capped", "void"
SHARES = {ORDER: 0.7, LIMITED: 0.15, SLOW: 0.03, CAPPED: 0.12}
"""Of a producer's events. What is limited comes a little faster than its rate, as long as nothing is wrong."""
VOID_EVENTS = 3
"""Few enough that their failures do not open a circuit: then they would wait, not end."""

Via = Literal["address", "proxy", "name", "nowhere"]


@dataclass(frozen=True)
class Site:
    """An endpoint, how its receiver behaves (see `receivers.py`), and what is between it and the workers."""

    endpoint: Endpoint
    behaviour: str = "well"
    via: Via = "address"
    retry_seconds: tuple[float, ...] = tuple(RETRY_SECONDS)

    @property
    def settings(self) -> dict[str, Any]:
        """What `webhook.create_endpoint` is told."""
        return {
            "event_types": self.endpoint.event_types,
            "rate": self.endpoint.rate,
            "burst": self.endpoint.burst,
            "max_in_flight": self.endpoint.max_in_flight,
            "timeout_seconds": TIMEOUT_SECONDS,
            "retry_seconds": self.retry_seconds,
        }


SITES = (
    Site(Endpoint("plain", (ORDER,), direct=True)),
    Site(Endpoint("unhurried", (ORDER,), direct=True), "unhurried"),
    Site(Endpoint("moody", (ORDER,), direct=True), "moody"),
    *(Site(Endpoint(f"proxied-{n}", (ORDER,)), via="proxy") for n in (1, 2, 3)),
    Site(Endpoint("named", (ORDER,), direct=True), "closes", "name"),
    Site(Endpoint("limited", (LIMITED,), direct=True, rate=5.0, burst=2)),
    Site(Endpoint("trickle", (SLOW,), direct=True, rate=1.0)),
    Site(Endpoint("capped", (CAPPED,), direct=True, max_in_flight=2), "slow"),
    Site(Endpoint("void", (VOID,)), via="nowhere", retry_seconds=(1.0, 1.0)),
)
