"""The slow work that any worker does for all: taking back expired leases, reconciling, partitions."""

import logging
from dataclasses import dataclass
from typing import Any, Protocol

import anyio

from worker.core.retention import Retention
from worker.pipeline.ports import StoreError

TURN_SECONDS = 1.0
TASKS_MAX = 10
"""Tasks in a turn: one call each."""
REAP_EVERY_TURNS = 3
TURNS_AFTER_OUTAGE = 5
"""After the database was away, whoever kept outcomes records them first; only then are expired leases taken back."""

log = logging.getLogger("worker.housekeeping")


@dataclass(slots=True)
class HouseCounts:
    """What one process's housekeeping found since it started."""

    taken_back: int = 0
    """Deliveries of expired leases."""
    reconciled: int = 0
    """Endpoints."""
    failures: int = 0


class House(Protocol):
    """What housekeeping needs of a store. Each may raise StoreError, and may then be called again."""

    async def reap(self) -> int:
        """Take back expired leases; return how many deliveries became due again or dead."""

    async def maintain(self, retention: Retention) -> dict[str, Any]:
        """Take one turn of housekeeping; return what was done."""


async def keep_house(store: House, retention: Retention, counts: HouseCounts) -> None:
    """Look every second; which tasks are due, and for whom, the database decides. Says what needed doing."""
    turn = 0
    while True:
        try:
            if turn >= 0 and turn % REAP_EVERY_TURNS == 0 and (taken_back := await store.reap()):
                counts.taken_back += taken_back
                log.warning("took back %d deliveries from expired leases: a worker died or lost the database", taken_back)
            for _ in range(TASKS_MAX):
                done = await store.maintain(retention)
                counts.reconciled += done.get("reconciled", 0)
                counts.failures += "failed" in done
                _say(done)
                if not done.get("more"):
                    break
        except StoreError as error:
            log.debug("housekeeping put off: %s", error)  # the pipeline says that the database is away
            turn = -TURNS_AFTER_OUTAGE
        turn += 1
        await anyio.sleep(TURN_SECONDS)


def _say(done: dict[str, Any]) -> None:
    """Log what an operator may want to know of."""
    if "failed" in done:
        log.warning(
            "housekeeping failed at %s, and will try again: %s",
            done["task"],
            done["failed"],
            extra={"task": done["task"], "kind": done["task"]},
        )
    if done.get("reconciled"):
        log.warning("reconciled %d endpoints that had due deliveries but no visit planned", done["reconciled"])
    if done.get("partitions"):
        log.info("made %d partitions ahead", done["partitions"])
    if "dropped" in done:
        log.info("dropped the partition %s: older than its retention", done["dropped"])
    if "job_waits" in done:
        log.warning("job %d waits for rows that somebody else holds: %s", done["job"], done["job_waits"], extra={"kind": "job"})
    if "job_done" in done:
        log.info(
            "job %d is done: %s of %d deliveries, %d skipped",
            done["job"],
            done["action"],
            done["job_done"],
            done["job_skipped"],
        )
    for tenant in done.get("backlog_near", ()):
        log.warning("tenant %s deliveries wait: at its backlog limit, enqueue fails", tenant, extra={"kind": tenant})
    for tenant in done.get("backlog_back", ()):
        log.warning("tenant %s deliveries wait: well below its backlog limit again", tenant, extra={"kind": tenant})
