"""An order and its event in one transaction, in a session of SQLAlchemy's ORM."""

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, ForeignKey, Identity, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker


class Base(DeclarativeBase):
    """The shop's tables."""


class Item(Base):
    """What can be ordered."""

    __tablename__ = "items"

    name: Mapped[str] = mapped_column(primary_key=True)
    in_stock: Mapped[int]


class Order(Base):
    """One item, ordered by a customer."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    customer: Mapped[str]
    item: Mapped[str] = mapped_column(ForeignKey("items.name"))
    shipped_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


def enqueue(
    session: Session,
    event_type: str,
    payload: dict[str, Any],
    tenant: str,
    key: str | None = None,
) -> None:
    """Queue an event as part of whatever the session's transaction commits."""
    session.execute(select(func.webhook.enqueue(event_type, json.dumps(payload), tenant, key)))


def place_order(sessions: sessionmaker[Session], customer: str, item: str) -> int:
    """Sell one item to a customer, tell the customer's endpoints, and return the order's id.

    An item that is sold out raises sqlalchemy.exc.IntegrityError: then there is neither an
    order nor an event.
    """
    with sessions.begin() as session:
        order = Order(customer=customer, item=item)
        session.add(order)
        session.flush()  # now it has an id
        payload = {"order": order.id, "customer": customer, "item": item}
        enqueue(session, "order.created", payload, tenant=customer)
        stock = session.get_one(Item, item, with_for_update=True)
        stock.in_stock -= 1
        return order.id


def ship_order(sessions: sessionmaker[Session], order_id: int) -> None:
    """Note that an order was shipped, and tell its customer.

    Whoever does not know whether this was committed calls it again: the event's idempotency
    key says that there is one shipping of an order.
    """
    with sessions.begin() as session:
        # Locked: the second of two at once then sees when the first one shipped it.
        order = session.get_one(Order, order_id, with_for_update=True)
        shipped_at = order.shipped_at or datetime.now(UTC)
        order.shipped_at = shipped_at
        payload = {"order": order.id, "shipped_at": shipped_at.isoformat()}
        enqueue(session, "order.shipped", payload, order.customer, f"order.shipped:{order.id}")
