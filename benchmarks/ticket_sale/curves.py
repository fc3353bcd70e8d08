"""A sale over time, second by second, from its logs alone: nothing was asked while it ran."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import ceil, inf
from typing import Any

from benchmarks.ticket_sale.evidence import Partner, Play


def curves(play: Play) -> dict[str, Any]:
    """Return what a plot needs, in seconds since the beginning."""
    seconds = ceil(play.until - play.began)
    return {
        "closed": round(play.closed - play.began, 2),
        "back": round(play.back - play.began, 2),
        "sold": per_second((sale.at - play.began for sale in play.sales), seconds),
        "partners": {name: _curves(play, partner, seconds) for name, partner in play.partners.items()},
    }


def _curves(play: Play, partner: Partner, seconds: int) -> dict[str, Any]:
    sold = [sale.at - play.began for sale in play.sales]
    arrived = [partner.first.get(sale.event, inf) - play.began for sale in play.sales]
    moments = [*range(1, seconds), play.until - play.began]
    return {
        "arrivals": per_second((at - play.began for _, at in partner.arrivals), seconds),
        "backlog": backlog(sold, arrived, moments),
        "oldest": oldest(sold, arrived, moments),
        "failed": [round(at - play.began, 2) for at in partner.failed],
    }


def per_second(moments: Iterable[float], seconds: int) -> list[int]:
    """Return how many there are in each second; what comes after the last one counts there."""
    counts = Counter(min(int(moment), seconds - 1) for moment in moments)
    return [counts[second] for second in range(seconds)]


def backlog(sold: Sequence[float], arrived: Iterable[float], moments: Iterable[float]) -> list[int]:
    """Return how many are sold and have not arrived, at each moment. `sold` is ascending."""
    in_order = sorted(arrived)
    return [bisect_right(sold, moment) - bisect_right(in_order, moment) for moment in moments]


def oldest(sold: Sequence[float], arrived: Iterable[float], moments: Iterable[float]) -> list[float]:
    """Return the age of the oldest that has not arrived, at each moment; 0 if there is none. `sold` is ascending."""
    everything_until = list(accumulate(arrived, max))  # when all that were sold up to here had come
    ages = []
    for moment in moments:
        first = bisect_right(everything_until, moment)
        ages.append(round(max(0.0, moment - sold[first]), 2) if first < len(sold) else 0.0)
    return ages
