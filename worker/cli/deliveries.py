"""`webhook-worker deliveries`: looking at them. What changes them is in `delivery_changes`."""

from typing import Annotated

import typer

from worker.cli.delivery_filters import Matching
from worker.cli.delivery_why import AHEAD_MAX, why
from worker.cli.export import Exported, ExportFormat, export
from worker.cli.help import Commands
from worker.cli.options import AfterId, DatabaseUrl, Id, Limit, OutputFormat
from worker.cli.output import Format, emit_list, emit_one, say
from worker.cli.session import NothingMatchedError, with_database
from worker.store.database import Database, Row
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

app = Commands(help="Events on their way to an endpoint.")


@app.command("list", epilog="Example: webhook-worker deliveries list --state dead --endpoint 7 --since 24h --error timeout")
def list_(
    filters: Matching,
    limit: Limit = 50,
    after: AfterId = None,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """List deliveries, newest first."""

    async def work(database: Database) -> list[Row]:
        return await database.rows(statements()["deliveries_page"], filters.as_json(), after, limit + 1)

    rows = with_database(database_url, work)
    emit_list(rows[:limit], format_, COLUMNS)
    if not rows:
        raise NothingMatchedError("no delivery matches")
    if len(rows) > limit:
        say(f"there are more: --after {rows[limit - 1]['id']}")


@app.command(epilog="Example: webhook-worker deliveries count --state dead --since 24h --status 503")
def count(
    filters: Matching,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Count deliveries, exactly: each that may match is looked at. For a glance, `stats` is cheaper."""

    async def work(database: Database) -> int:
        return int(await database.value(statements()["deliveries_count"], filters.as_json()))

    emit_one({"count": with_database(database_url, work)}, format_)


@app.command("export", epilog="Example: webhook-worker deliveries export --tenant acme --since 30d --payload > acme.jsonl")
def export_(
    filters: Matching,
    payload: Annotated[bool, typer.Option("--payload", help="With each event's content type and payload.")] = False,
    database_url: DatabaseUrl = None,
    format_: Exported = ExportFormat.jsonl,
) -> None:
    """Write all that match, newest first, in as much memory as a page takes."""

    async def work(database: Database) -> int:
        return await export(database, filters, format_, payloads=payload)

    if not with_database(database_url, work):
        raise NothingMatchedError("no delivery matches")


@app.command(epilog="Example: webhook-worker deliveries show 48213")
def show(delivery_id: Id, database_url: DatabaseUrl = None, format_: OutputFormat = Format.table) -> None:
    """Show one delivery, `why` it has not been sent or how it ended, and its newest attempts (`history` in JSON)."""

    async def work(database: Database) -> tuple[list[Row], list[Row], list[Row]]:
        sql = statements()
        found = await database.rows(sql["delivery"], delivery_id)
        facts = await database.rows(sql["delivery_facts"], delivery_id, AHEAD_MAX)
        history = await database.rows(sql["attempts_page"], delivery_id, None, None, None, None, None, ATTEMPTS_SHOWN)
        return found, facts, history

    found, facts, history = with_database(database_url, work)
    if not found or not facts:
        raise NothingMatchedError(f"there is no delivery {delivery_id}")
    reasons = why(facts[0])
    if format_ is not Format.table:
        emit_one({**found[0], "why": reasons, "history": history}, format_)
        return
    emit_one({**found[0], "why": "; ".join(reasons)}, format_)
    emit_list(
        history, format_, ("attempt", "started_at", "duration_seconds", "outcome", "status", "response", "error", "worker")
    )
