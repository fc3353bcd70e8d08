"""Following events by their ids, which are drawn in order and committed in any."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

GAPS_MAX = 1000
LAST_ID = 2**63 - 1

_ROUNDS = 5
"""A snapshot says nothing of transactions that are open and newer than the newest that has ended, nor of those that have drawn
an event's id and written nothing yet. Each round overlooks one of them at most."""


class Snapshot(NamedTuple):
    """What a look saw: every transaction below `xmin` had ended, and none from `xmax` on had."""

    xmin: int
    xmax: int


class _Gap(NamedTuple):
    """The ids from `first` to `last`: given up when every transaction up to `until` has ended, so many rounds in a row."""

    first: int
    last: int
    until: int
    rounds: int


class Tail:
    """How far the events were read: all after `newest` are to come, and perhaps those in the gaps before it.

    An id that was passed over belongs to a transaction that is still open, or to nothing: what drew it was rolled back, or had
    an idempotency key that was used before. So it is asked for until every transaction that was open then has ended. Of the
    gaps, the last thousand are kept.
    """

    def __init__(self, newest: int) -> None:
        self._next = newest + 1
        self._gaps: list[_Gap] = []

    @property
    def to_come(self) -> tuple[int, int]:
        """The first and the last id of those to come."""
        return self._next, LAST_ID

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """The first and the last id of each gap, in order."""
        return [(gap.first, gap.last) for gap in self._gaps]

    def read(self, found: Iterable[int], snapshot: Snapshot, gaps_through: int) -> None:
        """Take note of a look: of the ids that it found, and up to which id it looked into the gaps (0: not at all)."""
        ids = sorted(found)
        left = [
            gap._replace(first=first, last=last) for gap in self._gaps for first, last in _between(gap.first, gap.last, ids)
        ]
        kept = [aged for gap in left if (aged := gap if gap.last > gaps_through else _aged(gap, snapshot))]
        *passed, (self._next, _) = _between(*self.to_come, ids)
        self._gaps = [*kept, *(_Gap(first, last, snapshot.xmax, _ROUNDS) for first, last in passed)][-GAPS_MAX:]


def _between(first: int, last: int, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield what is left of the range from `first` to `last` without these ids."""
    for id_ in ids[bisect_left(ids, first) : bisect_right(ids, last)]:
        if first < id_:
            yield first, id_ - 1
        first = id_ + 1
    if first <= last:
        yield first, last


def _aged(gap: _Gap, snapshot: Snapshot) -> _Gap | None:
    """Return a gap in which nothing was found, or None if nothing can come any more."""
    if gap.until >= snapshot.xmin:
        return gap
    return gap._replace(until=snapshot.xmax, rounds=gap.rounds - 1) if gap.rounds > 1 else None
