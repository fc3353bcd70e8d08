"""Plays scenarios, one a seed, and judges them by the promises P1 to P7: `make sim SEEDS=100`, `make sim SEED=7`.

Prints what was covered. Of a seed that fails it prints the promise, and the shortest history it could find that breaks it;
exit status 1.
"""

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from scenario import Scenario, draw
from shrink import shrink
from simulate import Result, simulate

HISTORY_SHOWN = 60


def main() -> int:
    """Play the seeds that are asked for; 0 if all promises hold."""
    parser = argparse.ArgumentParser(
        prog="python tests/simulation", description=__doc__.partition("\n")[0] if __doc__ else None
    )
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="play the seeds 0 to N - 1 (default 100)")
    parser.add_argument("--seed", type=int, metavar="N", help="play this one alone, and print its history")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="at once (default: one a core)")
    parser.add_argument("--no-shrink", action="store_true", help="print the first failure as it is")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if arguments.seed is not None:
        return _one(arguments.seed, smaller=not arguments.no_shrink)
    return _many(arguments.seeds, arguments.processes, smaller=not arguments.no_shrink)


def _one(seed: int, *, smaller: bool) -> int:
    result = simulate(draw(seed))
    if result.violation is not None:
        return _failed(result, smaller=smaller)
    print("\n".join(map(str, result.history)))
    print(f"seed {seed}: every promise holds; {result.steps:,} steps, {result.seconds:,.0f} s, history {result.digest}")
    return 0


def _many(seeds: int, processes: int, *, smaller: bool) -> int:
    began, played, steps, seconds, events, covered = time.perf_counter(), 0, 0, 0.0, 0, Counter[str]()
    for result in _played(seeds, processes):
        if result.violation is not None:
            return _failed(result, smaller=smaller)
        played, steps, seconds = played + 1, steps + result.steps, seconds + result.seconds
        events += len(result.history)
        covered += result.counts
    took = time.perf_counter() - began
    for what, count in sorted(covered.items()):
        print(f"{count:8,}  {what}")
    print(
        f"{played} seeds, {seconds / 3600:.1f} simulated hours, {events:,} entries of history, {steps:,} steps "
        f"in {took:.0f} s: every promise holds"
    )
    return 0


def _played(seeds: int, processes: int) -> Iterator[Result]:
    """Yield results in the order of the seeds."""
    if processes == 1:
        yield from map(_play, range(seeds))
        return
    with ProcessPoolExecutor(processes) as pool:
        try:
            yield from pool.map(_play, range(seeds), chunksize=2)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _play(seed: int) -> Result:
    logging.disable(logging.CRITICAL)
    try:
        return simulate(draw(seed))
    except Exception as error:
        error.add_note(f"while seed {seed} was played: make sim SEED={seed}")
        raise


def _failed(result: Result, *, smaller: bool) -> int:
    seed = result.scenario.seed
    print(f"seed {seed} breaks {result.violation}")
    print(f"to see it again: make sim SEED={seed}")
    if smaller:
        result = shrink(result, simulate)
    _show(result.scenario)
    print("\n".join(map(str, result.history[-HISTORY_SHOWN:])))
    print(f"→ {result.violation} ({len(result.history)} entries, history {result.digest})")
    return 1


def _show(scenario: Scenario) -> None:
    print(f"workers={scenario.workers} lanes={scenario.lanes} hang_database={scenario.hang_database} ", end="")
    print(f"lose_replies={scenario.lose_replies}")
    for part in (*scenario.endpoints, *scenario.events, *scenario.faults, *scenario.operations):
        print(f"  {part}")


if __name__ == "__main__":
    sys.exit(main())
