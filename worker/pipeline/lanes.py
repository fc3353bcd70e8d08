"""Which endpoint may take one more lane: those that nobody can count on share a part of the lanes. See docs/adr/0013."""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

from worker.core.model import Delivery

SLOW_SECONDS = 1.0
"""A lane that is held for longer than this is held by a slow endpoint."""

KEPT_FROM_ONE = 4
"""A quarter of the lanes is out of any one endpoint's reach; a quarter of the share is out of reach of those found slow."""

AHEAD_OF_ANSWERS = 16
"""A sixteenth of the lanes may go to a proven endpoint between two of its answers without counting against the share."""

KNOWN_MAX = 10_000
"""Of so many endpoints is it remembered how they answered; one that is forgotten has to prove itself again."""


class Standing(Enum):
    """What an endpoint's attempts in this process say of it."""

    UNKNOWN = "unknown"
    PROVEN = "proven"
    SLOW = "slow"


@dataclass(slots=True, eq=False)
class Account:
    """One endpoint's lanes. `lent` of them count against the share: all of them, unless it is proven."""

    endpoint: int
    standing: Standing = Standing.UNKNOWN
    lanes: int = 0
    lent: int = 0
    overdue: int = 0
    """Its requests that have been out for longer than SLOW_SECONDS."""
    credit: int = 0
    """Lanes it may take before its next quick answer without counting against the share."""
    may_show: bool = True
    """Whether one lane is kept for it to show that it answers: it is unknown, or was proven until one request was slow."""
    used: bool = False
    """Whether it had a lane since it was last looked at as one to forget."""
    line: "OrderedDict[int, Account] | None" = None
    """Where it waits for a lane; None if nothing of it is parked, or if one of its own lanes has to end first."""


class Lanes:
    """The accounts of the endpoints. No timers: who holds a lane for too long is noticed when somebody asks."""

    def __init__(self, lanes: int, slow_share: float) -> None:
        self.each_max = lanes - lanes // KEPT_FROM_ONE
        self.share = max(1, int(slow_share * lanes + 1e-9))
        self.slow_max = max(1, self.share - max(1, self.share // KEPT_FROM_ONE))
        self.lent = 0
        self.slow: dict[int, Account] = {}
        self.notice_at = 0.0
        """Before this nothing can be overdue."""
        self._credit = max(2, lanes // AHEAD_OF_ANSWERS)
        self._known: OrderedDict[int, Account] = OrderedDict()
        self._out: dict[int, tuple[float, Account]] = {}  # by the delivery's identity, in the order of their starts

    def account(self, endpoint: int) -> Account:
        """Return an endpoint's account, opened if need be."""
        account = self._known.get(endpoint)
        if account is None:
            if len(self._known) >= KNOWN_MAX:
                self._forget_one()
            account = self._known[endpoint] = Account(endpoint)
        return account

    def take(self, account: Account, delivery: Delivery, now: float) -> bool:
        """Give a delivery a lane, if its endpoint may have one more."""
        if account.lanes >= self.each_max:
            return False
        if account.credit:
            account.credit -= 1
        elif account.may_show and account.lanes == account.overdue:
            if self.lent >= self.share:
                return False
            account.may_show = False
            self._lend(account, account.lent + 1)
        elif account.standing is not Standing.UNKNOWN and self.lent < self.slow_max:
            self._lend(account, account.lent + 1)
        else:
            return False
        account.lanes += 1
        account.used = True
        self._out[id(delivery)] = now, account
        return True

    def give_back(self, delivery: Delivery, now: float, *, attempted: bool) -> Account:
        """Take a lane back. Its time says something of the endpoint only if the request was `attempted`."""
        started, account = self._out.pop(id(delivery), (None, None))
        if account is None:
            account = self._known[delivery.endpoint.id]
            account.overdue -= 1
        account.lanes -= 1
        if started is None or now - started >= SLOW_SECONDS:
            self._found_slow(account)
        elif attempted and not account.overdue:
            if account.standing is not Standing.PROVEN:
                account.standing = Standing.PROVEN
                self.slow.pop(account.endpoint, None)
            account.credit, account.may_show = self._credit, True
            if account.lent:
                self._lend(account, 0)
        else:  # it proves nothing, so it costs nothing
            account.may_show = account.may_show or attempted or account.standing is Standing.UNKNOWN
            if account.lent:
                self._lend(account, account.lent - 1)
            else:  # a proven one's, unsent
                account.credit = min(account.credit + 1, self._credit)
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
            self._found_slow(account)
            found.append(account)
        return found

    def _found_slow(self, account: Account) -> None:
        if account.standing is not Standing.SLOW:
            account.may_show = account.standing is Standing.PROVEN
            account.standing, account.credit = Standing.SLOW, 0
            self.slow[account.endpoint] = account
        self._lend(account, account.lanes)

    def _lend(self, account: Account, lanes: int) -> None:
        self.lent += lanes - account.lent
        account.lent = lanes

    def _forget_one(self) -> None:
        """Close the account that was not used for longest, nearly: each was given a second chance since it was used."""
        for _ in range(len(self._known) + 1):
            endpoint, account = self._known.popitem(last=False)
            if not (account.used or account.lanes or account.line):
                self.slow.pop(endpoint, None)
                return
            account.used = False
            self._known[endpoint] = account
