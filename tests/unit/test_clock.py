"""The database's clock, as bounded by round trips."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.clock import SAMPLES_AGE_MAX_SECONDS, WIDTH_MAX_SECONDS, DatabaseClock

pytestmark = pytest.mark.fault(56)

# Multiples of 1/1024 second: sums of these are exact, so that the bounds can be compared without a tolerance.
ticks = st.integers(0, 4096).map(lambda n: n / 1024)
briefly = st.integers(0, 16).map(lambda n: n / 1024)
short = st.integers(0, 24).map(lambda n: n / 1024)
round_trips = st.lists(st.tuples(ticks, short, short, ticks), min_size=1, max_size=40)


Trip = tuple[float, float, float, float]


def observe_all(clock: DatabaseClock, offset: float, start: float, trips: list[Trip]) -> float:
    """Feed samples of a database that is `offset` ahead: (pause, way there, way back, work) each. Return the monotonic time."""
    now = start
    for pause, there, back, worked in trips:
        asked = now + pause
        read = asked + there
        now = read + worked + back
        clock.observe(asked, read + offset, now, worked)
    return now


@settings(deadline=None, max_examples=40)
@given(st.integers(-(2**31), 2**31), round_trips, ticks)
def test_bounds_hold_the_truth(offset: int, trips: list[Trip], moment: float) -> None:
    """With a steady offset, a database time certainly came by `earliest`, and certainly not before `latest`."""
    clock = DatabaseClock()
    observe_all(clock, offset, 1000.0, trips)
    truth = 1000.0 + moment
    assert clock.latest(truth + offset) <= truth <= clock.earliest(truth + offset)
    width = clock.earliest(0.0) - clock.latest(0.0)
    assert abs(clock.unix(truth) - (truth + offset)) <= width / 2


@settings(deadline=None, max_examples=40)
@given(round_trips, round_trips, st.integers(10, 10_000), st.sampled_from([-1, 1]))
def test_step(before: list[Trip], after: list[Trip], step: int, sign: int) -> None:
    """A stepped database clock is believed at the next sample."""
    clock = DatabaseClock()
    now = observe_all(clock, 0.0, 0.0, before)
    observe_all(clock, sign * step, now, after)
    truth = 5.0
    assert clock.latest(truth + sign * step) <= truth <= clock.earliest(truth + sign * step)


def test_narrows() -> None:
    """A slow round trip does no harm: the bounds are the narrowest that any sample gave."""
    clock = DatabaseClock()
    clock.observe(10.0, 110.0 + 1 / 64, 10.0 + 1 / 32)
    clock.observe(20.0, 120.0, 20.0 + 1 / 32)
    clock.observe(30.0, 135.0, 40.0)
    assert (1 / 64, 0.0) == (clock.earliest(100.0), clock.latest(100.0))
    assert abs(clock.unix(100.0) - 200.0) <= 1 / 64


def test_long_work_widens_nothing() -> None:
    """Only what is on the way counts, not how long the database worked: its first claim in a process takes long."""
    clock = DatabaseClock()
    clock.observe(10.0, 110.0 + 1 / 64, 20.0 + 1 / 32, 10.0)
    assert (1 / 64, -1 / 64) == (clock.earliest(100.0), clock.latest(100.0))


@given(st.integers(-100, 100).filter(bool), briefly, briefly, briefly, st.booleans())
def test_a_step_while_it_worked(step: int, there: float, back: float, worked: float, known: bool) -> None:
    """What the database's clock says in the end is true now, whatever was known before."""
    clock = DatabaseClock()
    if known:
        clock.observe(9.0, 9.0, 9.0)
    clock.observe(10.0, 10.0 + there, 10.0 + there + worked + back, worked + step)
    assert clock.latest(100.0 + step) <= 100.0 <= clock.earliest(100.0 + step)


def test_a_step_while_it_worked_for_long() -> None:
    """How long it worked says nothing then: the way back bounds it."""
    clock = DatabaseClock()
    clock.observe(10.0, 10.01, 14.0, 3.98 + 100.0)
    earliest, latest = clock.earliest(200.0), clock.latest(200.0)
    assert latest <= 100.0 <= earliest <= latest + WIDTH_MAX_SECONDS + 1e-9


@pytest.mark.parametrize("speed", [1 + 1e-4, 1 - 1e-4])
def test_drift_while_it_worked_is_no_step(speed: float) -> None:
    """A clock that goes a little faster or slower does not make narrow bounds wide."""
    clock = DatabaseClock()
    clock.observe(10.0, 10.0002, 10.0004)
    clock.observe(11.0, 11.0002, 19.0006, 8.0 * speed)
    assert pytest.approx([100.0, 100.0], abs=0.001) == [clock.earliest(100.0), clock.latest(100.0)]


def test_far_database() -> None:
    """With only slow round trips the middle is believed, so that some moment is always on time."""
    clock = DatabaseClock()
    clock.observe(10.0, 110.1, 10.2)
    assert pytest.approx([0.025, -0.025]) == [clock.earliest(100.0), clock.latest(100.0)]


def test_old_bounds_expire() -> None:
    """After a minute the bounds start anew: clocks drift."""
    clock = DatabaseClock()
    clock.observe(0.0, 100.0, 0.0)
    clock.observe(SAMPLES_AGE_MAX_SECONDS - 2, 98.0 + SAMPLES_AGE_MAX_SECONDS, SAMPLES_AGE_MAX_SECONDS - 0.5)
    assert (0.0, 0.0) == (clock.earliest(100.0), clock.latest(100.0))
    now = SAMPLES_AGE_MAX_SECONDS + 1
    clock.observe(now - 1 / 64, 100.0 + now, now + 1 / 64)
    assert (1 / 64, -1 / 64) == (clock.earliest(100.0), clock.latest(100.0))
