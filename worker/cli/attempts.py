"""`webhook-worker attempts`."""

import re
from typing import Annotated

import typer

from worker.cli.help import Commands
from worker.cli.options import DatabaseUrl, Limit, OfEndpoint, OutputFormat, Since, parse_since, whole_number
from worker.cli.output import Format, emit_list, say
from worker.cli.session import NothingMatchedError, with_database
from worker.store.database import Database, Row
from worker.store.sql import statements

COLUMNS = ("delivery_id", "attempt", "endpoint_id", "started_at", "duration_seconds", "outcome", "status", "error", "worker")

app = Commands(help="HTTP requests that were made, and how they ended.")


@app.callback()
def group() -> None:
    """Keep `list` a command of its own: a single one would become the group."""


@app.command("list", epilog="Example: webhook-worker attempts list --endpoint 7 --outcome timeout --since 1h")
def list_(
    delivery: Annotated[
        int | None, typer.Option("--delivery", parser=whole_number(), metavar="ID", help="Of this delivery.")
    ] = None,
    endpoint: OfEndpoint = None,
    outcome: Annotated[str | None, typer.Option("--outcome", metavar="NAME", help="Like ok, http_status or timeout.")] = None,
    since: Since = None,
    limit: Limit = 50,
    after: Annotated[
        str | None, typer.Option("--after", metavar="CURSOR", help="The next page: the cursor of the last.")
    ] = None,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """List attempts, those of the newest deliveries first."""
    moment = parse_since(since)
    cursor = _parse_cursor(after) if after is not None else (None, None)

    async def work(database: Database) -> list[Row]:
        return await database.rows(statements()["attempts_page"], delivery, endpoint, outcome, moment, *cursor, limit + 1)

    rows = with_database(database_url, work)
    emit_list(rows[:limit], format_, COLUMNS)
    if not rows:
        raise NothingMatchedError("no attempt matches")
    if len(rows) > limit:
        last = rows[limit - 1]
        say(f"there are more: --after {last['delivery_id']}.{last['attempt']}")


def _parse_cursor(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,18})\.([0-9]{1,5})", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no cursor of this list, like 120.3", param_hint="--after")
    return int(match[1]), int(match[2])
