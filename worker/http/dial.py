"""From an origin to a connection: resolve, connect to a judged address, shake hands."""

import asyncio
import ssl
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest

import anyio
import certifi

from worker.http.connection import RESPONSE_BYTES_KEPT, RESPONSE_BYTES_MAX, Connection, WireError
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
                addresses = await self._resolver.resolve(origin.host)
                step = "connect"
                connection = await _connect(lambda: self._connection(origin, lost), addresses, origin.port)
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


async def _connect(make: Callable[[], Connection], addresses: Sequence[str], port: int) -> Connection:
    """Return the first connection that stands, trying one address after another, and soon several at once (RFC 8305)."""
    loop = asyncio.get_running_loop()
    connected: list[Connection] = []
    failures: list[str] = []

    async def attempt(address: str, over: anyio.Event) -> None:
        try:
            connection = make()
            await loop.create_connection(lambda: connection, address, port)
        except (OSError, ValueError) as error:  # ValueError: TLS cannot name such a host
            failures.append(f"{address}: {getattr(error, 'strerror', None) or error}")
        else:
            connected.append(connection)
            everyone.cancel_scope.cancel()
        over.set()

    try:
        async with anyio.create_task_group() as everyone:
            for address in _alternating(addresses):
                over = anyio.Event()
                everyone.start_soon(attempt, address, over)
                with anyio.move_on_after(NEXT_ADDRESS_SECONDS):
                    await over.wait()
    except BaseException:
        for connection in connected:
            connection.abort()
        raise
    for too_many in connected[1:]:
        too_many.abort()
    if not connected:
        raise WireError("connect", f"no connection to port {port} ({'; '.join(failures)})")
    return connected[0]


def _alternating(addresses: Sequence[str]) -> list[str]:
    """Let the two families take turns, the preferred one first (RFC 8305, section 4)."""
    families: dict[bool, list[str]] = {}
    for address in addresses:
        families.setdefault(":" in address, []).append(address)
    return [address for turn in zip_longest(*families.values()) for address in turn if address]
