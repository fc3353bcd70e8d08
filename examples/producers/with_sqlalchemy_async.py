"""An order and its event in one transaction, with SQLAlchemy 2 in an async application."""

import json

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

INSERT = text("INSERT INTO orders (customer, item) VALUES (:customer, :item) RETURNING id")
ENQUEUE = text("SELECT webhook.enqueue('order.created', :payload, tenant => :tenant)")
TAKE = text("UPDATE items SET in_stock = in_stock - 1 WHERE name = :item")


async def place_order(engine: AsyncEngine, customer: str, item: str) -> int:
    """Sell one item to a customer, tell the customer's endpoints, and return the order's id.

    An item that is sold out raises sqlalchemy.exc.IntegrityError: then there is neither an
    order nor an event.
    """
    async with engine.begin() as connection:
        order: int = await connection.scalar(INSERT, {"customer": customer, "item": item})
        payload = json.dumps({"order": order, "customer": customer, "item": item})
        await connection.execute(ENQUEUE, {"payload": payload, "tenant": customer})
        # Last, since other buyers of this item wait for its row until the commit.
        await connection.execute(TAKE, {"item": item})
    return order
