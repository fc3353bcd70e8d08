"""What is known after a sale: from tills, from the database, and from each partner's own log. Moments are monotonic seconds."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple


class Sale(NamedTuple):
    """An order that was committed: its number, its event's, and when its transaction began."""

    order: int
    event: int
    at: float


@dataclass
class Partner:
    """One partner: what its log says, and what the database says of it. Events by their ids."""

    arrivals: list[tuple[int, float]]
    """Each request in order: its event, and when it had arrived."""
    delivered: list[int]
    waiting: list[int]
    failed: list[float]
    """When each attempt that did not succeed was made."""

    @cached_property
    def first(self) -> dict[int, float]:
        """When each event came first."""
        return dict(reversed(self.arrivals))


@dataclass
class Play:
    """One sale, and the time after it."""

    sales: list[Sale]
    """In the order of their moments."""
    refused: int
    stored: list[tuple[int | None, int | None]]
    """What the database has: each order with its event. None: an order without, or an event without."""
    partners: dict[str, Partner]
    began: float
    closed: float
    back: float
    """When the partner that was down was started."""
    until: float
    """When the workers were told to end."""
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    """What tills, workers and Postgres used."""

    def ages(self, partner: Partner) -> list[float]:
        """Return each order's seconds to its arrival; one that did not come has been waited for until the end."""
        return [partner.first.get(sale.event, self.until) - sale.at for sale in self.sales]


def write_sales(log: Path, sales: Iterable[Sale]) -> None:
    """Write a till's log."""
    log.write_text("".join(f"{sale.order} {sale.event} {sale.at!r}\n" for sale in sales))


def read_sales(logs: Iterable[Path]) -> list[Sale]:
    """Read the logs of all tills, in the order of their moments."""
    fields = (line.split() for log in logs for line in log.read_text().splitlines())
    return sorted((Sale(int(order), int(event), float(at)) for order, event, at in fields), key=lambda sale: sale.at)


def repeated(arrivals: Iterable[tuple[int, float]]) -> int:
    """Return how many requests were not the first of their event."""
    return sum(times - 1 for times in Counter(event for event, _ in arrivals).values())
