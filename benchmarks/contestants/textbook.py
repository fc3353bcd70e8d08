"""The worker that tutorials have: asyncpg (psycopg on PyPy), SKIP LOCKED, one shared client, 64 at once.

    python -m benchmarks.contestants.textbook DSN [httpx | aiohttp]

The client is httpx's, or, in the tuned version, aiohttp's, on uvloop. It works until it is ended, on textbook.sql's table.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.contestants.signed import signed_headers

LANES = 64
POLL_SECONDS = 0.05
CLAIM = """
update textbook.webhook set status = 'sending', attempts = attempts + 1 where id in (
    select id from textbook.webhook where status = 'pending' order by id limit 64 for update skip locked)
returning id, url, payload"""
RECORD = "update textbook.webhook set status = $2::text, response_status = $3::int, delivered_at = now() where id = $1::bigint"

Post = Callable[[str, str, dict[str, str]], Awaitable[int]]
"""URL, payload, headers; the status of the answer."""


class Database:
    """The driver's pool, behind the one call that is needed."""

    async def open(self, dsn: str) -> None:
        """Connect; four connections, as its own documentation has it."""
        if sys.implementation.name == "pypy":
            import psycopg

            self._raw = psycopg.AsyncRawCursor
            self._free: asyncio.Queue[Any] = asyncio.Queue()
            for _ in range(4):
                self._free.put_nowait(await psycopg.AsyncConnection.connect(dsn, autocommit=True))
        else:
            import asyncpg

            self._pool = await asyncpg.create_pool(dsn, min_size=4, max_size=4)

    async def run(self, sql: str, *args: Any) -> list[Any]:
        """Run a statement, and return its rows."""
        if sys.implementation.name != "pypy":
            return list(await self._pool.fetch(sql, *args))
        connection = await self._free.get()
        try:
            cursor = self._raw(connection)
            await cursor.execute(sql, args or None)
            return await cursor.fetchall() if cursor.description else []
        finally:
            self._free.put_nowait(connection)


@asynccontextmanager
async def client_of_httpx() -> Any:
    """One shared client, which keeps as many connections as there are deliveries at once."""
    import httpx

    limits = httpx.Limits(max_connections=LANES, max_keepalive_connections=LANES)
    async with httpx.AsyncClient(timeout=15, limits=limits) as client:

        async def post(url: str, payload: str, headers: dict[str, str]) -> int:
            return (await client.post(url, content=payload, headers=headers)).status_code

        yield post


@asynccontextmanager
async def client_of_aiohttp() -> Any:
    """The same of aiohttp's."""
    import aiohttp

    connector, timeout = aiohttp.TCPConnector(limit=LANES), aiohttp.ClientTimeout(total=15)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def post(url: str, payload: str, headers: dict[str, str]) -> int:
            async with session.post(url, data=payload.encode(), headers=headers) as response:
                await response.read()
                status: int = response.status
                return status

        yield post


async def deliver(post: Post, database: Database, id_: int, url: str, payload: str) -> None:
    """Sign, send, record."""
    try:
        status = await post(url, payload, signed_headers(f"msg_{id_}", payload))
    except Exception:  # noqa: BLE001 - two clients' errors
        await database.run(RECORD, id_, "failed", None)
    else:
        await database.run(RECORD, id_, "delivered" if status < 300 else "failed", status)


async def main(dsn: str, client: str) -> None:
    """Work until ended."""
    database = Database()
    await database.open(dsn)
    async with (client_of_aiohttp if client == "aiohttp" else client_of_httpx)() as post:
        while True:
            rows = await database.run(CLAIM)
            await asyncio.gather(*(deliver(post, database, *row) for row in rows))
            if not rows:
                await asyncio.sleep(POLL_SECONDS)


if __name__ == "__main__":
    work = main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "httpx")
    if "aiohttp" in sys.argv:
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)
