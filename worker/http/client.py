"""One exchange, on a kept connection or a new one."""

import asyncio
from collections.abc import Awaitable, Callable

from worker.http.connection import WireError
from worker.http.dial import Dialer
from worker.http.pool import Origin, Pool
from worker.http.response import Response
from worker.pipeline.ports import NotSentError


class Client:
    """Takes a connection or makes one, writes once, reads the response, keeps the connection."""

    def __init__(self, dialer: Dialer, pool: Pool | None = None) -> None:
        self._dialer, self._pool = dialer, Pool() if pool is None else pool

    async def exchange(
        self, origin: Origin, request: bytes, deadline: float, before_write: Callable[[], Awaitable[None]]
    ) -> Response:
        """Carry a whole request, until `deadline` on the loop's clock; WireError says why no response head came.

        `before_write` is awaited each time just before the first byte, and may stop it by raising NotSentError. That can be
        twice: if a kept connection turns out to be closed, and not one byte had come back, the request is written once more
        on a new one (RFC 9112, section 9.3.1). Then `note` of the response says so.
        """
        connection = self._pool.take(origin) or await self._dialer.dial(origin, self._pool.lost, deadline)
        try:
            await before_write()
            return await connection.exchange(request, deadline)
        except WireError as error:
            if not error.stale:
                raise
            stale = error
        finally:
            self._pool.keep(connection, asyncio.get_running_loop().time())
        connection = await self._dialer.dial(origin, self._pool.lost, deadline)
        try:
            await before_write()
            response = await connection.exchange(request, deadline)
        except NotSentError:
            raise stale from None
        finally:
            self._pool.keep(connection, asyncio.get_running_loop().time())
        response.note = "; ".join(filter(None, (f"written again on a new connection ({stale})", response.note)))
        return response

    async def aclose(self) -> None:
        """Close every kept connection."""
        self._pool.close()
        await self._dialer.aclose()
