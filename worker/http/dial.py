"""Resolve a name once, judge every answer, dial only what was judged."""

import socket
from collections.abc import Iterable, Sequence
from typing import Any

import anyio
import anyio.to_thread
import httpcore

from worker.core.address import Network, judge

ADDRESSES_MAX = 16
"""How many answers of a name are looked at. More than that is no receiver we want."""

RESOLVER_THREADS = 32


class BlockedAddressError(Exception):
    """The receiver's name leads to an address that may not be dialled."""


class ResolveError(Exception):
    """The receiver's name does not resolve."""


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """An httpcore network backend that connects to judged addresses only. Host and SNI keep the name."""

    def __init__(self, allow: Sequence[Network] = ()) -> None:
        self._allow = allow
        self._network = httpcore.AnyIOBackend()
        self._resolvers: anyio.CapacityLimiter | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first judged address that answers, within `timeout` for all of them and the resolving."""
        failure: Exception = ResolveError(f"{host} has no address")
        with anyio.move_on_after(timeout):
            addresses = await self._resolve(host, port)
            for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
                try:
                    return await self._network.connect_tcp(
                        address, port, None if timeout is None else timeout / left, local_address, socket_options
                    )
                except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                    failure = error
            raise failure
        raise httpcore.ConnectTimeout(f"no connection to {host} within {timeout:g} s")

    async def sleep(self, seconds: float) -> None:
        """Httpcore's interface."""
        await anyio.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> list[str]:
        if self._resolvers is None:
            self._resolvers = anyio.CapacityLimiter(RESOLVER_THREADS)
        try:
            judge(host)
            found = [host]
        except ValueError:
            try:
                answers = await anyio.to_thread.run_sync(
                    lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
                    abandon_on_cancel=True,
                    limiter=self._resolvers,
                )
            except (OSError, UnicodeError) as error:
                raise ResolveError(f"{host} does not resolve: {error}") from error
            found = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        if len(found) > ADDRESSES_MAX:
            raise ResolveError(f"{host} has {len(found)} addresses; at most {ADDRESSES_MAX} are accepted")
        for address in found:  # one bad answer spoils them all: a name that mixes them is not to be trusted
            if rule := judge(address, self._allow):
                raise BlockedAddressError(f"{host} is {address}, which is denied ({rule})")
        return found
