"""`webhook-worker deliveries retry|cancel|hold|release`: a few by id, at once; or all that match, as a job of the fleet."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Annotated, Any

import typer

from worker.cli.delivery_filters import DeliveryState, Filters, Matching
from worker.cli.job_follow import follow, read_job
from worker.cli.options import AfterId, DatabaseUrl, OutputFormat, Reason, whole_number
from worker.cli.output import Format, Record, emit_list, emit_one, say
from worker.cli.session import FailedError, NothingMatchedError, actor, told, with_database
from worker.store.database import Database, DatabaseError, Row
from worker.store.sql import statements

RATE = 100.0
"""Deliveries a second that a job makes due, unless somebody says otherwise."""
RATE_MIN, RATE_MAX = 0.001, 10_000.0
EFFECTS = {
    "retry": "each becomes due once more, with its retry schedule from the start",
    "cancel": "each ends as cancelled, and is not sent",
    "hold": "each is set aside until it is released",
    "release": "each that was set aside becomes due when it would have been",
}

_NO_SUCH, _REFUSED = "P0002", "55000"


def _rate(text: str | float) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not RATE_MIN <= rate <= RATE_MAX:
        raise typer.BadParameter(f"{text!r} is not a number from {RATE_MIN:g} to {RATE_MAX:g}")
    return rate


Ids = Annotated[
    list[int] | None,
    typer.Argument(parser=whole_number(), metavar="[ID…]", help="These, or those that match the filters."),
]
AtMost = Annotated[
    int | None,
    typer.Option("--limit", parser=whole_number(), metavar="N", help="At most so many, the oldest first (filters only)."),
]
Rate = Annotated[
    float,
    typer.Option("--rate", parser=_rate, metavar="R", help="Make so many due a second, from 0.001 to 10000 (filters only)."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask (filters only).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and leave all as it is.")]
Detach = Annotated[bool, typer.Option("--detach", help="Do not wait for the job (filters only).")]


def retry(
    delivery_ids: Ids = None,
    *,
    filters: Matching,
    limit: AtMost = None,
    after: AfterId = None,
    rate: Rate = RATE,
    force: Annotated[
        bool, typer.Option("--force", help="Also what was delivered, or is in flight: its receiver may get it twice.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    detach: Detach = False,
    reason: Reason = "",
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Make deliveries due again, their retry schedule from the start: by id at once, or by filters as a job of the workers.

    Filters mean those that are dead, unless --state says otherwise.
    """
    change = _Change("retry", rate, force, reason, database_url, format_, dry_run=dry_run)
    if change.by_id(delivery_ids, filters, limit, after):
        return
    filters = replace(filters, state=filters.state or DeliveryState.dead)
    change.by_filters(filters, limit, after, yes=yes, detach=detach)


def cancel(
    delivery_ids: Ids = None,
    *,
    filters: Matching,
    limit: AtMost = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    detach: Detach = False,
    reason: Reason = "",
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Give up deliveries that wait (pending or held): they end as cancelled. What is in flight cannot be taken back."""
    change = _Change("cancel", None, False, reason, database_url, format_, dry_run=dry_run)
    if not change.by_id(delivery_ids, filters, limit, None):
        change.by_filters(filters, limit, None, yes=yes, detach=detach)


def hold(
    delivery_ids: Ids = None,
    *,
    filters: Matching,
    limit: AtMost = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    detach: Detach = False,
    reason: Reason = "",
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Set deliveries that wait aside, until they are released. For all of an endpoint, `endpoints pause` is one row."""
    change = _Change("hold", None, False, reason, database_url, format_, dry_run=dry_run)
    if not change.by_id(delivery_ids, filters, limit, None):
        change.by_filters(filters, limit, None, yes=yes, detach=detach)


def release(
    delivery_ids: Ids = None,
    *,
    filters: Matching,
    limit: AtMost = None,
    rate: Rate = RATE,
    yes: Yes = False,
    dry_run: DryRun = False,
    detach: Detach = False,
    reason: Reason = "",
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Let deliveries go that an operator set aside: they are due when they would have been."""
    change = _Change("release", rate, False, reason, database_url, format_, dry_run=dry_run)
    if not change.by_id(delivery_ids, filters, limit, None):
        change.by_filters(filters, limit, None, yes=yes, detach=detach)


@dataclass
class _Change:
    """What is to be done to deliveries, and how it is told. `rate`: null for what makes nothing due."""

    action: str
    rate: float | None
    force: bool
    reason: str
    database_url: str | None
    format_: Format
    dry_run: bool = field(kw_only=True)
    done: list[Row] = field(default_factory=list, init=False)
    refused: int = field(default=0, init=False)
    missing: int = field(default=0, init=False)

    def by_id(self, delivery_ids: Sequence[int] | None, filters: Filters, limit: int | None, after: int | None) -> bool:
        """Do it to these, if ids were given: each in a transaction of its own, so that an interruption undoes nothing."""
        filtered = filters != Filters() or limit is not None or after is not None
        if bool(delivery_ids) == filtered:
            raise typer.BadParameter("give ids, or at least one filter, and not both")
        if not delivery_ids:
            return False
        ids = list(dict.fromkeys(delivery_ids))

        async def each(database: Database) -> None:
            for delivery_id in ids:
                await self._one(database, delivery_id)

        try:
            with_database(self.database_url, each)
        finally:  # also if it ends half-way: what was done is told
            emit_list(self.done, self.format_)
        self._tell()
        return True

    async def _one(self, database: Database, delivery_id: int) -> None:
        if self.dry_run:
            found = await database.rows(statements()["delivery"], delivery_id)
            self.done += [{"id": row["id"], "state": row["state"]} for row in found]
            self.missing += not found
            return
        forced = [self.force] if self.action == "retry" else []
        try:
            self.done += await database.rows(
                statements()[f"delivery_{self.action}"], delivery_id, *forced, actor(), self.reason
            )
        except DatabaseError as error:
            if error.sqlstate not in (_NO_SUCH, _REFUSED):
                raise
            self.missing += error.sqlstate == _NO_SUCH
            self.refused += error.sqlstate == _REFUSED
            say(". ".join(told(error)))

    def _tell(self) -> None:
        """Say how many it was done to, and exit accordingly."""
        if self.dry_run:
            say(f"dry run: nothing was changed; {self.action} would be tried on {len(self.done)}, {self.missing} not found")
        elif self.action in ("retry", "release"):
            held = sum(row["state"] == DeliveryState.held for row in self.done)
            say(f"{len(self.done) - held} due now, {held} held, {self.refused} refused, {self.missing} not found")
            if held:
                say("held until their endpoint, which is paused or disabled, is resumed or enabled")
        else:
            past = {"cancel": "cancelled", "hold": "held"}[self.action]
            say(f"{len(self.done)} {past}, {self.refused} refused, {self.missing} not found")
        if self.refused or (self.missing and self.done):
            raise FailedError(f"{self.action} was not done to all of them")
        if not self.done:
            raise NothingMatchedError("no delivery matches")

    def by_filters(self, filters: Filters, limit: int | None, after: int | None, *, yes: bool, detach: bool) -> None:
        """Show what matches and what becomes of it, ask, and leave it to the workers as a job."""
        plan = with_database(self.database_url, lambda database: self._plan(database, filters, limit, after))
        if not plan["matching"]:
            raise NothingMatchedError("no delivery matches")
        if self.dry_run and self.format_ is not Format.table:
            emit_one(plan, self.format_)
        else:
            self._show(plan)
        if self.dry_run:
            say("dry run: nothing was changed")
            return
        if not yes:
            if not sys.stdin.isatty():
                raise typer.BadParameter(
                    "there is no terminal to ask on: give it to go on, or --dry-run to look", param_hint="--yes"
                )
            typer.confirm(f"{self.action} {plan['matching']:,} deliveries?", abort=True, err=True)
        job_id = with_database(self.database_url, lambda database: self._create(database, filters, limit, after))
        if detach:
            job = with_database(self.database_url, lambda database: read_job(database, job_id))
        else:
            job = follow(self.database_url, job_id)
        emit_one(job, self.format_)
        if job["state"] == "cancelled":
            raise FailedError(f"job {job_id} was cancelled before it was through")
        if job["skipped"]:
            raise FailedError(f"job {job_id} skipped {job['skipped']:,}: `skipped_because` says why")

    async def _plan(self, database: Database, filters: Filters, limit: int | None, after: int | None) -> dict[str, Any]:
        sql = statements()
        (found,) = await database.rows(sql["job_preview"], self.action, filters.as_json(), self.force, after)
        ids = [int(text) for text in found["sample"].split(",") if text]
        sample = [row for delivery_id in ids for row in await database.rows(sql["delivery"], delivery_id)]
        matching = found["matching"] if limit is None else min(found["matching"], limit)
        return {
            "action": self.action,
            "matching": matching,
            "rate": self.rate,
            "seconds": matching / self.rate if self.rate else None,
            "sample": sample,
        }

    def _show(self, plan: Record) -> None:
        say(f"{plan['matching']:,} deliveries match, the oldest of them:")
        for row in plan["sample"]:
            error = f", {row['last_error']}" if row["last_error"] else ""
            say(f"  {row['id']}  {row['event_type']} for endpoint {row['endpoint_id']}: {row['state']}{error}")
        pace = ""
        if self.rate:
            pace = f": {self.rate:g} a second, for about {timedelta(seconds=round(plan['seconds']))}"
        say(EFFECTS[self.action] + pace)

    async def _create(self, database: Database, filters: Filters, limit: int | None, after: int | None) -> int:
        arguments = (self.action, filters.as_json(), self.rate, self.force, limit, after, actor(), self.reason)
        return int(await database.value(statements()["job_create"], *arguments))
