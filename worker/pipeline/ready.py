"""Claimed deliveries that wait for a lane, or first for their planned moment."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Mapping

import anyio

from worker.core.model import Delivery
from worker.pipeline.lanes import Account, Lanes
from worker.pipeline.limits import Limits
from worker.pipeline.parked import Parked
from worker.pipeline.ports import Avoid


class ReadyQueue:
    """Hands deliveries to lanes, at once or at their time. Lanes wait only when nothing is ready: a busy queue wakes nobody.

    `Lanes` says whether an endpoint may have one more lane, so that those which hang, or have much to do, leave some for
    the others. What may not go is parked.
    """

    def __init__(self, clock: Callable[[], float], limits: Limits) -> None:
        self._clock = clock
        self._lanes = Lanes(limits.concurrency, limits.slow_share)
        self._open = limits.concurrency  # lanes that come here; more than there should be until enough of them have ended
        self._parked = Parked(self._lanes, limits.claimed_max // 2)
        self._ready: deque[Delivery] = deque()
        self._due: deque[Delivery] = deque()  # planned, and their moment has come: they go first, for it passes
        self._planned: list[tuple[float, int, Delivery]] = []
        self._order = itertools.count()
        self._idle_lanes: deque[anyio.Event] = deque()
        self._planned_changed = anyio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._due) + len(self._ready) + len(self._planned) + self._parked.count

    @property
    def waiting(self) -> int:
        """Deliveries that the next free lanes may take: neither parked, nor planned for later."""
        return len(self._due) + len(self._ready)

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Take note of tenants' weights: what is a fair part of the lanes."""
        self._lanes.weigh(weights)

    def resize(self, limits: Limits) -> int:
        """Have so many lanes from now on; return how many more are to come for deliveries. What is too many ends in `get`."""
        self._lanes.resize(limits.concurrency, limits.slow_share)
        self._parked.most = limits.claimed_max // 2
        more = max(0, limits.concurrency - self._open)
        self._open += more
        for _ in range(self._open - limits.concurrency):
            self._wake_lane()
        if self._parked.count:  # the share may have grown
            self._wake_lane_for_parked()
        return more

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
        """Return the next delivery that may go, waiting for one. Call `done` when it is over.

        None tells a lane to end: the queue is closed, or there are more lanes than there should be.
        """
        while not self._is_one_too_many():
            now = self._clock()
            if now >= self._lanes.notice_at:
                self._notice(now)
            if (delivery := self._next(now)) is not None:
                return delivery
            if self._closed:
                return None
            await self._wait_for_one()
        return None

    def _next(self, now: float) -> Delivery | None:
        """Give the next delivery that may have a lane its lane. What may not is parked; what comes lines up with that."""
        lanes, parked = self._lanes, self._parked
        while self._due or self._ready or parked.count:
            if parked.count:
                self._line_up()
            if self._due or self._ready:
                delivery = (self._due or self._ready).popleft()
                account = self._account(delivery)
                ground = lanes.may_take(account)
                if ground is None:
                    parked.park(account, delivery)
                    continue
            else:
                first = parked.first()
                if first is None:
                    break
                account, ground = first
                delivery = parked.unpark(account)
            lanes.take(account, ground, delivery, now)
            if parked.count:
                parked.line_up(account)
                self._wake_lane_for_parked()
            return delivery
        return None

    def _is_one_too_many(self) -> bool:
        """Whether the lane that asks is to end."""
        if self._open <= self._lanes.count:
            return False
        self._open -= 1
        return True

    def _line_up(self) -> None:
        """Let what comes line up with what waits."""
        while self._ready:
            delivery = self._ready.popleft()
            self._parked.park(self._account(delivery), delivery)

    def done(self, delivery: Delivery, *, attempted: bool = True) -> None:
        """Say that a lane is through with a delivery, and whether it was sent at all. It then comes for the next one."""
        account = self._lanes.give_back(delivery, self._clock(), attempted=attempted)
        if self._parked.count:
            self._parked.line_up(account)

    def surplus(self) -> list[Delivery]:
        """Return what this worker should give back, since too much of it waits for endpoints that may get no lane soon."""
        if (now := self._clock()) >= self._lanes.notice_at:
            self._notice(now)
        return self._parked.surplus(now)

    def avoid(self, enough: int) -> Avoid:
        """Return the endpoints and tenants of which this worker wants no more for now: `enough` of theirs waits for lanes."""
        return self._parked.avoid(self._clock(), enough)

    def _account(self, delivery: Delivery) -> Account:
        return self._lanes.account(delivery.endpoint.id, delivery.endpoint.tenant)

    def _notice(self, now: float) -> None:
        """Look for endpoints that have become slow: they lose their rights."""
        for account in self._lanes.overdue(now):
            self._parked.line_up(account)
        if self._parked.count:
            self._wake_lane_for_parked()

    # -- lanes ---------------------------------------------------------------------------------------------------------

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
        left = [*self._due, *self._ready, *self._parked.close(), *(entry[2] for entry in self._planned)]
        for container in (self._due, self._ready, self._planned):
            container.clear()
        self._closed = True
        self._planned_changed.set()
        while self._idle_lanes:
            self._idle_lanes.popleft().set()
        return left

    def _wake_lane(self) -> None:
        if self._idle_lanes:
            self._idle_lanes.popleft().set()

    def _wake_lane_for_parked(self) -> None:
        if self._idle_lanes and self._parked.first():
            self._idle_lanes.popleft().set()
