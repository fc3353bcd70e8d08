"""Orders and their events: what the views call, and anything else that sells."""

import json
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import IntegrityError, connection, transaction
from django.db.models import F

from django_shop.models import Item, Order


class SoldOut(Exception):
    """Nothing is left of an item."""


def enqueue(event_type: str, payload: dict[str, Any], tenant: str) -> None:
    """Queue an event as part of the current transaction."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT webhook.enqueue(%s, %s, tenant => %s)",
            [event_type, json.dumps(payload, cls=DjangoJSONEncoder), tenant],
        )


@transaction.atomic
def place_order(customer: str, item: str) -> Order:
    """Sell one item to a customer, and tell the customer's endpoints.

    An item that is sold out raises SoldOut: then there is neither an order nor an event.
    """
    order = Order.objects.create(customer=customer, item_id=item)
    payload = {"order": order.pk, "customer": customer, "item": item}
    enqueue("order.created", payload, tenant=customer)
    try:
        # Last, since other buyers of this item wait for its row until the commit.
        Item.objects.filter(name=item).update(in_stock=F("in_stock") - 1)
    except IntegrityError as error:
        # Only this constraint means it. Either error has to leave `atomic`, which rolls back.
        if error.__cause__.diag.constraint_name == "items_in_stock_check":
            raise SoldOut(f"{item} is sold out") from error
        raise
    return order
