"""The verdict as the rows of a report."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from benchmarks.chaos.reconcile import CAUSES, Verdict


def as_rows(
    verdict: Verdict, faults: Iterable[str], drained: float | None, exits: Counter[int], statuses: Counter[int]
) -> list[dict[str, Any]]:
    """Return them: what was made, what came of it, and the five figures that must be zero."""
    rows: list[tuple[str, Any, str]] = [
        ("events committed", verdict.committed, f"{verdict.rolled_back} rolled back"),
        ("replies lost", verdict.unknown, "of commits without a key: the database was asked afterwards"),
        ("deliveries owed", verdict.expected, f"{verdict.delivered} delivered, {verdict.dead} dead with a reason"),
        ("requests", verdict.requests, "as the receivers have read them"),
        ("LOST", len(verdict.lost), "committed, and neither arrived nor ended with a reason"),
        ("UNEXPECTED", len(verdict.unexpected), "rolled back, another body, a wrong signature, a wrong endpoint"),
        *((f"DUPLICATED: {cause}", verdict.duplicates[cause], "must be 0" if cause == CAUSES[-1] else "") for cause in CAUSES),
        ("RECOVERED", verdict.recovered, "arrived although the first attempt was lost or failed"),
        ("OUT OF BOUNDS", len(verdict.out_of_bounds), "rates, in flight, after `delivered` was recorded"),
        ("UNSETTLED", len(verdict.unsettled), f"after the drain; wait for a retry: {_listed(verdict.scheduled)}"),
        ("seconds to drain", "-" if drained is None else round(drained, 1), "from the last fault to nothing left"),
        ("workers ended by themselves", exits.total(), _told(exits)),
        ("workers drained", statuses.total(), _told(statuses)),
        *((f"fault: {kind}", times, "") for kind, times in sorted(Counter(faults).items())),
    ]
    return [{"what": what, "count": count, "detail": detail} for what, count, detail in rows]


def _told(statuses: Counter[int]) -> str:
    return ", ".join(f"{times} with status {status}" for status, times in sorted(statuses.items()))


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} of {name}" for name, count in sorted(counts.items())) or "none"
