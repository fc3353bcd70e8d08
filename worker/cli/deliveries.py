"""`webhook-worker deliveries`."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from worker.cli.help import Commands
from worker.cli.options import (
    AfterId,
    DatabaseUrl,
    Id,
    Limit,
    OfEndpoint,
    OutputFormat,
    Reason,
    Since,
    Tenant,
    one_of,
    parse_since,
    whole_number,
)
from worker.cli.output import Format, emit_list, emit_one, say
from worker.cli.session import FailedError, NothingMatchedError, actor, told, with_database
from worker.store.database import Database, DatabaseError, Row
from worker.store.sql import statements

COLUMNS = (
    "id",
    "event_id",
    "endpoint_id",
    "tenant",
    "event_type",
    "state",
    "attempts",
    "next_attempt_at",
    "last_status",
    "last_error",
)
ATTEMPTS_SHOWN = 100
RETRY_PAGE = 500

_NO_SUCH, _REFUSED = "P0002", "55000"


class DeliveryState(StrEnum):
    """The states of a delivery."""

    pending = "pending"
    in_flight = "in_flight"
    delivered = "delivered"
    dead = "dead"
    cancelled = "cancelled"
    held = "held"


OfState = Annotated[
    DeliveryState | None,
    typer.Option(
        "--state",
        parser=one_of(DeliveryState),
        metavar="S",
        help="In this state: pending, in_flight, delivered, dead, cancelled or held.",
    ),
]
OfType = Annotated[str | None, typer.Option("--event-type", metavar="T", help="Of events of exactly this type.")]

app = Commands(help="Events on their way to an endpoint.")


@dataclass(frozen=True)
class Filters:
    """The arguments of the statement `deliveries_page`. None does not filter."""

    state: str | None
    endpoint: int | None
    tenant: str | None
    event_type: str | None
    since: datetime | None
    after: int | None

    async def page(self, database: Database, rows: int) -> list[Row]:
        """Return up to so many matching deliveries, newest first."""
        arguments = (self.state, self.endpoint, self.tenant, self.event_type, self.since, self.after)
        return await database.rows(statements()["deliveries_page"], *arguments, rows)


@app.command("list")
def list_(
    state: OfState = None,
    endpoint: OfEndpoint = None,
    tenant: Tenant = None,
    event_type: OfType = None,
    since: Since = None,
    limit: Limit = 50,
    after: AfterId = None,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """List deliveries, newest first."""
    filters = Filters(state, endpoint, tenant, event_type, parse_since(since), after)

    async def work(database: Database) -> list[Row]:
        return await filters.page(database, limit + 1)

    rows = with_database(database_url, work)
    emit_list(rows[:limit], format_, COLUMNS)
    if not rows:
        raise NothingMatchedError("no delivery matches")
    if len(rows) > limit:
        say(f"there are more: --after {rows[limit - 1]['id']}")


@app.command()
def show(delivery_id: Id, database_url: DatabaseUrl = None, format_: OutputFormat = Format.table) -> None:
    """Show one delivery and its newest attempts (`history` in JSON)."""

    async def work(database: Database) -> tuple[list[Row], list[Row]]:
        found = await database.rows(statements()["delivery"], delivery_id)
        history = await database.rows(statements()["attempts_page"], delivery_id, None, None, None, None, None, ATTEMPTS_SHOWN)
        return found, history

    found, history = with_database(database_url, work)
    if not found:
        raise NothingMatchedError(f"there is no delivery {delivery_id}")
    if format_ is not Format.table:
        emit_one({**found[0], "history": history}, format_)
        return
    emit_one(found[0], format_)
    emit_list(
        history, format_, ("attempt", "started_at", "duration_seconds", "outcome", "status", "response", "error", "worker")
    )


@app.command()
def retry(
    delivery_ids: Annotated[
        list[int] | None,
        typer.Argument(parser=whole_number(), metavar="[ID…]", help="These, or those that match the filters."),
    ] = None,
    state: OfState = None,
    endpoint: OfEndpoint = None,
    tenant: Tenant = None,
    event_type: OfType = None,
    since: Since = None,
    limit: Limit = 1000,
    after: AfterId = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also what was delivered, or is in flight: its receiver may get it twice.")
    ] = False,
    reason: Reason = "",
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Make deliveries due now, their retry schedule from the start: by id, or by filters.

    Filters mean those that are dead, unless --state says otherwise. Run again after an interruption, it goes on with
    what is left.
    """
    filters = Filters(state, endpoint, tenant, event_type, parse_since(since), after)
    filtered = filters != Filters(None, None, None, None, None, None)
    if bool(delivery_ids) == filtered:
        raise typer.BadParameter("give ids, or at least one filter, and not both")
    if state is None:
        filters = replace(filters, state=DeliveryState.dead)
    work = _Retries(force, reason, len(delivery_ids) if delivery_ids else limit)

    async def retry_all(database: Database) -> None:
        await work.run(database, _given(delivery_ids) if delivery_ids else _matching(database, filters))

    try:
        with_database(database_url, retry_all)
    finally:  # also if it ends half-way: what was done is told
        emit_list(work.done, format_)
    held = sum(row["state"] == DeliveryState.held for row in work.done)
    say(f"{len(work.done) - held} due now, {held} held, {work.refused} refused, {work.missing} not found")
    if held:
        say("held until their endpoint, which is paused or disabled, is resumed or enabled")
    if work.more:
        say("there are more: run it again, or raise --limit")
    if work.refused or (work.missing and work.done):
        raise FailedError("not all of them were retried")
    if not work.done:
        raise NothingMatchedError("no delivery matches")


@dataclass
class _Retries:
    """Retries deliveries, each in a transaction of its own: it locks one endpoint, and an interruption undoes nothing."""

    force: bool
    reason: str
    limit: int
    done: list[Row] = field(default_factory=list)
    refused: int = 0
    missing: int = 0
    more: bool = False

    async def run(self, database: Database, wanted: AsyncIterator[int]) -> None:
        """Retry what is wanted, up to the limit."""
        async for delivery_id in wanted:
            if len(self.done) + self.refused + self.missing == self.limit:
                self.more = True
                return
            await self._retry(database, delivery_id)

    async def _retry(self, database: Database, delivery_id: int) -> None:
        try:
            self.done += await database.rows(statements()["delivery_retry"], delivery_id, self.force, actor(), self.reason)
        except DatabaseError as error:
            if error.sqlstate not in (_NO_SUCH, _REFUSED):
                raise
            self.missing += error.sqlstate == _NO_SUCH
            self.refused += error.sqlstate == _REFUSED
            say(". ".join(told(error)))


async def _given(delivery_ids: list[int]) -> AsyncIterator[int]:
    for delivery_id in dict.fromkeys(delivery_ids):
        yield delivery_id


async def _matching(database: Database, filters: Filters) -> AsyncIterator[int]:
    """Yield the ids that match, newest first. A page is read before any of it is retried, and none is read twice."""
    while page := await filters.page(database, RETRY_PAGE):
        for row in page:
            yield row["id"]
        filters = replace(filters, after=page[-1]["id"])
