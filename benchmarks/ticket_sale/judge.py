"""What a sale has to keep, and whether it did."""

from bisect import bisect_left
from typing import Any

from benchmarks.arrivals import percentile
from benchmarks.report import Report
from benchmarks.ticket_sale.curves import curves
from benchmarks.ticket_sale.evidence import Partner, Play, repeated
from worker.core.audit import TOLERANCE_SECONDS, worst_excess

FINE, LIMITED, DOWN = "fine", "limited", "down"
RATE, BURST = 50.0, 1
FAILED_MAX = 100
RATIO_MAX = 2.0
SECONDS_MIN = 0.1
"""A latency below this is taken to be this: of what nobody notices, twice as much means nothing."""
PACE_RATIO_MAX = 1.1
"""Two sales whose paces differ by more cannot be compared."""

TARGET = (
    "each order has its event, and there is no other; for each partner, what was delivered and what waits is what was sold, "
    "and its log has what was delivered, once each; the fine one has everything, with p50 and p99 at most "
    f"{RATIO_MAX:g} times those of a sale at the same pace without the other two ({SECONDS_MIN:g} s, if less); the limited one "
    f"never gets more than its {RATE:g} a second, with {TOLERANCE_SECONDS:g} s of grace; the one that is down is asked at most "
    f"{FAILED_MAX} times in vain, and delivered to when it is back"
)


def judge(asked: int, asked_seconds: float, among: Play, alone: Play) -> Report:
    """Compare the sale to all three partners with that to the fine one, and each with what it should be."""
    kept = promises(among, alone)
    limited = among.partners[LIMITED]
    rows = [
        {"sale": sale, "partner": name, **_row(play, partner)}
        for sale, play in (("to all", among), ("to one", alone))
        for name, partner in play.partners.items()
    ]
    notes = [
        *(f"{'kept' if holds else 'NOT KEPT'}: {promise}" for promise, holds in kept.items()),
        f"asked {asked} orders in {asked_seconds:g} s: {_reached(asked, asked_seconds, among)}",
        *(f"{sale}: {_told(play)}" for sale, play in (("to all", among), ("to one", alone))),
        f"the limited partner's fullest second had {_fullest_second(limited)} requests",
        f"its fullest window was {-_excess(limited):.1f} requests below its limit and grace",
    ]
    return Report(TARGET, all(kept.values()), rows, notes, curves(among))


def promises(among: Play, alone: Play) -> dict[str, bool]:
    """Return each promise, and whether it was kept."""
    plays = (among, alone)
    every = [(play, partner) for play in plays for partner in play.partners.values()]
    fine, limited, down = (among.partners[name] for name in (FINE, LIMITED, DOWN))
    return {
        "each order has its event, and there is no other": all(_is_stored(play) for play in plays),
        "what was delivered and what waits is what was sold": all(_adds_up(*one) for one in every),
        "each log has what was delivered, once": all(
            set(partner.first) == set(partner.delivered) and not repeated(partner.arrivals) for _, partner in every
        ),
        "the second sale is like the first": _are_alike(among, alone),
        "the fine partner has everything": not fine.waiting,
        "the fine partner does not notice the others": _times_slower(among, alone) <= RATIO_MAX,
        "the limited partner gets no more than its limit": _excess(limited) <= 0,
        "the partner that is down is left alone": 0 < len(down.failed) <= FAILED_MAX,
        "the partner that was down is delivered to again": bool(down.arrivals),
    }


def _is_stored(play: Play) -> bool:
    pairs: list[tuple[int | None, int | None]] = [(sale.order, sale.event) for sale in play.sales]
    return len(play.stored) == len(pairs) and set(play.stored) == set(pairs)


def _adds_up(play: Play, partner: Partner) -> bool:
    return sorted([*partner.delivered, *partner.waiting]) == sorted(sale.event for sale in play.sales)


def _times_slower(among: Play, alone: Play) -> float:
    """Return how much slower the fine partner gets what was sold when the others are there, at p50 or at p99."""
    with_others, without = (play.ages(play.partners[FINE]) for play in (among, alone))
    return max(
        max(SECONDS_MIN, percentile(with_others, percent)) / max(SECONDS_MIN, percentile(without, percent))
        for percent in (50, 99)
    )


def _pace(play: Play) -> float:
    return len(play.sales) / (play.closed - play.began)


def _are_alike(among: Play, alone: Play) -> bool:
    """Return whether the sale without the others had the same pace, and was delivered."""
    slower, faster = sorted([_pace(among), _pace(alone)])
    return faster <= PACE_RATIO_MAX * slower and not alone.partners[FINE].waiting


def _reached(asked: int, asked_seconds: float, play: Play) -> str:
    """Say whether the machine sold what was asked for in that time; it is no fault of a worker's if not."""
    if len(play.sales) >= asked and play.closed - play.began <= PACE_RATIO_MAX * asked_seconds:
        return "reached"
    return f"NOT reached, the shop sold {_pace(play):.0f} a second of {asked / asked_seconds:.0f}"


def _fullest_second(limited: Partner) -> int:
    moments = [at for _, at in limited.arrivals]
    return max((bisect_left(moments, at + 1.0) - nth for nth, at in enumerate(moments)), default=0)


def _excess(limited: Partner) -> float:
    return worst_excess((at for _, at in limited.arrivals), RATE, BURST)


def _row(play: Play, partner: Partner) -> dict[str, Any]:
    ages = play.ages(partner)
    waiting = set(partner.waiting)
    return {
        "sold": len(play.sales),
        "arrived": len(partner.first),
        "waiting": len(waiting),
        "failed_attempts": len(partner.failed),
        "p50_seconds": round(percentile(ages, 50), 3),
        "p99_seconds": round(percentile(ages, 99), 3),
        "oldest_waiting_seconds": round(
            play.until - min((sale.at for sale in play.sales if sale.event in waiting), default=play.until), 1
        ),
    }


def _told(play: Play) -> str:
    sold = len(play.sales)
    cpu = ", ".join(f"{who} {1e6 * used / sold:.0f}" for who, used in play.cpu_seconds.items())
    return (
        f"sold {sold} orders in {play.closed - play.began:.1f} s ({_pace(play):.0f} a second), {play.refused} cards refused; "
        f"watched for {play.until - play.closed:.0f} s more; microseconds of processor an order: {cpu}"
    )
