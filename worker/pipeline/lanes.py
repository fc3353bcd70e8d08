"""Who may take one more lane: tenants and endpoints share them, and what nobody can count on has a part. See docs/adr/0013."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Literal

from worker.core.model import Delivery

SLOW_SECONDS = 1.0
"""A lane that is held for longer than this is held by a slow endpoint."""

TIMES_FREE = 7.0
"""A tenant may hold so many times the lanes that are free, and an endpoint so many times those that its tenant may still take
(dynamic thresholds: Choudhury, Hahne, 1998). One that is alone comes to seven eighths, and whoever has none finds one."""

KEPT_FOR_FEW = 32
"""A thirty-second of the lanes is for tenants that hold less than their part, and endpoints that hold none."""

KEPT_FROM_SLOW = 4
"""A quarter of the share is out of reach of those found slow."""

AHEAD_OF_ANSWERS = 16
"""A sixteenth of the lanes may go to a proven endpoint between two of its answers without counting against the share."""

KNOWN_MAX = 10_000
"""Of so many endpoints is it remembered how they answered; one that is forgotten has to prove itself again."""


class Standing(Enum):
    """What an endpoint's attempts in this process say of it."""

    UNKNOWN = "unknown"
    PROVEN = "proven"
    SLOW = "slow"


class Ground(IntEnum):
    """On what ground an endpoint may have one more lane. Who waits on the first of these goes first."""

    FIRST = 0
    """It is proven, and has no lane."""
    TRIAL = 1
    """It has no other, and may show with this one that it answers."""
    MORE = 2
    """It is proven, and its last answer allows it another."""
    LENT = 3
    """The share has room, and it has no lane."""
    LENT_MORE = 4
    """The share has room."""


UNKNOWN, PROVEN, SLOW = Standing  # plain names: on CPython 3.11 an Enum's attribute costs ten times as much
FIRST, TRIAL, MORE, LENT, LENT_MORE = Ground


@dataclass(slots=True, eq=False)
class Tenant:
    """What the endpoints of a tenant hold together. What was lent is apart: who hangs must not lock out its siblings."""

    name: str
    weight: float = 1.0
    endpoints: int = 0
    busy: int = 0
    """Lanes that its endpoints have a right of their own to, those on trial included."""
    busy_endpoints: int = 0
    lent: int = 0
    on_trial: int = 0


@dataclass(slots=True, eq=False)
class Account:
    """One endpoint's lanes. `lent` of them count against the share: all of them, unless it is proven."""

    endpoint: int
    tenant: Tenant
    standing: Standing = UNKNOWN
    lanes: int = 0
    lent: int = 0
    busy: int = 0
    """Those that are not lent, and the one on trial."""
    overdue: int = 0
    """Its requests that have been out for longer than SLOW_SECONDS."""
    credit: int = 0
    """Lanes it may take before its next quick answer without counting against the share."""
    may_show: bool = True
    """Whether one lane is kept for it to show that it answers: it is unknown, or was proven until one request was slow."""
    on_trial: bool = False
    used: bool = False
    """Whether it had a lane since it was last looked at as one to forget."""
    waits: bool = False
    """Whether something of it is parked."""
    line: Ground | None = None
    """The line that it waits in."""
    lined_up: int = 0
    """When it was put into the line that it waits in: a number that rises."""


class Lanes:
    """The accounts of the endpoints. No timers: who holds a lane for too long is noticed when somebody asks."""

    def __init__(self, lanes: int, slow_share: float) -> None:
        self.count = self.free = 0
        self.resize(lanes, slow_share)
        self.lent = 0
        self.on_trial = 0
        self.slow: dict[int, Account] = {}
        self.notice_at = 0.0
        """Before this nothing can be overdue."""
        self._known: OrderedDict[int, Account] = OrderedDict()
        self._tenants: dict[str, Tenant] = {}
        self._weights: dict[str, float] = {}  # other than 1, now or once
        self._busy_weight = 0.0  # of the tenants that are busy
        self._out: dict[int, tuple[float, Account]] = {}  # by the delivery's identity, in the order of their starts

    def resize(self, lanes: int, slow_share: float) -> None:
        """Have so many lanes from now on. `free` is below zero while more than that are held: nobody gets one then."""
        self.free += lanes - self.count
        self.count = lanes
        self.share = max(1, int(slow_share * lanes + 1e-9))
        self.slow_max = max(1, self.share - max(1, self.share // KEPT_FROM_SLOW))
        self._kept = lanes // KEPT_FOR_FEW
        self._credit = max(2, lanes // AHEAD_OF_ANSWERS)

    def account(self, endpoint: int, tenant: str) -> Account:
        """Return an endpoint's account, opened if need be."""
        account = self._known.get(endpoint)
        if account is None:
            if len(self._known) >= KNOWN_MAX:
                self._forget_one()
            of = self._tenants.get(tenant)
            if of is None:
                of = self._tenants[tenant] = Tenant(tenant, self._weights.get(tenant, 1.0))
            of.endpoints += 1
            account = self._known[endpoint] = Account(endpoint, of)
        return account

    def known(self, endpoint: int) -> Account:
        """Return the account of an endpoint of which something is parked or out."""
        return self._known[endpoint]

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Take note of tenants' weights; those of whom nothing was heard have 1."""
        for name, weight in weights.items():
            if weight != self._weights.get(name, 1.0):
                self._weights[name] = weight
                if (tenant := self._tenants.get(name)) is not None:
                    self._busy_weight += (weight - tenant.weight) * (tenant.busy > 0)
                    tenant.weight = weight

    def ground(self, account: Account) -> Ground | None:
        """Say on what ground it would get its next lane; None: one of its own has to end first."""
        if account.credit:
            return MORE if account.busy else FIRST
        if account.may_show and account.lanes == account.overdue:
            return TRIAL
        if account.standing is UNKNOWN:
            return None
        return LENT_MORE if account.lanes else LENT

    def has_room(self, ground: Ground, tenant: Tenant) -> bool:
        """Whether a tenant's endpoints may have one more lane on this ground."""
        free, weight = self.free - self._kept, tenant.weight
        enough = TIMES_FREE * free * weight
        if ground is MORE:
            return tenant.busy < enough
        if ground is LENT or ground is LENT_MORE:
            held = tenant.lent if ground is LENT else tenant.busy + tenant.lent
            return held < enough and tenant.lent < TIMES_FREE * (self.slow_max - self.lent) * weight
        if self.free <= 0:
            return False
        part = weight / (self._busy_weight + 1)  # of everything, if one more tenant came
        lanes_part = part * (self.count - self.lent + self.on_trial)
        if tenant.busy_endpoints >= max(enough, lanes_part) or (free <= 0 and tenant.busy >= lanes_part):
            return False
        if ground is FIRST:
            return True
        room = self.share - self.lent
        return room > 0 and tenant.on_trial < max(min(enough, TIMES_FREE * room * weight), part * (room + self.on_trial))

    def most_of_one(self, tenant: Tenant) -> float:
        """How many lanes it takes for one of its endpoints to hold too much, beside what the tenant may still take.

        One of its own lanes has to end then before it gets more.
        """
        return max(1, TIMES_FREE * (TIMES_FREE * (self.free - self._kept) * tenant.weight - tenant.busy))

    def may_take(self, account: Account) -> Ground | None:
        """Say on what ground an endpoint may have one more lane now; None: it may not."""
        ground, tenant = self.ground(account), account.tenant
        if ground is None or not self.has_room(ground, tenant):
            return None
        return None if ground is MORE and account.busy >= self.most_of_one(tenant) else ground

    def take(self, account: Account, ground: Ground, delivery: Delivery, now: float) -> None:
        """Give a delivery a free lane, on the ground on which its endpoint may have one more."""
        if ground is FIRST or ground is MORE:
            account.credit -= 1
            self._hold_own(account, 1)
        else:
            account.may_show = account.may_show and ground is not TRIAL
            self._hold(account, account.lanes + 1, account.lent + 1, on_trial=account.on_trial or ground is TRIAL)
        account.used = True
        self._out[id(delivery)] = now, account

    def give_back(self, delivery: Delivery, now: float, *, attempted: bool) -> Account:
        """Take a lane back. Its time says something of the endpoint only if the request was `attempted`."""
        started, account = self._out.pop(id(delivery), (None, None))
        if account is None:
            account = self._known[delivery.endpoint.id]
            account.overdue -= 1
        lanes = account.lanes - 1
        if started is None or now - started >= SLOW_SECONDS:
            self._found_slow(account, lanes)
        elif attempted and account.standing is PROVEN and not account.lent:  # so none is overdue
            account.credit, account.may_show = self._credit, True
            self._hold_own(account, -1)
        elif attempted and not account.overdue:
            if account.standing is not PROVEN:
                account.standing = PROVEN
                self.slow.pop(account.endpoint, None)
            account.credit, account.may_show = self._credit, True
            self._hold(account, lanes, 0, on_trial=False)
        else:  # it proves nothing, so it costs nothing
            account.may_show = account.may_show or attempted or account.on_trial
            if not account.lent:  # a proven one's, unsent
                account.credit = min(account.credit + 1, self._credit)
            self._hold(account, lanes, max(0, account.lent - 1), on_trial=False)
        return account

    def overdue(self, now: float) -> list[Account]:
        """Find the endpoints whose requests have been out for too long since this was last asked."""
        found = []
        self.notice_at = now + SLOW_SECONDS
        while self._out:
            key, (started, account) = next(iter(self._out.items()))
            if now - started < SLOW_SECONDS:
                self.notice_at = started + SLOW_SECONDS
                break
            del self._out[key]
            account.overdue += 1
            self._found_slow(account, account.lanes)
            found.append(account)
        return found

    def _found_slow(self, account: Account, lanes: int) -> None:
        if account.standing is not SLOW:
            account.may_show = account.standing is PROVEN
            account.standing, account.credit = SLOW, 0
            self.slow[account.endpoint] = account
        self._hold(account, lanes, lanes, on_trial=False)

    def _hold(self, account: Account, lanes: int, lent: int, *, on_trial: bool) -> None:
        tenant, was_busy, tenant_was_busy = account.tenant, account.busy, account.tenant.busy > 0
        self.free -= lanes - account.lanes
        self.lent += lent - account.lent
        self.on_trial += on_trial - account.on_trial
        tenant.lent += lent - account.lent
        tenant.on_trial += on_trial - account.on_trial
        account.lanes, account.lent, account.on_trial = lanes, lent, on_trial
        account.busy = lanes - lent + on_trial
        tenant.busy += account.busy - was_busy
        tenant.busy_endpoints += (account.busy > 0) - (was_busy > 0)
        if tenant_was_busy != (tenant.busy > 0):
            self._busy_weight += -tenant.weight if tenant_was_busy else tenant.weight

    def _hold_own(self, account: Account, more: Literal[1, -1]) -> None:
        """Do the same where one lane more or less is neither lent nor on trial: with every delivery, if all is well."""
        tenant = account.tenant
        self.free -= more
        account.lanes += more
        account.busy += more
        tenant.busy += more
        if account.busy == (more > 0):  # it was idle, or is now
            tenant.busy_endpoints += more
            if tenant.busy == (more > 0):
                self._busy_weight += more * tenant.weight

    def _forget_one(self) -> None:
        """Close the account that was not used for longest, nearly: each was given a second chance since it was used."""
        for _ in range(len(self._known) + 1):
            endpoint, account = self._known.popitem(last=False)
            if not (account.used or account.lanes or account.waits):
                self.slow.pop(endpoint, None)
                account.tenant.endpoints -= 1
                if not account.tenant.endpoints:
                    del self._tenants[account.tenant.name]
                return
            account.used = False
            self._known[endpoint] = account
