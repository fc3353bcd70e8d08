"""Selling a seat: the order and what its partners are told are one transaction."""

import json
from typing import Any

from django.db import connection, transaction

from benchmarks.ticket_sale.shop.models import Order

PRICE_CENTS = 4_900
REFUSED_CARD = "refused"


class CardRefusedError(Exception):
    """The card was refused."""


def sell(seat: int, buyer: str, card: str) -> tuple[int, int]:
    """Sell a seat, and return the numbers of the order and of its event.

    Raises:
        CardRefusedError: nothing was sold, and nobody is told.
        django.db.IntegrityError: the same, as the seat is taken.
    """
    with transaction.atomic():
        order = Order.objects.create(seat=seat, buyer=buyer, price_cents=PRICE_CENTS)
        told = {"order": order.pk, "seat": seat, "buyer": buyer, "price_cents": PRICE_CENTS}
        event = enqueue("order.created", told)
        if card == REFUSED_CARD:  # it stands for whatever can go wrong between the enqueue and the commit
            raise CardRefusedError
    return order.pk, event


def enqueue(event_type: str, payload: dict[str, Any]) -> int:
    """Enqueue an event on Django's own connection, and so in the transaction that is open there. Returns its id."""
    with connection.cursor() as cursor:
        cursor.execute("select webhook.enqueue(%s, %s)", [event_type, json.dumps(payload)])
        event: int = cursor.fetchone()[0]
    return event
