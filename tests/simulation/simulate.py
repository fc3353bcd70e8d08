"""Runs a scenario on trio's virtual clock, the same way every time."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio
from history import Entry
from play import Play
from process import Steps
from scenario import Scenario
from violation import Violation
from world import World

STEPS_MAX = 1_000_000
"""What tasks may do between two awaits, in all: a scenario that needs more does not come to an end."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended."""

    scenario: Scenario
    violation: Violation | None
    history: list[Entry]
    steps: int
    seconds: float
    """Of virtual time."""
    counts: Counter[str]

    @property
    def digest(self) -> str:
        """What two equal histories have in common, and no two others."""
        return hashlib.sha256("\n".join(map(str, self.history)).encode()).hexdigest()[:16]


def simulate(scenario: Scenario, steps_max: int = STEPS_MAX) -> Result:
    """Run a scenario to its end, or to the first promise that it breaks."""
    world = World(scenario, steps_max)
    with _scheduled(scenario.seed):
        trio.run(Play(world).run, clock=world.clock, instruments=[Steps(world)])
    if world.error is not None:
        raise world.error
    seconds = world.history[-1].at if world.history else 0.0
    return Result(scenario, world.violation, world.history, world.steps, seconds, Counter(world.checker.counts))


@contextmanager
def _scheduled(seed: int) -> Iterator[None]:
    """Let trio choose by a seed which task goes next, among those that could: its version is pinned, for this is private."""
    from trio._core import _run

    kept = _run._r, _run._ALLOW_DETERMINISTIC_SCHEDULING
    _run._r, _run._ALLOW_DETERMINISTIC_SCHEDULING = random.Random(f"{seed} schedule"), True  # type: ignore[misc]
    try:
        yield
    finally:
        _run._r, _run._ALLOW_DETERMINISTIC_SCHEDULING = kept  # type: ignore[misc]
