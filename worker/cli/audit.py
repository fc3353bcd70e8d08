"""`webhook-worker audit`."""

import json
from typing import Annotated

import typer

from worker.cli.help import Commands
from worker.cli.options import AfterId, DatabaseUrl, Limit, OfEndpoint, OutputFormat, Since, parse_since, whole_number
from worker.cli.output import Format, emit_list, say
from worker.cli.session import NothingMatchedError, with_database
from worker.store.database import Database, Row
from worker.store.sql import statements

COLUMNS = ("id", "at", "actor", "login", "action", "endpoint_id", "delivery_id", "reason", "details")

app = Commands(help="What operators did, and what workers decided about endpoints: who, when, why.")


@app.callback()
def group() -> None:
    """Keep `list` a command of its own: a single one would become the group."""


@app.command("list", epilog="Example: webhook-worker audit list --endpoint 7 --since 30d")
def list_(
    endpoint: OfEndpoint = None,
    delivery: Annotated[
        int | None, typer.Option("--delivery", parser=whole_number(), metavar="ID", help="About this delivery.")
    ] = None,
    actor: Annotated[str | None, typer.Option("--actor", metavar="NAME", help="By this user, service or worker.")] = None,
    action: Annotated[
        str | None, typer.Option("--action", metavar="A", help="Like endpoint.pause; endpoint means all of an endpoint's.")
    ] = None,
    since: Since = None,
    limit: Limit = 50,
    after: AfterId = None,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """List what was done, the newest first."""
    moment = parse_since(since)

    async def work(database: Database) -> list[Row]:
        return await database.rows(statements()["audit_page"], endpoint, delivery, actor, action, moment, after, limit + 1)

    rows = [{**row, "details": json.loads(row["details"])} for row in with_database(database_url, work)]
    emit_list(rows[:limit], format_, COLUMNS)
    if not rows:
        raise NothingMatchedError("nothing matches")
    if len(rows) > limit:
        say(f"there are more: --after {rows[limit - 1]['id']}")
