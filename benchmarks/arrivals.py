"""What a receiver's log says, and latencies from it."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple


class Arrival(NamedTuple):
    """One request: its path, monotonic seconds when it had arrived, its webhook-id, and the payload's `sent` (NaN: none)."""

    path: str
    at: float
    message: str
    sent: float


def read_arrivals(log: Path) -> list[Arrival]:
    """Return what a receiver wrote when it ended, in order of arrival."""
    fields = (line.split() for line in log.read_text().splitlines())
    return [Arrival(path, float(at), message, float(sent)) for path, at, message, sent in fields]


def first_arrivals(arrivals: Iterable[Arrival]) -> dict[float, float]:
    """Return, by the moment at which each stamped event was sent, when it came first."""
    first: dict[float, float] = {}
    for arrival in arrivals:
        if not math.isnan(arrival.sent):
            first.setdefault(arrival.sent, arrival.at)
    return first


def latencies(sent: Iterable[float], first: dict[float, float], waited_until: float) -> tuple[list[float], int]:
    """Return each event's seconds to its arrival, and how many never came.

    These count with the time that was waited for them, which is too little: leaving them out would flatter the worst case.
    """
    moments = list(sent)
    missing = sum(moment not in first for moment in moments)
    return [first.get(moment, waited_until) - moment for moment in moments], missing


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` of them do not exceed (nearest rank)."""
    if not values:
        raise ValueError("nothing was measured: run it longer, with a larger --scale")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
