"""Makes a failing scenario smaller: leaves parts out for as long as the same promise is still broken."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from scenario import EndpointPlan, Scenario
from simulate import Result

PARTS = ("faults", "operations", "events", "endpoints")


def shrink(failed: Result, run: Callable[[Scenario], Result], tries_max: int = 200) -> Result:
    """Return the failing run with the fewest parts that was found (delta debugging: Zeller, Hildebrandt, 2002)."""
    assert failed.violation is not None
    promise, best, tries = failed.violation.promise, failed, 0
    progress = True
    while progress and tries < tries_max:
        progress = False
        for smaller in _smaller(best.scenario):
            tries += 1
            result = run(smaller)
            if result.violation is not None and result.violation.promise == promise:
                best, progress = result, True
                break
            if tries >= tries_max:
                break
    return best


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    """Leave out halves, quarters, … and at last single parts; then what can be simpler."""
    largest = max(len(getattr(scenario, name)) for name in PARTS)
    size = largest
    while size:
        for name in PARTS:
            parts: tuple[Any, ...] = getattr(scenario, name)
            if size <= len(parts) and not (name == "endpoints" and size == len(parts)):
                for first in range(0, len(parts), size):
                    kept = parts[:first] + parts[first + size :]
                    changes: dict[str, Any] = {name: kept}
                    yield _with_endpoints(scenario, kept) if name == "endpoints" else replace(scenario, **changes)
        size //= 2
    if scenario.lose_replies:
        yield replace(scenario, lose_replies=0.0)
    if scenario.hang_database:
        yield replace(scenario, hang_database=0.0)
    if scenario.workers > 1 and all(fault.worker < scenario.workers - 1 for fault in scenario.faults):
        yield replace(scenario, workers=scenario.workers - 1)


def _with_endpoints(scenario: Scenario, kept: tuple[EndpointPlan, ...]) -> Scenario:
    """Keep these endpoints, numbered anew: a database gives numbers without gaps."""
    numbers = {plan.number: number for number, plan in enumerate(kept, 1)}
    operations = tuple(
        one if one.verb.startswith("retry") else replace(one, subject=numbers[one.subject])
        for one in scenario.operations
        if one.verb.startswith("retry") or one.subject in numbers
    )
    endpoints = tuple(replace(plan, number=numbers[plan.number]) for plan in kept)
    return replace(scenario, endpoints=endpoints, operations=operations)
