"""Claimed deliveries that wait for a lane, or first for their planned moment."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable

import anyio

from worker.core.model import Delivery


class ReadyQueue:
    """Hands deliveries to lanes, at once or at their time. Lanes wait only when nothing is ready: a busy queue wakes nobody."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ready: deque[Delivery] = deque()
        self._due: deque[Delivery] = deque()  # planned, and their moment has come: they go first, for it passes
        self._planned: list[tuple[float, int, Delivery]] = []
        self._order = itertools.count()
        self._idle_lanes: deque[anyio.Event] = deque()
        self._planned_changed = anyio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._due) + len(self._ready) + len(self._planned)

    def put(self, delivery: Delivery, send_at: float | None) -> None:
        """Add a delivery; `send_at` is on the monotonic clock, None for at once."""
        if send_at is None:
            self._ready.append(delivery)
            self._wake_lane()
        elif send_at <= self._clock():
            self._due.append(delivery)
            self._wake_lane()
        else:
            heapq.heappush(self._planned, (send_at, next(self._order), delivery))
            self._planned_changed.set()

    async def get(self) -> Delivery | None:
        """Return the next ready delivery, waiting for one; None once the queue is closed."""
        while not (self._due or self._ready):
            if self._closed:
                return None
            event = anyio.Event()
            self._idle_lanes.append(event)
            try:
                await event.wait()
            except BaseException:
                if event.is_set():  # cancelled with the baton in hand: pass it on
                    self._wake_lane()
                else:  # nobody waits here any more: a wake-up must not be spent on it
                    self._idle_lanes.remove(event)
                raise
        return (self._due or self._ready).popleft()

    async def release_planned(self) -> None:
        """Move planned deliveries to the lanes when their moment comes; runs until the queue is closed."""
        while not self._closed:
            now = self._clock()
            while self._planned and self._planned[0][0] <= now:
                self._due.append(heapq.heappop(self._planned)[2])
                self._wake_lane()
            self._planned_changed = anyio.Event()
            wait = self._planned[0][0] - now if self._planned else float("inf")
            with anyio.move_on_after(wait):
                await self._planned_changed.wait()

    def close(self) -> list[Delivery]:
        """Let every waiting lane end, and return what was not handed out."""
        left = [*self._due, *self._ready, *(entry[2] for entry in self._planned)]
        self._due.clear()
        self._ready.clear()
        self._planned.clear()
        self._closed = True
        self._planned_changed.set()
        while self._idle_lanes:
            self._idle_lanes.popleft().set()
        return left

    def _wake_lane(self) -> None:
        if self._idle_lanes:
            self._idle_lanes.popleft().set()
