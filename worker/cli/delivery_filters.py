"""Which deliveries a command is about: the options, and the filters that the database is given."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from worker.cli.option_group import OptionGroup
from worker.cli.options import OfEndpoint, Since, Tenant, one_of, parse_since, whole_number
from worker.cli.output import timestamp


class DeliveryState(StrEnum):
    """The states of a delivery."""

    pending = "pending"
    in_flight = "in_flight"
    delivered = "delivered"
    dead = "dead"
    cancelled = "cancelled"
    held = "held"


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What deliveries must be like: the names are the columns' (functions/520_matching.sql). None does not filter."""

    state: str | None = None
    endpoint_id: int | None = None
    tenant: str | None = None
    event_type: str | None = None
    created_since: datetime | None = None
    created_before: datetime | None = None
    last_error: str | None = None
    last_status: int | None = None

    def as_json(self) -> str:
        """Return what the statements take."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(given, default=timestamp)


def read_filters(
    state: Annotated[
        DeliveryState | None,
        typer.Option(
            "--state",
            parser=one_of(DeliveryState),
            metavar="S",
            help="In this state: pending, in_flight, delivered, dead, cancelled or held.",
        ),
    ] = None,
    endpoint: OfEndpoint = None,
    tenant: Tenant = None,
    event_type: Annotated[str | None, typer.Option("--event-type", metavar="T", help="Of events of exactly this type.")] = None,
    since: Since = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="D", help="Older than a duration (90s, 2h, 7d) or an RFC 3339 time.")
    ] = None,
    error: Annotated[
        str | None,
        typer.Option(
            "--error", metavar="WORD", help="Whose last attempt failed like this: timeout, http_status, tls_expired …"
        ),
    ] = None,
    status: Annotated[
        int | None, typer.Option("--status", parser=whole_number(999), metavar="N", help="Last answered with this HTTP status.")
    ] = None,
) -> Filters:
    """Read the options."""
    return Filters(
        state=state,
        endpoint_id=endpoint,
        tenant=tenant,
        event_type=event_type,
        created_since=parse_since(since),
        created_before=parse_since(until, "--until"),
        last_error=error,
        last_status=status,
    )


Matching = Annotated[Filters, OptionGroup(read_filters)]
