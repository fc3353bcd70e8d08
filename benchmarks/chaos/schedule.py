"""What goes wrong when: drawn from a seed, so that a run can be made again."""

import random
from collections.abc import Iterable
from typing import NamedTuple

GAP_SECONDS_MIN, GAP_SECONDS_MAX = 1.0, 6.0
SETTLE_SECONDS = 2.0
"""Nothing begins earlier: first it must work."""


class Kind(NamedTuple):
    """A kind of fault, how long it lasts at least and at most, and how often a round has it.

    Those of one track exclude each other.
    """

    name: str
    track: str
    seconds_min: float = 0.0
    seconds_max: float = 0.0
    times: int = 1


class Planned(NamedTuple):
    """One fault. `seed` draws its particulars."""

    at: float
    kind: Kind
    seconds: float
    seed: int


def plan(seed: int, seconds: float, kinds: Iterable[Kind]) -> list[Planned]:
    """Draw the faults of a run of so many seconds, in order.

    Each track has its kinds in rounds, shuffled, with gaps in between; within two minutes each occurs. What would not end in
    time is left out.
    """
    tracks: dict[str, list[Kind]] = {}
    for kind in kinds:
        tracks.setdefault(kind.track, []).append(kind)
    return sorted(planned for track, several in tracks.items() for planned in _of_track(f"{seed} {track}", seconds, several))


def _of_track(seed: str, seconds: float, kinds: list[Kind]) -> Iterable[Planned]:
    chance = random.Random(seed)
    counts = [kind.times for kind in kinds]
    at, fits = SETTLE_SECONDS, True
    while fits:
        fits = False
        for kind in chance.sample(kinds, counts=counts, k=sum(counts)):
            begins = at + chance.uniform(GAP_SECONDS_MIN, GAP_SECONDS_MAX)
            lasts = chance.uniform(kind.seconds_min, kind.seconds_max)
            if begins + lasts < seconds:
                fits, at = True, begins + lasts
                yield Planned(begins, kind, lasts, chance.getrandbits(32))
