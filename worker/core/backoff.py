"""Retry schedules: a delay per attempt, spread by jitter, clamped."""

import re
from collections.abc import Sequence

DEFAULT_SCHEDULE = "5s 5m 30m 2h 5h 10h 14h 20h 24h"
DELAY_SECONDS_MAX = 365 * 86_400.0
JITTER = 0.1

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d|w)")


def parse_duration(text: str) -> float:
    """Read `90s`, `1.5h` or `2d12h` as seconds; ValueError for anything else, or more than a year."""
    total, position = 0.0, 0
    while match := _DURATION.match(text, position):
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if not text or position != len(text) or total > DELAY_SECONDS_MAX:
        message = f"{text!r} is not a duration of up to a year, like 90s, 15m, 1.5h or 2d12h"
        raise ValueError(message)
    return total


def parse_schedule(text: str) -> tuple[float, ...]:
    """Read delays separated by spaces or commas; an empty text means no retries."""
    return tuple(parse_duration(part) for part in text.replace(",", " ").split())


def retry_delay(schedule: Sequence[float], attempts: int, chance: float) -> float | None:
    """Return the seconds to wait after the `attempts`-th failure, or None if the schedule is used up.

    `chance` is uniform in [0, 1) and moves the delay by up to ±10 %. A table and a clamp: no power of two to overflow.
    """
    index = max(attempts, 1) - 1
    if index >= len(schedule):
        return None
    delay = schedule[index]
    return min(max(delay * (1 - JITTER + 2 * JITTER * chance), 0.0), DELAY_SECONDS_MAX)
