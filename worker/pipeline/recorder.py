"""Outcomes on their way into the store, in batches, however long the store is away."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import anyio

from worker.core.model import Exchange, Outcome
from worker.pipeline.ports import Store, StoreError
from worker.pipeline.tally import Tally

log = logging.getLogger("worker.recorder")

BATCH_MAX = 1000
ENOUGH = 250
"""A record is made of so many outcomes, unless that takes longer than a moment: it has to be worth its round trip."""

GATHER_SECONDS = 0.03
"""So long outcomes wait for others, unless there are enough before."""


class Recorder:
    """Keeps every outcome until the store has confirmed it. Recording twice changes nothing, so it may always try again."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        retry_seconds: Sequence[float],
        tally: Tally | None = None,
    ) -> None:
        self.fenced = 0
        self.errors = 0
        self.error: Exception | None = None
        """Why the last record failed, or None since one succeeded."""
        self._store, self._clock, self._retry_seconds = store, clock, retry_seconds
        self._tally = tally
        self._hurried = False
        self.progress = anyio.Event()
        """Set, and replaced by another, when a batch has been recorded."""
        self._waiting: list[Outcome] = []
        self._recording: list[Outcome] = []
        self._added = anyio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._recording)

    def add(self, outcome: Outcome) -> None:
        """Take an outcome; it counts as in hand until it is recorded."""
        self._waiting.append(outcome)
        if len(self._waiting) in (1, ENOUGH):
            self._added.set()

    def hurry(self) -> None:
        """Let nothing wait for others: none are to come before what there is has been recorded."""
        self._hurried = True
        self._added.set()

    async def drained(self) -> None:
        """Wait until everything is recorded."""
        while len(self):
            await self.progress.wait()

    async def run(self) -> None:
        """Record for ever."""
        while True:
            while not self._waiting:
                self._added = anyio.Event()
                await self._added.wait()
            if len(self._waiting) < ENOUGH and not self._hurried:
                self._added = anyio.Event()
                with anyio.move_on_after(GATHER_SECONDS):
                    await self._added.wait()
            self._hurried = False
            self._recording, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            if self._tally is not None:
                self._tally.add(self._recording)
            await self._record(self._recording)
            self._recording = []
            self.progress.set()
            self.progress = anyio.Event()

    async def _record(self, batch: list[Outcome]) -> None:
        failures, bare = 0, False
        while True:
            asked = self._clock()
            try:
                changed = await self._store.record(batch, asked)
            except Exception as error:  # no surprise of a store's may lose an outcome
                self.errors += 1
                self.error = error
                if isinstance(error, StoreError) and error.refused:
                    if len(batch) > 1:  # one of them is to blame: find it by halves
                        await self._record(batch[: len(batch) // 2])
                        await self._record(batch[len(batch) // 2 :])
                        return
                    if bare:  # nothing of it can be recorded: its lease will expire, and the attempt counts
                        log.exception("the store refuses the outcome of delivery %d for good", batch[0].delivery.id)
                        batch[0].delivery.claim.open -= 1
                        self.error = None  # the store has answered
                        return
                    batch, bare = [_bare(batch[0])], True
                await anyio.sleep(self._retry_seconds[min(failures, len(self._retry_seconds) - 1)])
                failures += 1
            else:
                self.error = None
                if self._tally is not None:
                    self._tally.records.add(self._clock() - asked)
                self.fenced += len(batch) - changed
                for outcome in batch:
                    outcome.delivery.claim.open -= 1
                return


def _bare(outcome: Outcome) -> Outcome:
    """The same result without the receiver's words, for a store that refuses them."""
    exchange = Exchange(outcome.exchange.status, outcome.exchange.outcome, "details refused by the store")
    return replace(outcome, exchange=exchange)
