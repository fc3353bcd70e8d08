"""Claimed deliveries that may not have a free lane: whose turn it is when they may, and what this worker wants no more of."""

import itertools
import math
from collections import OrderedDict, deque

from worker.core.model import Delivery
from worker.pipeline.lanes import (
    FIRST,
    LENT,
    LENT_MORE,
    MORE,
    PROVEN,
    SLOW,
    SLOW_SECONDS,
    TRIAL,
    Account,
    Ground,
    Lanes,
    Tenant,
)
from worker.pipeline.ports import Avoid

AVOIDED_MAX = 500
"""So many endpoints can be kept out of a claim."""

SLOW_KEPT = 8
"""Of an endpoint that was found slow so many deliveries are kept at hand; others may have the rest."""

UNSEEN_KEPT = 2
"""The same of an unknown endpoint for which there is no lane: it would get one."""


def _share_of_lanes(tenant: Tenant) -> tuple[float, float]:
    return tenant.busy / tenant.weight, 0.0


def _share_of_trials(tenant: Tenant) -> tuple[float, float]:
    return tenant.on_trial / tenant.weight, tenant.busy / tenant.weight


def _share_of_lent(tenant: Tenant) -> tuple[float, float]:
    return tenant.lent / tenant.weight, 0.0


_HOLDS = {
    FIRST: _share_of_lanes,
    TRIAL: _share_of_trials,
    MORE: _share_of_lanes,
    LENT: _share_of_lent,
    LENT_MORE: _share_of_lent,
}


class Parked:
    """Parked deliveries by endpoint, and the endpoints in lines: the tenant that holds least for its weight goes first."""

    def __init__(self, lanes: Lanes, deliveries_max: int) -> None:
        self.count = 0
        self._lanes, self.most = lanes, deliveries_max
        self._of: dict[int, deque[Delivery]] = {}
        self._lines: dict[Ground, dict[Tenant, OrderedDict[int, Account]]] = {ground: {} for ground in Ground}
        self._numbers = itertools.count()
        self._resting: dict[int, float] = {}  # endpoints of which something was given back, until when

    def park(self, account: Account, delivery: Delivery) -> None:
        """Keep a delivery until its endpoint may have a lane, or until it is surplus."""
        if account.endpoint not in self._of:
            self._of[account.endpoint] = deque()
            account.waits = True
        self._of[account.endpoint].append(delivery)
        delivery.parked = True
        self.count += 1
        if account.line is None:
            self.line_up(account)

    def unpark(self, account: Account) -> Delivery:
        """Take out the oldest delivery of an endpoint, whose turn is over with that."""
        parked = self._of[account.endpoint]
        delivery = parked.popleft()
        self.count -= 1
        self._leave_line(account)
        if not parked:
            self._left(account)
        return delivery

    def line_up(self, account: Account) -> None:
        """See that an endpoint is in the line for what it lacks, or in none if one of its own lanes has to end first."""
        if not account.waits:
            return
        ground = self._lanes.ground(account)
        if ground is account.line:
            return
        self._leave_line(account)
        if ground is not None:
            account.line = ground
            self._lines[ground].setdefault(account.tenant, OrderedDict())[account.endpoint] = account
            account.lined_up = next(self._numbers)

    def first(self) -> tuple[Account, Ground] | None:
        """Return an endpoint that may have a lane now, and on what ground."""
        lines = self._lines
        first = self._first_on(FIRST) if lines[FIRST] else None
        trial = self._first_on(TRIAL) if lines[TRIAL] else None
        if first is not None and trial is not None:
            return min(first, trial, key=lambda found: (_share_of_lanes(found[0].tenant), found[0].lined_up))
        if first is not None or trial is not None:
            return first or trial
        for ground in (MORE, LENT, LENT_MORE):
            if lines[ground] and (found := self._first_on(ground)):
                return found
        return None

    def _first_on(self, ground: Ground) -> tuple[Account, Ground] | None:
        waiting, lanes = self._lines[ground], self._lanes
        for tenant in sorted(waiting, key=_HOLDS[ground]) if len(waiting) > 1 else waiting:
            if lanes.has_room(ground, tenant):
                most = lanes.most_of_one(tenant) if ground is MORE else math.inf
                for account in waiting[tenant].values():
                    if account.busy < most:
                        return account, ground
        return None

    def surplus(self, now: float) -> list[Delivery]:
        """Take out what is to be given back: too much of it waits for endpoints that may get no lane soon."""
        surplus: list[Delivery] = []
        unproven = [account for endpoint in self._of if (account := self._lanes.known(endpoint)).standing is not PROVEN]
        room = self.most - self.count + sum(len(self._of[account.endpoint]) for account in unproven)
        slow_room = self.most // 2  # what hangs leaves some for what is unknown
        for account in unproven:
            parked, slow = self._of[account.endpoint], account.standing is SLOW
            kept = min(SLOW_KEPT, slow_room) if slow else UNSEEN_KEPT if not account.lanes else len(parked)
            kept = max(0, min(kept, room))
            if len(parked) > kept and (len(self._resting) < AVOIDED_MAX or account.endpoint in self._resting):
                self._resting[account.endpoint] = now + SLOW_SECONDS
            while len(parked) > kept:
                surplus.append(parked.pop())
            room -= len(parked)
            slow_room -= len(parked) if slow else 0
            if not parked:
                self._left(account)
        self.count -= len(surplus)
        return surplus

    def avoid(self, now: float, enough: int) -> Avoid:
        """Return the endpoints of which `enough` waits here, and the tenants of which a quarter of what may wait does."""
        known = self._lanes
        if self.count >= self.most:
            enough = 1
        self._resting = {endpoint: until for endpoint, until in self._resting.items() if until > now}
        endpoints = dict.fromkeys(self._resting)
        for endpoint, parked in self._of.items():
            if known.known(endpoint).standing is not PROVEN or len(parked) >= enough:
                endpoints[endpoint] = None
        if known.lent >= known.slow_max:
            hopeless = (endpoint for endpoint, account in known.slow.items() if not account.may_show)
            endpoints |= dict.fromkeys(itertools.islice(hopeless, AVOIDED_MAX))
        tenants: dict[str, int] = {}
        for ground in (FIRST, TRIAL):  # even endpoints without a lane wait: more of them would, too
            for tenant, accounts in self._lines[ground].items():
                tenants[tenant.name] = tenants.get(tenant.name, 0) + sum(len(self._of[endpoint]) for endpoint in accounts)
        part = max(1, self.most // max(4, 2 * len(tenants)))
        return Avoid(
            tuple(itertools.islice(endpoints, AVOIDED_MAX)), tuple(name for name, waits in tenants.items() if waits >= part)
        )

    def close(self) -> list[Delivery]:
        """Return everything, once and for all."""
        left = list(itertools.chain.from_iterable(self._of.values()))
        for endpoint in list(self._of):
            self._of[endpoint].clear()
            self._left(self._lanes.known(endpoint))
        self.count = 0
        return left

    def _left(self, account: Account) -> None:
        """Note that nothing of it is left."""
        del self._of[account.endpoint]
        account.waits = False
        self._leave_line(account)

    def _leave_line(self, account: Account) -> None:
        if account.line is not None:
            waiting = self._lines[account.line][account.tenant]
            del waiting[account.endpoint]
            if not waiting:
                del self._lines[account.line][account.tenant]
            account.line = None
