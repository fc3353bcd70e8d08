"""The database's clock, seen from this process: no wall clock of a worker decides anything.

Every round trip that returns the database's time bounds the offset between its clock and our monotonic one (Cristian,
"Probabilistic clock synchronization", 1989): it was read after we asked and before the answer came. The intersection
of many such bounds is tighter than any one of them, so a slow round trip does no harm. What the database itself worked
meanwhile is not on the way, and widens nothing (as in NTP's four timestamps, RFC 5905, section 8): a process' first claim
is planned for long.
"""

import math

SAMPLES_AGE_MAX_SECONDS = 60.0
DRIFT = 1e-3
"""By so much two clocks may go at different speeds: NTP lets each be 500 ppm fast or slow (RFC 5905, MAXFREQ)."""

WIDTH_MAX_SECONDS = 0.05
"""Wider bounds than this would leave no moment that is certainly on time; then their middle is taken to be right to
within half of this. A database more than 50 ms away makes rate limits approximate by its asymmetry."""


class DatabaseClock:
    """Bounds of (database Unix time − monotonic time)."""

    __slots__ = ("_high", "_low", "_since")

    def __init__(self) -> None:
        self._low, self._high, self._since = -math.inf, math.inf, -math.inf

    def observe(self, asked: float, database_now: float, answered: float, worked: float = 0.0) -> None:
        """Take one sample: the monotonic times around a round trip, the database's time within it, and how long it worked then.

        All in seconds. The answer came no earlier than `database_now + worked` by its clock.
        """
        low, high = database_now + worked - answered, database_now - asked
        if worked < 0 or low > high + DRIFT * worked:  # its clock was stepped meanwhile: what it said in the end is true now
            high = low + min(answered - asked, WIDTH_MAX_SECONDS)
        elif low > high:  # it only runs a little faster than ours
            low, high = high, low
        narrowed = max(low, self._low), min(high, self._high)
        if narrowed[0] <= narrowed[1] and answered - self._since < SAMPLES_AGE_MAX_SECONDS:
            self._low, self._high = narrowed
        else:  # clocks drift, and a database's may step: believe the newest sample alone
            self._low, self._high, self._since = low, high, answered

    def earliest(self, database_time: float) -> float:
        """The monotonic time at which `database_time` has certainly come."""
        return database_time - max(self._low, self._middle - WIDTH_MAX_SECONDS / 2)

    def latest(self, database_time: float) -> float:
        """The monotonic time before which `database_time` has certainly not come."""
        return database_time - min(self._high, self._middle + WIDTH_MAX_SECONDS / 2)

    def unix(self, monotonic: float) -> float:
        """The database's Unix time at a monotonic time, to within half the bounds' width."""
        return monotonic + self._middle

    @property
    def _middle(self) -> float:
        return (self._low + self._high) / 2
