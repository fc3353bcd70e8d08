"""The simulation itself: it is exact, it covers what it is for, it makes failures smaller, and it finds what is broken."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mutation import PATCHES, look_for, mutated
from scenario import Fault, Scenario, draw
from shrink import PARTS, shrink
from simulate import Result, simulate

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(5))
def test_every_promise_holds(seed: int) -> None:
    """A few seeds, on this runtime; `make sim` plays more."""
    result = simulate(draw(seed))
    assert result.violation is None
    assert result.counts["record: in_flight → delivered"]


def test_a_seed_replays_exactly() -> None:
    """Two processes, whose hashes of strings differ, see the same history to the last entry."""
    ends = set()
    for hashing in ("1", "2"):
        command = [sys.executable, "tests/simulation", "--seed", "3"]
        environment = {**os.environ, "PYTHONHASHSEED": hashing, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        ends.add(ended.stdout.splitlines()[-1])
    assert 1 == len(ends), ends
    assert "every promise holds" in ends.pop()


def test_seeds_differ() -> None:
    """Another seed is another history."""
    assert simulate(draw(1)).digest != simulate(draw(2)).digest


def test_an_endless_scenario_ends() -> None:
    """A scenario that needs more than its budget of steps breaks P6."""
    result = simulate(draw(3), steps_max=500)
    assert result.violation is not None
    assert "P6" == result.violation.promise


def test_failures_are_made_smaller() -> None:
    """Of a failure that needs one endpoint, one event and one kill, nothing else is left."""
    wanted = Fault(1.0, "kill", 0, 1.0, 7)
    scenario = replace(draw(4), faults=(*draw(4).faults, wanted))
    assert all(len(getattr(scenario, part)) > 1 for part in ("faults", "events", "endpoints"))

    def run(tried: Scenario) -> Result:
        fails = wanted in tried.faults and tried.events
        ended = simulate(replace(tried, events=()), steps_max=10 if fails else 100_000)
        return replace(ended, scenario=tried)

    smallest = shrink(run(scenario), run)
    assert ((wanted,), 1, 1) == (
        smallest.scenario.faults,
        len(smallest.scenario.events),
        len(smallest.scenario.endpoints),
    )
    assert not smallest.scenario.operations
    assert set(PARTS) == {"faults", "operations", "events", "endpoints"}


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_mutants_apply(patch: Path) -> None:
    """Every mutant changes the worker that there is: one that no longer fits would be found by nobody."""
    with mutated(patch) as copy:
        changed = [
            path
            for path in (copy / "worker").rglob("*.py")
            if path.read_bytes() != (ROOT / path.relative_to(copy)).read_bytes()
        ]
    assert 1 == len(changed)


@pytest.mark.sql
def test_a_mutant_is_found() -> None:
    """The one that is found soonest; `make mutation` looks for all of them."""
    patch = next(path for path in PATCHES if path.stem == "keys-forgotten")
    assert "P3" in look_for(patch, seeds=2).said
