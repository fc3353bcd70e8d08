"""Names to addresses: off the event loop, one look-up a name at a time, kept for a moment, every answer judged."""

import asyncio
import socket
from collections.abc import Callable, Sequence

import anyio
import anyio.to_thread

from worker.core.address import Network, judge
from worker.http.connection import WireError

ADDRESSES_MAX = 16
"""How many answers a name may have. More than that is no receiver we want."""

KEPT_SECONDS = 10.0
"""How long answers are used again. The system does not tell a record's own time to live; few are shorter."""

FAILURE_KEPT_SECONDS = 1.0
KEPT_MAX = 10_000

QUICK_SECONDS = 0.5
THREADS = {True: 16, None: 16, False: 8}
"""For names whose last look-up was quick, that were never looked up, that were slow or failed: each starves only its like."""


class _Name:
    """What is known of a name: its addresses, or why there are none, until that is too old; the look-up under way."""

    __slots__ = ("addresses", "asking", "error", "kept_until", "quick")

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.error = ""
        self.kept_until = 0.0
        self.quick: bool | None = None
        self.asking: asyncio.Task[None] | None = None


def look_up(host: str) -> list[str]:
    """Ask the system, in the order in which it would have us try (RFC 6724). OSError or UnicodeError if it does not know."""
    return [str(answer[4][0]) for answer in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class Resolver:
    """Resolves and judges. One bad answer spoils them all: a name that mixes them is not to be trusted."""

    def __init__(self, allow: Sequence[Network] = (), look_up: Callable[[str], list[str]] = look_up) -> None:
        self._allow, self._look_up = allow, look_up
        self._names: dict[str, _Name] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._threads: dict[bool | None, anyio.CapacityLimiter] = {}

    async def resolve(self, host: str) -> list[str]:
        """Return the addresses that may be dialled, in order. WireError: `dns`, or `blocked_address` with the rule."""
        try:
            judge(host)
        except ValueError:
            addresses = await self._answers(host)
        else:
            addresses = [host]
        for address in addresses:
            if rule := judge(address, self._allow):
                raise WireError("blocked_address", f"{host} is {address}, which is denied ({rule})")
        return addresses

    async def aclose(self) -> None:
        """Wait for no look-up any more."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _answers(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        name = self._names.get(host)
        if name is None:
            if len(self._names) >= KEPT_MAX:
                del self._names[next(iter(self._names))]
            name = self._names[host] = _Name()
        if loop.time() >= name.kept_until:
            if name.asking is None:
                name.asking = loop.create_task(self._ask(host, name))
                self._asking.add(name.asking)
                name.asking.add_done_callback(self._asking.discard)
            await asyncio.shield(name.asking)  # others may wait for it, whose deadline is later
        if name.error:
            raise WireError("dns", name.error)
        return name.addresses

    async def _ask(self, host: str, name: _Name) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            threads = self._threads.setdefault(name.quick, anyio.CapacityLimiter(THREADS[name.quick]))
            found = await anyio.to_thread.run_sync(self._look_up, host, abandon_on_cancel=True, limiter=threads)
            name.addresses, name.error = list(dict.fromkeys(found)), ""
        except (OSError, UnicodeError) as error:
            name.addresses, name.error = [], f"{host} does not resolve: {error}"
        finally:
            name.asking = None
        if not name.addresses:
            name.error = name.error or f"{host} has no address"
        elif len(name.addresses) > ADDRESSES_MAX:
            name.error = f"{host} has {len(name.addresses)} addresses; at most {ADDRESSES_MAX} are accepted"
        now = loop.time()
        name.quick = not name.error and now - started < QUICK_SECONDS
        name.kept_until = now + (FAILURE_KEPT_SECONDS if name.error else KEPT_SECONDS)
