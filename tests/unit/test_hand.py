"""How much a worker takes into its hand, by what its lanes could do."""

from worker.pipeline.hand import MEASURE_SECONDS, Hand
from worker.pipeline.limits import Limits

LIMITS = Limits(concurrency=10, claimed_max=100, ahead_seconds=0.1, ahead_min=4)


def hand_after(deliveries: list[float]) -> Hand:
    """A hand that has seen deliveries of so many seconds each in one period."""
    now = 0.0
    hand = Hand(LIMITS, lambda: now)
    for seconds in deliveries:
        hand.carried(seconds)
    now = MEASURE_SECONDS
    return hand


def test_a_new_worker_begins_with_little() -> None:
    """It knows nothing of its receivers."""
    assert LIMITS.ahead_min == Hand(LIMITS, lambda: 0.0).ahead


def test_busy_lanes_take_what_they_are_through_with_in_a_moment() -> None:
    """Ten lanes that were busy all the time carried 50 in a quarter of a second: 20 in a tenth."""
    assert 20 == hand_after([0.05] * 50).ahead


def test_lanes_that_wait_for_claims_are_not_thought_slow() -> None:
    """The same lanes, idle most of the time, could have carried five times as much: what they were given says little."""
    assert 20 == hand_after([0.05] * 10).ahead


def test_one_that_hangs_does_not_hide_how_quick_the_others_are() -> None:
    """What was carried in all is never thought too much."""
    assert 20 == hand_after([0.01] * 49 + [15.0]).ahead


def test_the_hand_has_a_limit() -> None:
    """However quick the receivers."""
    assert LIMITS.claimed_max == hand_after([0.0001] * 10_000).size
