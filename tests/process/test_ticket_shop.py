"""The shop of `python -m benchmarks ticket-sale`, over HTTP: an order and its event are there together, or not at all."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec

import anyio
import httpx
import pytest
from fleet import ROOT, free_port, until

from benchmarks.ticket_sale.tills import make_tables, shop_environment
from worker.store.database import Database
from worker.store.sql import statements

pytestmark = [pytest.mark.sql, pytest.mark.skipif(find_spec("django") is None, reason="the shop needs Django: make install")]


@asynccontextmanager
async def shop(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """Serve it as its developers would."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "django", "runserver", "--noreload", address]
    async with await anyio.open_process(command, cwd=ROOT, env=shop_environment(dsn), stdout=None, stderr=None) as server:
        try:
            async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:

                async def answers() -> bool:
                    try:
                        await client.get("/orders")
                    except httpx.TransportError:
                        return False
                    return True

                await until(answers)
                yield client
        finally:
            server.terminate()


async def test_an_order_and_its_event_are_one(dsn: str, database: Database) -> None:
    """A sale has both; a refused card and a seat that is taken leave neither, and a refused card leaves the seat free."""
    await database.rows("select webhook.create_endpoint('https://partner.example/')")
    await anyio.to_thread.run_sync(make_tables, dsn)
    async with shop(dsn) as client:

        async def buy(seat: int, card: str) -> int:
            answer = await client.post("/orders", json={"seat": seat, "buyer": "Ada", "card": card})
            return answer.status_code

        assert [402, 201, 409, 201] == [
            await buy(7, "refused"),
            await buy(7, "good"),
            await buy(7, "good"),
            await buy(8, "good"),
        ]
        assert 405 == (await client.get("/orders")).status_code
    orders = await database.rows(statements()["bench_ticket_orders"])
    assert 2 == len(orders)
    assert all(row["order"] and row["event"] for row in orders)
    (partner,) = await database.rows(statements()["bench_ticket_partners"])
    assert ([], sorted(row["event"] for row in orders), []) == (
        partner["delivered"],
        sorted(partner["waiting"]),
        partner["failed"],
    )
    seats = await database.value("select string_agg(payload::json ->> 'seat', ' ' order by id) from webhook.event")
    assert "7 8" == seats
