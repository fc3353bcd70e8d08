"""An order and its event in one transaction, with asyncpg."""

import json

import asyncpg


async def place_order(pool: asyncpg.Pool, customer: str, item: str) -> int:
    """Sell one item to a customer, tell the customer's endpoints, and return the order's id.

    An item that is sold out raises asyncpg.CheckViolationError: then there is neither an order
    nor an event.
    """
    async with pool.acquire() as connection, connection.transaction():
        order: int = await connection.fetchval(
            "INSERT INTO orders (customer, item) VALUES ($1, $2) RETURNING id", customer, item
        )
        await connection.execute(
            "SELECT webhook.enqueue('order.created', $1, tenant => $2)",
            json.dumps({"order": order, "customer": customer, "item": item}),
            customer,
        )
        # Last, since other buyers of this item wait for its row until the commit.
        await connection.execute(
            "UPDATE items SET in_stock = in_stock - 1 WHERE name = $1", item
        )
    return order
