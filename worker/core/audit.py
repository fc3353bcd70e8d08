"""Was a rate kept? The check of promise P4 on a receiver's own log, for the demo, the tests and the benchmarks."""

import math
from collections.abc import Iterable

TOLERANCE_SECONDS = 0.1


def worst_excess(times: Iterable[float], rate: float, burst: int) -> float:
    """Return by how many requests the worst window of any length T exceeds rate × (T + 0.1 s) + burst; at most 0 if none does.

    `times` are seconds in ascending order. A window from the i-th to the j-th request holds j − i + 1 of them, so it is
    enough to compare each j − rate × t with the smallest one before it: one pass.
    """
    lowest, worst = math.inf, -math.inf
    for count, moment in enumerate(times):
        level = count - rate * moment
        lowest = min(lowest, level)
        worst = max(worst, level - lowest + 1 - rate * TOLERANCE_SECONDS - burst)
    return worst
