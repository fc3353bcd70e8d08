"""Procrastinate, with aiohttp and uvloop: 64 jobs at once, woken by NOTIFY.

    DATABASE_URL=… python -m benchmarks.contestants.procrastinate_app

works until it is ended.
"""

import os

import aiohttp
import procrastinate
import uvloop

from benchmarks.contestants.signed import signed_headers

LANES = 64
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ.get("DATABASE_URL", "")))
session: aiohttp.ClientSession


@app.task(name="deliver")
async def deliver(url: str, message_id: str, payload: str) -> None:
    """Sign and send; an error is Procrastinate's to record."""
    async with session.post(url, data=payload.encode(), headers=signed_headers(message_id, payload)) as response:
        await response.read()
        response.raise_for_status()


async def main() -> None:
    """Work until ended."""
    global session
    connector, timeout = aiohttp.TCPConnector(limit=LANES), aiohttp.ClientTimeout(total=15)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, app.open_async():
        await app.run_worker_async(concurrency=LANES)


if __name__ == "__main__":
    uvloop.run(main())
