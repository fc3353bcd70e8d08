"""How much a worker takes into its hand, by what its lanes carry."""

from worker.pipeline.hand import MEASURE_SECONDS, Hand
from worker.pipeline.limits import Limits

LIMITS = Limits(concurrency=10, claimed_max=100, ahead_seconds=0.1, ahead_min=4)


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def ahead_after(hand: Hand, clock: Clock, deliveries: int) -> int:
    """So many deliveries end in one period."""
    for _ in range(deliveries):
        hand.ended()
    clock.now += MEASURE_SECONDS
    return hand.ahead


def test_a_new_worker_begins_with_little() -> None:
    """It knows nothing of its receivers."""
    assert LIMITS.ahead_min == Hand(LIMITS, Clock()).ahead


def test_lanes_take_what_they_are_through_with_in_a_moment() -> None:
    """Fifty in a quarter of a second are twenty in a tenth; and there is a limit."""
    clock = Clock()
    hand = Hand(LIMITS, clock)
    assert 20 == ahead_after(hand, clock, 50)
    assert 30 == hand.size
    ahead_after(hand, clock, 10_000)
    assert LIMITS.claimed_max == hand.size


def test_lanes_that_run_dry_are_given_more() -> None:
    """What they carried says how much they were given, not what they could: twice that is tried, as long as they run dry."""
    clock = Clock()
    hand = Hand(LIMITS, clock)
    hand.starved()
    assert 40 == ahead_after(hand, clock, 50)
    assert 40 == ahead_after(hand, clock, 100)
