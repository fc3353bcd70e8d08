"""From an origin to a connection: resolve, connect to a judged address, shake hands."""

import asyncio
import ssl
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import anyio
import certifi

from worker.http.connection import RESPONSE_BYTES_KEPT, RESPONSE_BYTES_MAX, Connection, WireError
from worker.http.files import says_no_files
from worker.http.pool import Origin
from worker.http.resolver import Resolver
from worker.http.tls import TLSConnection

CONNECT_SECONDS_MAX = 5.0
"""For resolving, connecting and shaking hands together."""

NEXT_ADDRESS_SECONDS = 0.25
"""How long one address is tried before the next one joins in (RFC 8305, section 8)."""


def default_tls(ca_files: Iterable[str] = (certifi.where(),)) -> ssl.SSLContext:
    """Return a context that trusts these roots, certifi's if nothing is said, and none that the environment names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    for ca_file in ca_files:
        context.load_verify_locations(ca_file)
    return context


class Dialer:
    """Makes connections. Host and SNI keep the name; what is dialled is an address that was judged.

    `tls` makes the context when it is first needed: reading the roots takes 20 ms. `body_max` and `kept_max`: of a response,
    how many bytes of the body are read, and kept.
    """

    def __init__(
        self,
        resolver: Resolver,
        tls: Callable[[], ssl.SSLContext] = default_tls,
        body_max: int = RESPONSE_BYTES_MAX,
        kept_max: int = RESPONSE_BYTES_KEPT,
    ) -> None:
        self._resolver = resolver
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._body_max, self._kept_max = body_max, kept_max

    async def dial(self, origin: Origin, lost: Callable[[Connection], None], deadline: float) -> Connection:
        """Return a new connection, by `deadline` on the loop's clock and within `CONNECT_SECONDS_MAX`.

        WireError says why there is none. `lost` is called with the connection when it is closed.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        seconds = min(CONNECT_SECONDS_MAX, deadline - started)
        step = "dns"
        try:
            with anyio.fail_after(seconds):
                addresses = await self._resolver.resolve(origin.host, origin.port)
                step = "connect"
                connection = await _Race(lambda: self._connection(origin, lost), origin.port).first(addresses)
                step = "tls_handshake"
                await connection.ready()
        except TimeoutError:
            raise WireError(step, f"no connection to {origin.host} within {seconds:.3g} s") from None
        origin.dial_seconds = loop.time() - started
        return connection

    async def aclose(self) -> None:
        """Close the resolver."""
        await self._resolver.aclose()

    def _connection(self, origin: Origin, lost: Callable[[Connection], None]) -> Connection:
        if origin.scheme == "http":
            return Connection(origin, lost, self._body_max, self._kept_max)
        self._tls = self._tls or self._make_tls()
        return TLSConnection(origin, lost, self._body_max, self._kept_max, self._tls)


class _Race:
    """Addresses tried one after another, and soon several at once, until a connection stands (RFC 8305)."""

    def __init__(self, make: Callable[[], Connection], port: int) -> None:
        self._make, self._port = make, port
        self._connected: list[Connection] = []
        self._failures: list[str] = []
        self._no_files = False

    async def first(self, addresses: Sequence[str]) -> Connection:
        """Return the first connection that stands; WireError if none does."""
        if len(addresses) == 1:
            await self._attempt(addresses[0])
        else:
            try:
                await self._start(addresses)
            except BaseException:
                self._abort(0)
                raise
            self._abort(1)
        if not self._connected:
            reason = "no_files" if self._no_files else "connect"
            raise WireError(reason, f"no connection to port {self._port} ({'; '.join(self._failures)})")
        return self._connected[0]

    async def _start(self, addresses: Sequence[str]) -> None:
        async with anyio.create_task_group() as runners:
            for address in _alternating(addresses):
                over = anyio.Event()
                runners.start_soon(self._run, address, over, runners.cancel_scope)
                with anyio.move_on_after(NEXT_ADDRESS_SECONDS):
                    await over.wait()

    async def _run(self, address: str, over: anyio.Event, race: anyio.CancelScope) -> None:
        await self._attempt(address)
        if self._connected:
            race.cancel()
        over.set()

    async def _attempt(self, address: str) -> None:
        try:
            connection = self._make()
            await asyncio.get_running_loop().create_connection(lambda: connection, address, self._port)
            self._connected.append(connection)
        except (OSError, ValueError) as error:  # ValueError: TLS cannot name such a host
            self._no_files |= says_no_files(error)
            self._failures.append(f"{address}: {getattr(error, 'strerror', None) or error}")

    def _abort(self, kept: int) -> None:
        for connection in self._connected[kept:]:
            connection.abort()


def _alternating(addresses: Sequence[str]) -> list[str]:
    """Let the two families take turns, the preferred one first (RFC 8305, section 4)."""
    families: dict[bool, list[str]] = {}
    for address in addresses:
        families.setdefault(":" in address, []).append(address)
    return [address for turn in zip_longest(*families.values()) for address in turn if address]
