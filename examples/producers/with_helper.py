"""Events whose payloads are Python's own objects, with worker.producer; here in asyncpg."""

from datetime import date

import asyncpg
from worker.producer import Event, enqueue, enqueue_many


async def place_order(pool: asyncpg.Pool, customer: str, item: str) -> int:
    """Sell one item to a customer, tell the customer's endpoints, and return the order's id.

    An item that is sold out raises asyncpg.CheckViolationError: then there is neither an order
    nor an event.
    """
    async with pool.acquire() as connection, connection.transaction():
        order: int = await connection.fetchval(
            "INSERT INTO orders (customer, item) VALUES ($1, $2) RETURNING id", customer, item
        )
        payload = {"order": order, "customer": customer, "item": item}
        await connection.execute(*enqueue("order.created", payload, tenant=customer).numbered())
        # Last, since other buyers of this item wait for its row until the commit.
        await connection.execute(
            "UPDATE items SET in_stock = in_stock - 1 WHERE name = $1", item
        )
    return order


async def announce_delays(pool: asyncpg.Pool, customer: str, day: date) -> None:
    """Tell a customer of every order that has not been shipped, once a day."""
    async with pool.acquire() as connection, connection.transaction():
        late = await connection.fetch(
            "SELECT id FROM orders WHERE customer = $1 AND shipped_at IS NULL", customer
        )
        events = [
            Event(
                "order.delayed",
                {"order": order, "day": day},
                idempotency_key=f"order.delayed:{order}:{day}",
            )
            for (order,) in late
        ]
        await connection.execute(*enqueue_many(events, tenant=customer).numbered())
