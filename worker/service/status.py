"""What the service manager is told while a worker runs: that it is ready, how it goes, that it is alive."""

import time
from collections import deque
from collections.abc import Callable

import anyio

from worker.pipeline.pipeline import Pipeline
from worker.service.notify import ServiceManager
from worker.service.sampler import Sample

EVERY_SECONDS = 1.0
RATE_SECONDS = 10
"""The rate is that of the last so many seconds."""

ASKED_SECONDS_MAX = 300.0
"""A claim ends by itself: connecting and each query have a time limit (worker.store.database), and it makes a few of them."""


async def tell_ready(pipeline: Pipeline, manager: ServiceManager) -> None:
    """Say that the worker serves, once its first claim has come back."""
    await pipeline.claimed.wait()
    manager.tell("READY=1")


async def tell_status(pipeline: Pipeline, manager: ServiceManager, latest: Callable[[], Sample | None]) -> None:
    """Say every second how it goes, in a line for people, if it has changed. Runs for ever."""
    status, told = Status(pipeline, latest), ""
    while True:
        line = status.line(anyio.current_time(), time.time())
        if line != told:
            manager.tell(f"STATUS={line}")
            told = line
        await anyio.sleep(EVERY_SECONDS)


async def feed_watchdog(pipeline: Pipeline, manager: ServiceManager) -> None:
    """Say that the worker is alive, for as long as its claims make progress. Runs for ever; returns if nobody looks."""
    if manager.watchdog_seconds is None:
        return
    progress = Progress(pipeline)
    while True:
        if progress.is_made(anyio.current_time()):
            manager.tell("WATCHDOG=1")
        await anyio.sleep(min(EVERY_SECONDS, manager.watchdog_seconds / 4))


class Status:
    """The line that `systemctl status` shows."""

    def __init__(self, pipeline: Pipeline, latest: Callable[[], Sample | None]) -> None:
        self._pipeline, self._latest = pipeline, latest
        self._delivered: deque[tuple[float, int]] = deque(maxlen=RATE_SECONDS + 1)
        self._away_since: float | None = None

    def line(self, now: float, unix: float) -> str:
        """Say how it goes at a monotonic time, which is this Unix time. Asked once a second."""
        pipeline = self._pipeline
        self._delivered.append((now, pipeline.counts.delivered))
        away = pipeline.store_error is not None
        self._away_since = (self._away_since or unix) if away else None
        if pipeline.stopping:
            return f"draining: {pipeline.in_hand:,} in hand"
        if self._away_since is not None:
            return f"the database is away since {_clock(self._away_since)}, deliveries wait"
        if not pipeline.claimed.is_set():
            return "waiting for the database's first answer"
        since, before = self._delivered[0]
        rate = (pipeline.counts.delivered - before) / max(now - since, EVERY_SECONDS)
        line = f"delivering {rate:,.0f}/s" if rate >= 10 or not rate else f"delivering {rate:.1f}/s"
        if (queue := self._latest()) is None:
            return line
        return f"{line}, backlog {queue.deliveries.get('pending', 0):,}, oldest {_duration(queue.oldest_due_seconds)}"


class Progress:
    """Whether claims go on. A database that is away is no reason to be ended; a loop that does not come round is."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._turns, self._turned = -1, 0.0

    def is_made(self, now: float) -> bool:
        """Whether the loop came round since this was last asked, or is asking the store. Draining has its own time limit."""
        pipeline = self._pipeline
        if pipeline.turns != self._turns:
            self._turns, self._turned = pipeline.turns, now
            return True
        return pipeline.stopping or (pipeline.asks and now - self._turned < ASKED_SECONDS_MAX)


def _clock(unix: float) -> str:
    return time.strftime("%H:%M:%S UTC", time.gmtime(unix))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
