"""PgQueuer, with asyncpg, aiohttp and uvloop: 64 jobs at once, woken by NOTIFY.

    python -m benchmarks.contestants.pgqueuer_app DSN

works until it is ended.
"""

import json
import sys

import aiohttp
import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job

from benchmarks.contestants.signed import signed_headers

LANES = 64


async def main(dsn: str) -> None:
    """Work until ended."""
    connector, timeout = aiohttp.TCPConnector(limit=LANES), aiohttp.ClientTimeout(total=15)
    async with (
        asyncpg.create_pool(dsn, min_size=4, max_size=4) as pool,
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
    ):
        queue = PgQueuer(AsyncpgPoolDriver(pool))

        @queue.entrypoint("deliver")
        async def deliver(job: Job) -> None:
            url, message_id, payload = json.loads(job.payload or b"")
            async with session.post(url, data=payload.encode(), headers=signed_headers(message_id, payload)) as response:
                await response.read()
                response.raise_for_status()

        await queue.run(batch_size=LANES // 2, max_concurrent_tasks=LANES)  # it wants twice the batch


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
