"""`Retry-After` (RFC 9110, 10.2.3): delta-seconds, or an HTTP date (RFC 9110, 5.6.7)."""

import re
from datetime import UTC, datetime

HOLD_SECONDS_MAX = 86_400.0

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_IMF_FIXDATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds to wait from `now` (Unix seconds), in (0, 24 h]; None if the value says nothing we honour.

    Longer waits are honoured up to 24 h. ASCII digits only (int() would read other scripts' digits too); the obsolete
    date formats are ignored.
    """
    if value is None or not value.isascii():
        return None
    value = value.strip()
    if value.isdigit():
        seconds = float(value)  # not int(): it refuses very long numbers
    elif match := _IMF_FIXDATE.fullmatch(value):
        day, month, year, hour, minute, second = match.groups()
        try:
            numbers = int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second)
            moment = datetime(*numbers, tzinfo=UTC)
        except ValueError:
            return None
        seconds = moment.timestamp() - now
    else:
        return None
    return min(seconds, HOLD_SECONDS_MAX) if seconds > 0 else None
