"""A receiver on FastAPI and Postgres: verify, store once, answer; the work comes after.

pip install fastapi uvicorn asyncpg standardwebhooks
export WEBHOOK_KEY=whsec_… DATABASE_URL=postgresql://…
uvicorn fastapi_receiver:app --port 3000
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI, HTTPException, Request
from standardwebhooks import Webhook, WebhookVerificationError

BYTES_MAX = 1_000_000
TABLES = """
select pg_advisory_xact_lock(1);  -- two processes may start at once
create table if not exists inbox (
    webhook_id  text        primary key,
    payload     text        not null,
    received_at timestamptz not null default now(),
    retry_at    timestamptz not null default now(),
    done_at     timestamptz
);
create index if not exists inbox_due on inbox (retry_at) where done_at is null;
create index if not exists inbox_done on inbox (done_at);
create table if not exists balance (account text primary key, cents bigint not null);
"""

webhook = Webhook(os.environ["WEBHOOK_KEY"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=5) as pool:
        await pool.execute(TABLES)
        app.state.pool = pool
        worker = asyncio.create_task(work(pool))
        yield
        worker.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/hook", status_code=204)
async def receive(request: Request) -> None:
    body = await raw_body(request)
    try:
        webhook.verify(body, dict(request.headers), json_parse=False)  # it may be something else
    except (WebhookVerificationError, ValueError):  # ValueError: it is not even well-formed
        raise HTTPException(400, "the signature or the timestamp is wrong") from None
    # The same id again changes nothing, and is answered as the first was.
    await app.state.pool.execute(
        "insert into inbox (webhook_id, payload) values ($1, $2) on conflict do nothing",
        request.headers["webhook-id"],
        body.decode(),
    )


async def raw_body(request: Request) -> bytes:
    """The bytes as they came: parsed and written again, they would not verify."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BYTES_MAX:
            raise HTTPException(413, "the body is too long")
    return bytes(body)


async def work(pool: asyncpg.Pool) -> None:
    """Work off the inbox, for ever. Any number of processes may do so at once."""
    while True:
        try:
            while await work_once(pool):
                pass
            await pool.execute("delete from inbox where done_at < now() - interval '30 days'")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # the database is away: what is stored waits
            logging.exception("the inbox waits")
        await asyncio.sleep(0.5)


async def work_once(pool: asyncpg.Pool) -> bool:
    """Handle one event: its effect and its mark are committed together. Return whether there was one."""
    async with pool.acquire() as connection, connection.transaction():
        event = await connection.fetchrow(
            "select webhook_id, payload from inbox where done_at is null and retry_at <= now() "
            "order by retry_at limit 1 for update skip locked"
        )
        if event is None:
            return False
        try:
            async with connection.transaction():
                await handle(connection, json.loads(event["payload"]))
        except Exception:
            logging.exception("event %s is tried again in a minute", event["webhook_id"])
            await connection.execute(
                "update inbox set retry_at = now() + interval '1 minute' where webhook_id = $1", event["webhook_id"]
            )
        else:
            await connection.execute("update inbox set done_at = now() where webhook_id = $1", event["webhook_id"])
        return True


async def handle(connection: asyncpg.Connection, payload: dict) -> None:
    """What this receiver is for. Done twice, it would be wrong."""
    await connection.execute(
        "insert into balance values ($1, $2) on conflict (account) do update set cents = balance.cents + excluded.cents",
        payload["account"],
        payload["cents"],
    )
