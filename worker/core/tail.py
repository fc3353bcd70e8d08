"""Following events by their ids, which are drawn in order and committed in any."""

from collections.abc import Iterable

MISSING_MAX = 1000
MISSING_SECONDS_MAX = 600.0


class Tail:
    """How far the events were read: all after `newest` are to come, and perhaps those that are `missing` before it.

    An id that was passed over belongs to a transaction that is still open, or to nothing: it was rolled back. Nobody can tell
    which, so it is asked for again: the newest thousand of them, for ten minutes.
    """

    def __init__(self, newest: int) -> None:
        self.newest = newest
        self._missing: dict[int, float] = {}

    @property
    def missing(self) -> list[int]:
        """The ids that were passed over, in order."""
        return list(self._missing)

    def read(self, ids: Iterable[int], now: float) -> None:
        """Take note of ids that were found, now. `now` is monotonic seconds."""
        found = set(ids)
        newest = max([self.newest, *found])
        passed = range(max(self.newest, newest - MISSING_MAX) + 1, newest)
        missing = {**self._missing, **dict.fromkeys(passed, now)}
        kept = [id_ for id_, since in missing.items() if id_ not in found and now - since < MISSING_SECONDS_MAX]
        self._missing = {id_: missing[id_] for id_ in kept[-MISSING_MAX:]}
        self.newest = newest
