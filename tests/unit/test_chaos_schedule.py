"""The schedule of `python -m benchmarks chaos`."""

from itertools import pairwise

import pytest

from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.schedule import plan

SECONDS = 120.0


@pytest.mark.parametrize("seed", range(100))
def test_two_minutes_have_every_kind(seed: int) -> None:
    """None begins before the other of its track has ended, and all end in time."""
    planned = plan(seed, SECONDS, FAULTS)
    assert set(FAULTS) == {one.kind for one in planned}
    assert all(one.at + one.seconds < SECONDS for one in planned)
    for track in {kind.track for kind in FAULTS}:
        mine = [one for one in planned if one.kind.track == track]
        assert all(first.at + first.seconds < second.at for first, second in pairwise(mine))


def test_a_seed_draws_the_same_again() -> None:
    """And another one draws something else."""
    assert plan(1, SECONDS, FAULTS) == plan(1, SECONDS, FAULTS) != plan(2, SECONDS, FAULTS)


def test_what_does_not_fit_is_left_out() -> None:
    """In twenty seconds nobody is frozen past a lease."""
    short = {one.kind.name for one in plan(1, 20.0, FAULTS)}
    assert "SIGKILL" in short
    assert "SIGSTOP past the lease" not in short
