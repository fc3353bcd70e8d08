"""The worker that tutorials have: asyncpg (psycopg on PyPy), SKIP LOCKED, one shared httpx.AsyncClient, 64 at once.

    python -m benchmarks.contestants.textbook DSN URL_PREFIX DELIVERIES

Prints the deliveries of its second half a second and their CPU in microseconds: `second half 330/s 2940us rss 60MB`.
"""

import asyncio
import base64
import hashlib
import hmac
import resource
import sys
import time
from typing import Any

import httpx

LANES = 64
SECRET = b"0123456789abcdef0123456789abcdef"
SCHEMA = """
create schema if not exists textbook;
drop table if exists textbook.webhook;
create table textbook.webhook (
    id bigint generated always as identity primary key, url text not null, payload text not null,
    status text not null default 'pending', attempts int not null default 0, response_status int, delivered_at timestamptz);
create index on textbook.webhook (id) where status = 'pending';
"""
FILL = """
insert into textbook.webhook (url, payload)
select $1::text || n % 100, repeat('x', 1024) from generate_series(1, $2::int) as n"""
CLAIM = """
update textbook.webhook set status = 'sending', attempts = attempts + 1 where id in (
    select id from textbook.webhook where status = 'pending' order by id limit 64 for update skip locked)
returning id, url, payload"""
RECORD = "update textbook.webhook set status = $2::text, response_status = $3::int, delivered_at = now() where id = $1::bigint"


class Database:
    """The driver's pool, behind the two calls that are needed."""

    async def open(self, dsn: str) -> None:
        """Connect; four connections, as its own documentation has it."""
        if sys.implementation.name == "pypy":
            import psycopg

            self._raw = psycopg.AsyncRawCursor
            self._connections = [await psycopg.AsyncConnection.connect(dsn, autocommit=True) for _ in range(4)]
            self._free: asyncio.Queue[Any] = asyncio.Queue()
            for connection in self._connections:
                self._free.put_nowait(connection)
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

    async def close(self) -> None:
        """Leave in good order."""
        if sys.implementation.name == "pypy":
            for connection in self._connections:
                await connection.close()
        else:
            await self._pool.close()


async def deliver(client: httpx.AsyncClient, database: Database, id_: int, url: str, payload: str) -> None:
    """Sign, send, record."""
    timestamp = str(int(time.time()))
    signed = hmac.new(SECRET, f"msg_{id_}.{timestamp}.{payload}".encode(), hashlib.sha256).digest()
    headers = {
        "content-type": "application/json",
        "webhook-id": f"msg_{id_}",
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(signed).decode(),
    }
    try:
        response = await client.post(url, content=payload, headers=headers)
        await database.run(RECORD, id_, "delivered" if response.is_success else "failed", response.status_code)
    except httpx.HTTPError:
        await database.run(RECORD, id_, "failed", None)


async def main(dsn: str, prefix: str, deliveries: int) -> None:
    """Deliver so many, and print the figures."""
    database = Database()
    await database.open(dsn)
    for statement in SCHEMA.strip().split(";")[:-1]:
        await database.run(statement)
    await database.run(FILL, prefix, deliveries)
    marks = []
    done = 0
    async with httpx.AsyncClient(
        timeout=15, limits=httpx.Limits(max_connections=LANES, max_keepalive_connections=LANES)
    ) as client:
        while rows := await database.run(CLAIM):
            await asyncio.gather(*(deliver(client, database, *row) for row in rows))
            done += len(rows)
            marks.append((done, time.perf_counter(), time.process_time()))
    await database.close()
    first, last = next(mark for mark in marks if mark[0] >= deliveries // 2), marks[-1]
    count = last[0] - first[0]
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"second half {count / (last[1] - first[1]):.0f}/s {(last[2] - first[2]) / count * 1e6:.0f}us rss {rss}MB")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
