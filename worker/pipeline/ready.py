"""Claimed deliveries that wait for a lane, or first for their planned moment."""

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable

import anyio

from worker.core.model import Delivery
from worker.pipeline.lanes import SLOW_SECONDS, Account, Lanes, Standing
from worker.pipeline.limits import Limits

AVOIDED_MAX = 500
"""So many endpoints can be kept out of a claim."""

PARKED_KEPT = 8
"""Of an endpoint that was found slow so many deliveries are kept at hand; others may have the rest."""

UNSEEN_KEPT = 2
"""The same of an unknown endpoint for which there is no lane: it would get one."""


class ReadyQueue:
    """Hands deliveries to lanes, at once or at their time. Lanes wait only when nothing is ready: a busy queue wakes nobody.

    `Lanes` says whether an endpoint may have one more lane, so that those which hang leave some for the others. What may
    not go is parked. When its endpoint has a right of its own again it goes first; when only the share has no room, it
    waits in line with its like.
    """

    def __init__(self, clock: Callable[[], float], limits: Limits) -> None:
        self._clock = clock
        self._lanes = Lanes(limits.concurrency, limits.slow_share)
        self._parked_max = limits.claimed_max // 2
        self._parked: dict[int, deque[Delivery]] = {}
        self._parked_count = 0
        self._entitled: OrderedDict[int, Account] = OrderedDict()
        self._may_show: OrderedDict[int, Account] = OrderedDict()
        self._slow: OrderedDict[int, Account] = OrderedDict()
        self._want_more: OrderedDict[int, Account] = OrderedDict()
        self._surplus: list[Delivery] = []
        self._resting: dict[int, float] = {}  # endpoints of which something was given back, until when
        self._ready: deque[Delivery] = deque()
        self._due: deque[Delivery] = deque()  # planned, and their moment has come: they go first, for it passes
        self._planned: list[tuple[float, int, Delivery]] = []
        self._order = itertools.count()
        self._idle_lanes: deque[anyio.Event] = deque()
        self._planned_changed = anyio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._due) + len(self._ready) + len(self._planned) + self._parked_count + len(self._surplus)

    @property
    def waiting(self) -> int:
        """Deliveries that the next free lanes may take: neither parked, nor planned for later."""
        return len(self._due) + len(self._ready)

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
        """Return the next delivery that may go, waiting for one; None once the queue is closed. Call `done` when it is over."""
        while True:
            now = self._clock()
            if now >= self._lanes.notice_at:
                self._notice(now)
            while self._due or self._ready or self._parked_count:
                if not self._due and self._parked_count and (account := self._first_in_line()):
                    delivery = self._unpark(account)
                elif self._due or self._ready:
                    delivery = (self._due or self._ready).popleft()
                    account = self._lanes.account(delivery.endpoint.id)
                else:
                    break
                if self._lanes.take(account, delivery, now):
                    if self._parked_count:
                        self._line_up(account)
                        self._wake_lane_for_parked()
                    return delivery
                self._park(account, delivery)
            if self._closed:
                return None
            await self._wait_for_one()

    def done(self, delivery: Delivery, *, attempted: bool = True) -> None:
        """Say that a lane is through with a delivery, and whether it was sent at all."""
        account = self._lanes.give_back(delivery, self._clock(), attempted=attempted)
        if self._parked_count:
            self._line_up(account)
            self._wake_lane_for_parked()

    # -- parked --------------------------------------------------------------------------------------------------------

    def surplus(self) -> list[Delivery]:
        """Return what this worker should give back, since too much of it waits for endpoints that may get no lane soon."""
        if (now := self._clock()) >= self._lanes.notice_at:
            self._notice(now)
        surplus, self._surplus = self._surplus, []
        return surplus

    def avoid(self) -> list[int]:
        """Return the endpoints of which this worker wants no more for now."""
        now, known = self._clock(), self._lanes
        self._resting = {endpoint: until for endpoint, until in self._resting.items() if until > now}
        avoided = dict.fromkeys(self._resting)
        for endpoint, parked in self._parked.items():
            if known.account(endpoint).standing is not Standing.PROVEN or len(parked) >= self._parked_max:
                avoided[endpoint] = None
        if known.lent >= known.slow_max:
            hopeless = (endpoint for endpoint, account in known.slow.items() if not account.may_show)
            avoided |= dict.fromkeys(itertools.islice(hopeless, AVOIDED_MAX))
        return list(itertools.islice(avoided, AVOIDED_MAX))

    def _notice(self, now: float) -> None:
        """Look for endpoints that have become slow: they lose their rights, and what waits for them beyond a few."""
        for account in self._lanes.overdue(now):
            parked = self._parked.get(account.endpoint, deque())
            while len(parked) > PARKED_KEPT:
                self._give_back(account, parked.pop(), now)
                self._parked_count -= 1
            self._line_up(account)
        if self._parked_count:
            self._wake_lane_for_parked()

    def _park(self, account: Account, delivery: Delivery) -> None:
        parked = self._parked.setdefault(account.endpoint, deque())
        slow, proven = account.standing is Standing.SLOW, account.standing is Standing.PROVEN
        kept = PARKED_KEPT if slow else self._parked_max if account.lanes else UNSEEN_KEPT
        room = self._parked_max // 2 if slow else self._parked_max  # what hangs leaves some for what is unknown
        if not proven and (len(parked) >= kept or self._parked_count >= room):
            self._give_back(account, delivery, self._clock())
            if not parked:
                del self._parked[account.endpoint]
            return
        parked.append(delivery)
        self._parked_count += 1
        self._line_up(account)

    def _unpark(self, account: Account) -> Delivery:
        parked = self._parked[account.endpoint]
        delivery = parked.popleft()
        self._parked_count -= 1
        if not parked:
            del self._parked[account.endpoint]
            self._leave_line(account)
        return delivery

    def _give_back(self, account: Account, delivery: Delivery, now: float) -> None:
        self._surplus.append(delivery)
        if len(self._resting) < AVOIDED_MAX or account.endpoint in self._resting:
            self._resting[account.endpoint] = now + SLOW_SECONDS

    def _line_up(self, account: Account) -> None:
        """Put it at the end of the line for what it lacks: nothing, room in the share, or one of its own lanes (no line)."""
        self._leave_line(account)
        if account.endpoint not in self._parked or account.lanes >= self._lanes.each_max:
            return
        if account.credit:
            line = self._entitled
        elif account.may_show and account.lanes == account.overdue:
            line = self._may_show
        elif account.standing is Standing.UNKNOWN:
            return
        else:
            line = self._want_more if account.lanes else self._slow
        line[account.endpoint] = account
        account.line = line

    def _leave_line(self, account: Account) -> None:
        if account.line is not None:
            del account.line[account.endpoint]
            account.line = None

    def _first_in_line(self) -> Account | None:
        """Return an endpoint of which something is parked that may go now."""
        lent = self._lanes.lent
        if self._entitled:
            line = self._entitled
        elif self._may_show and lent < self._lanes.share:
            line = self._may_show
        elif lent < self._lanes.slow_max:
            line = self._slow or self._want_more
        else:
            return None
        return next(iter(line.values()), None)

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
        parked = [delivery for waiting in self._parked.values() for delivery in waiting]
        left = [*self._due, *self._ready, *parked, *self._surplus, *(entry[2] for entry in self._planned)]
        for endpoint in self._parked:
            self._leave_line(self._lanes.account(endpoint))
        for container in (self._due, self._ready, self._planned, self._parked, self._surplus):
            container.clear()
        self._parked_count = 0
        self._closed = True
        self._planned_changed.set()
        while self._idle_lanes:
            self._idle_lanes.popleft().set()
        return left

    def _wake_lane(self) -> None:
        if self._idle_lanes:
            self._idle_lanes.popleft().set()

    def _wake_lane_for_parked(self) -> None:
        if self._idle_lanes and self._first_in_line():
            self._idle_lanes.popleft().set()
