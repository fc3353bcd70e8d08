"""How a suite sees that an order is told: the event is a row, until the test is rolled back."""

import json

import psycopg

from with_psycopg import place_order

TOLD = "SELECT event_type, payload FROM webhook.events WHERE tenant = %s ORDER BY id"


def test_an_order_is_told(connection: psycopg.Connection) -> None:
    """A sold ticket is one event, with its number."""
    with connection.transaction(force_rollback=True):
        order = place_order(connection, "acme", "ticket")
        [(event_type, payload)] = connection.execute(TOLD, ("acme",)).fetchall()
        assert event_type == "order.created"
        assert json.loads(payload)["order"] == order
