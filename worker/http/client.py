"""One exchange, on a kept connection or a new one."""

import asyncio
from collections.abc import Awaitable, Callable

from worker.http.connection import Connection, WireError
from worker.http.dial import Dialer
from worker.http.pool import Origin, Pool
from worker.http.response import Response
from worker.pipeline.ports import NotSentError


class Client:
    """Takes a connection or makes one, writes once, reads the response, keeps the connection."""

    def __init__(self, dialer: Dialer, pool: Pool | None = None) -> None:
        self._dialer, self._pool = dialer, Pool() if pool is None else pool

    async def exchange(
        self, origin: Origin, request: bytes, deadline: float, before_write: Callable[[bool], Awaitable[None]]
    ) -> Response:
        """Carry a whole request, until `deadline` on the loop's clock; WireError says why no response head came.

        `before_write` is awaited just before the first byte, however long it takes, and may stop it by raising NotSentError.
        If a kept connection turns out to be closed, and not one byte had come back, the request is written once more on a new
        one (RFC 9112, section 9.3.1): then it is awaited again, with True if something may have been written the first time.
        """
        connection = self._pool.take(origin) or await self._dialer.dial(origin, self._pool.lost, deadline)
        try:
            return await self._carry(connection, request, deadline, before_write, again=False)
        except WireError as error:
            if not error.again:
                raise
            first = error
        try:
            connection = await self._dialer.dial(origin, self._pool.lost, deadline)
            response = await self._carry(connection, request, deadline, before_write, again=first.written)
        except (WireError, NotSentError) as error:
            if not first.written:
                raise
            if isinstance(error, WireError) and error.written:  # so it may have arrived twice
                raise WireError(error.reason, f"{_written_again(first)}; {error}", written=True) from error
            raise WireError("disconnected", f"{first}; it was not written again: {error}", written=True) from error
        if first.written:
            response.note = "; ".join(filter(None, (_written_again(first), response.note)))
        return response

    async def aclose(self) -> None:
        """Close every kept connection."""
        self._pool.close()
        await self._dialer.aclose()

    async def _carry(
        self,
        connection: Connection,
        request: bytes,
        deadline: float,
        before_write: Callable[[bool], Awaitable[None]],
        *,
        again: bool,
    ) -> Response:
        loop = asyncio.get_running_loop()
        try:
            asked = loop.time()
            await before_write(again)
            return await connection.exchange(
                request, deadline + loop.time() - asked
            )  # a planned moment is not the receiver's time
        finally:
            self._pool.keep(connection, loop.time())


def _written_again(first: WireError) -> str:
    """What the attempt's record says, however the second exchange ended: the receiver may have seen both."""
    return f"written again on a new connection ({first})"
