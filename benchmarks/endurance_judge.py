"""What is judged of an hour of half load: the last quarter against the second.

Medians, since PyPy's memory goes in waves and so do tables between two vacuums. The first quarter is for what fills once and
stays: caches, connections, compiled code. History (events, finished deliveries, attempts) grows by design, until its retention;
it is told, not judged.
"""

import statistics
from dataclasses import dataclass, field
from typing import Any

from benchmarks.report import Report

RSS_TIMES_MAX = {"CPython": 1.1, "PyPy": 1.2}
"""A leak of 10 bytes a delivery is 90 MB in half an hour: twice what a worker on CPython has. PyPy's heap breathes."""
RSS_MB_MIN = {"CPython": 0.0, "PyPy": 250.0}
"""It is taken to have this by the second quarter: in a short run PyPy is still compiling then."""

FILES_TIMES_MAX = 1.25
LANES = 64
"""As many connections to the receiver may be open, whenever arrivals happen to come thicker."""

TABLE_TIMES_MAX = 1.25
TABLE_MB_MIN = 4.0
"""Tables below this are taken to be this large: with a vacuum a minute, a table of a few pages doubles and means nothing."""
LATENCY_TIMES_MAX = 1.25
BACKLOG_SECONDS_MAX = 0.5
"""So much of the supply more may wait at the end than in the second quarter."""

TARGET = (
    "the medians of the last quarter are at most those of the second, times 1.1 (memory on CPython), 1.2 (memory on PyPy) or "
    "1.25 (open files, size of each hot table, mean claim and record); what waits grows by less than half a second's supply; "
    "each event arrives once"
)


@dataclass
class Run:
    """What the long run gave."""

    per_second: float
    samples: list[dict[str, Any]] = field(default_factory=list)
    enqueued: int = 0
    arrived: int = 0
    different: int = 0
    statuses: list[int] = field(default_factory=list)


def judge_run(long: Run) -> Report:
    """Compare the last quarter with the second."""
    quarter = len(long.samples) // 4
    second, last = long.samples[quarter : 2 * quarter], long.samples[-quarter:]
    rows: list[dict[str, Any]] = []
    holds = True

    def judge(what: str, key: str, times_max: float, least: float = 0.0, more: float = 0.0) -> None:
        nonlocal holds
        before, after = (_median(samples, key) for samples in (second, last))
        limit = times_max * max(before, least) + more
        holds &= after <= limit
        rows.append(
            {"what": what, "second_quarter": round(before, 2), "last_quarter": round(after, 2), "at_most": round(limit, 2)}
        )

    for name, times_max in RSS_TIMES_MAX.items():
        if f"{name} rss_mb" in long.samples[0]:
            judge(f"memory on {name}, MB", f"{name} rss_mb", times_max, least=RSS_MB_MIN[name])
            judge(f"open files on {name}", f"{name} files", FILES_TIMES_MAX, least=LANES)
    for table in (key for key in long.samples[0] if key.startswith("hot ")):
        judge(f"size of {table.removeprefix('hot ')}, MB", table, TABLE_TIMES_MAX, least=TABLE_MB_MIN)
    for function in ("claim", "record"):
        judge(f"mean {function}, ms", f"{function}_ms", LATENCY_TIMES_MAX)
    judge("deliveries that wait", "backlog", 1.0, more=BACKLOG_SECONDS_MAX * long.per_second)
    once = long.enqueued == long.different == long.arrived
    ended = all(status == 0 for status in long.statuses)
    notes = [
        f"enqueued {long.enqueued}, arrived {long.different}, {long.arrived - long.different} of them more than once",
        "delivered within {} ms at p50 and {} at p99 in the second quarter, {} and {} in the last".format(
            *(_median(samples, key) for samples in (second, last) for key in ("p50_ms", "p99_ms"))
        ),
        "the machine was busy to {:.0f} % in the second quarter, to {:.0f} % in the last".format(
            *(_median(samples, "machine cpu_percent") for samples in (second, last))
        ),
        "history, MB: " + ", ".join(
            f"{key.removeprefix('history ')} {value:g}" for key, value in last[-1].items() if key.startswith("history ")
        ),
        f"the workers ended with {long.statuses}",
    ]  # fmt: skip
    return Report(TARGET, holds and once and ended, rows, notes, {"samples": long.samples})


def _median(samples: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(sample[key] for sample in samples if sample[key] is not None))
