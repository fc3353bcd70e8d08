"""An order and its event in one transaction, with psycopg in an async application."""

import json

import psycopg


async def place_order(connection: psycopg.AsyncConnection, customer: str, item: str) -> int:
    """Sell one item to a customer, tell the customer's endpoints, and return the order's id.

    An item that is sold out raises psycopg.errors.CheckViolation: then there is neither an
    order nor an event.
    """
    async with connection.transaction():
        cursor = await connection.execute(
            "INSERT INTO orders (customer, item) VALUES (%s, %s) RETURNING id", (customer, item)
        )
        [(order,)] = await cursor.fetchall()
        await connection.execute(
            "SELECT webhook.enqueue('order.created', %s, tenant => %s)",
            (json.dumps({"order": order, "customer": customer, "item": item}), customer),
        )
        # Last, since other buyers of this item wait for its row until the commit.
        await connection.execute(
            "UPDATE items SET in_stock = in_stock - 1 WHERE name = %s", (item,)
        )
    return order
