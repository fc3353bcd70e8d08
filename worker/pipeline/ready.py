"""Claimed deliveries that wait for a lane, or first for their planned moment."""

import heapq
import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Callable

import anyio

from worker.core.model import Delivery


class ReadyQueue:
    """Hands deliveries to lanes, at once or at their time. Lanes wait only when nothing is ready: a busy queue wakes nobody.

    No endpoint holds more than `lanes_per_endpoint` lanes at once, so that one which hangs leaves lanes for the others;
    what is over it is parked until `done` is called for one of its own.
    """

    def __init__(self, clock: Callable[[], float], lanes_per_endpoint: int) -> None:
        self._clock, self._lanes_per_endpoint = clock, lanes_per_endpoint
        self._under_way: Counter[int] = Counter()
        self._parked: defaultdict[int, deque[Delivery]] = defaultdict(deque)
        self._parked_count = 0
        self._ready: deque[Delivery] = deque()
        self._due: deque[Delivery] = deque()  # planned, and their moment has come: they go first, for it passes
        self._planned: list[tuple[float, int, Delivery]] = []
        self._order = itertools.count()
        self._idle_lanes: deque[anyio.Event] = deque()
        self._planned_changed = anyio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._due) + len(self._ready) + len(self._planned) + self._parked_count

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
        """Return the next ready delivery, waiting for one; None once the queue is closed. Call `done` when it is over."""
        while True:
            while not (self._due or self._ready):
                if self._closed:
                    return None
                await self._wait_for_one()
            delivery = (self._due or self._ready).popleft()
            endpoint = delivery.endpoint.id
            if self._under_way[endpoint] < self._lanes_per_endpoint:
                self._under_way[endpoint] += 1
                return delivery
            self._parked[endpoint].append(delivery)
            self._parked_count += 1

    def done(self, delivery: Delivery) -> None:
        """Say that a lane is through with a delivery: the next one of its endpoint may go, ahead of what came later."""
        endpoint = delivery.endpoint.id
        self._under_way[endpoint] -= 1
        if not self._under_way[endpoint]:
            del self._under_way[endpoint]
        if parked := self._parked.get(endpoint):
            self._ready.appendleft(parked.popleft())
            self._parked_count -= 1
            if not parked:
                del self._parked[endpoint]
            self._wake_lane()

    async def _wait_for_one(self) -> None:
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
        parked = (delivery for waiting in self._parked.values() for delivery in waiting)
        left = [*self._due, *self._ready, *parked, *(entry[2] for entry in self._planned)]
        self._due.clear()
        self._ready.clear()
        self._planned.clear()
        self._parked.clear()
        self._parked_count = 0
        self._closed = True
        self._planned_changed.set()
        while self._idle_lanes:
            self._idle_lanes.popleft().set()
        return left

    def _wake_lane(self) -> None:
        if self._idle_lanes:
            self._idle_lanes.popleft().set()
