"""An order and its event in one transaction, with psycopg; and many events in one call."""

import json
from datetime import date

import psycopg


def place_order(connection: psycopg.Connection, customer: str, item: str) -> int:
    """Sell one item to a customer, tell the customer's endpoints, and return the order's id.

    An item that is sold out raises psycopg.errors.CheckViolation: then there is neither an
    order nor an event.
    """
    with connection.transaction():
        [(order,)] = connection.execute(
            "INSERT INTO orders (customer, item) VALUES (%s, %s) RETURNING id", (customer, item)
        ).fetchall()
        connection.execute(
            "SELECT webhook.enqueue('order.created', %s, tenant => %s)",
            (json.dumps({"order": order, "customer": customer, "item": item}), customer),
        )
        # Last, since other buyers of this item wait for its row until the commit.
        connection.execute("UPDATE items SET in_stock = in_stock - 1 WHERE name = %s", (item,))
    return order


def announce_delays(connection: psycopg.Connection, customer: str, day: date) -> None:
    """Tell a customer of every order that has not been shipped, once a day.

    The idempotency keys say what "once" means. So whoever does not know whether this job got
    through starts it again: what was told today is not told twice.
    """
    with connection.transaction():
        late = connection.execute(
            "SELECT id FROM orders WHERE customer = %s AND shipped_at IS NULL", (customer,)
        ).fetchall()
        connection.execute(
            "SELECT webhook.enqueue_many(%s, %s, tenant => %s, idempotency_keys => %s)",
            (
                ["order.delayed" for _ in late],
                [json.dumps({"order": order, "day": f"{day}"}) for (order,) in late],
                customer,
                [f"order.delayed:{order}:{day}" for (order,) in late],
            ),
        )
