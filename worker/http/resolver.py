"""Names to addresses: off the event loop, one look-up a name at a time, kept for a moment, every answer judged."""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import anyio

from worker.core.address import AddressRules, is_address
from worker.http.connection import WireError
from worker.http.files import no_files_left, says_no_files

ADDRESSES_MAX = 16
"""How many answers a name may have. More than that is no receiver we want."""

KEPT_SECONDS = 10.0
"""How long answers are used again. The system does not tell a record's own time to live; few are shorter."""

FAILURE_KEPT_SECONDS = 1.0
KEPT_MAX = 10_000

QUICK_SECONDS = 0.5
LOOK_UPS_MAX = {True: 16, None: 64, False: 16}
"""At once: for names whose last look-up was quick, that were never looked up, and that were slow or failed."""


class _Name:
    """What is known of a name: its addresses, or why there are none, until that is too old; the look-up under way."""

    __slots__ = ("addresses", "asking", "error", "kept_until", "no_files", "quick")

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.error = ""
        self.no_files = False
        """Whether that is why."""
        self.kept_until = 0.0
        self.quick: bool | None = None
        self.asking: asyncio.Task[None] | None = None


def look_up(host: str) -> list[str]:
    """Ask the system, in the order in which it would have us try (RFC 6724). OSError or UnicodeError if it does not know."""
    return [str(answer[4][0]) for answer in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class Resolver:
    """Resolves and judges. One bad answer spoils them all: a name that mixes them is not to be trusted."""

    def __init__(self, rules: AddressRules | None = None, look_up: Callable[[str], list[str]] = look_up) -> None:
        self._rules = rules or AddressRules()
        self._look_up = look_up
        self._is_address = lru_cache(KEPT_MAX)(is_address)
        self._judge = lru_cache(KEPT_MAX)(self._rules.judge)
        self._names: dict[str, _Name] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._limits: dict[bool | None, anyio.CapacityLimiter] = {}

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses to dial, in order. WireError: `dns`, `no_files`, `blocked_address`, `blocked_port`."""
        if rule := self._rules.judge_port(port):
            raise WireError("blocked_port", f"port {port} is denied ({rule})")
        addresses = [host] if self._is_address(host) else await self._answers(host)
        for address in addresses:
            if rule := self._judge(address):
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
            raise WireError("no_files" if name.no_files else "dns", name.error)
        return name.addresses

    async def _ask(self, host: str, name: _Name) -> None:
        loop = asyncio.get_running_loop()
        if name.quick not in self._limits:
            self._limits[name.quick] = anyio.CapacityLimiter(LOOK_UPS_MAX[name.quick])
        try:
            async with self._limits[name.quick]:
                started = loop.time()
                found = await _in_thread(self._look_up, host)
            name.addresses, name.error, name.no_files = list(dict.fromkeys(found)), "", False
        except (OSError, UnicodeError, RuntimeError) as error:  # RuntimeError: no thread can be started
            name.addresses, name.error = [], f"{host} does not resolve: {error}"
            name.no_files = says_no_files(error) or no_files_left()
        finally:
            name.asking = None
        if not name.addresses:
            name.error = name.error or f"{host} has no address"
        elif len(name.addresses) > ADDRESSES_MAX:
            name.error = f"{host} has {len(name.addresses)} addresses; at most {ADDRESSES_MAX} are accepted"
        now = loop.time()
        name.quick = not name.error and now - started < QUICK_SECONDS
        kept_seconds = 0.0 if name.no_files else FAILURE_KEPT_SECONDS if name.error else KEPT_SECONDS
        name.kept_until = now + kept_seconds


async def _in_thread(look_up: Callable[[str], list[str]], host: str) -> list[str]:
    """Run it in a thread that nobody waits for, not even the end of the process: the system may hang for half a minute."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def run() -> None:
        try:
            found = look_up(host)
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            tell(answer.set_exception, error)
        else:
            tell(answer.set_result, found)

    def tell(settle: Callable[[Any], None], result: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if answer.done() else settle(result))

    threading.Thread(target=run, name=f"look up {host}", daemon=True).start()
    return await answer
