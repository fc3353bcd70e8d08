"""`webhook-worker attempts tail`."""

from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any

import typer

from worker.cli.live import ask_again, run_until_interrupted
from worker.cli.options import DatabaseUrl, OfEndpoint, OutputFormat, Tenant
from worker.cli.output import Format, Record, cell, emit_line, say, timestamp
from worker.settings import Settings, without_password
from worker.store.codec import dumps, loads
from worker.store.database import Database
from worker.store.sql import statements

FIELDS = (
    "delivery_id", "event_id", "endpoint_id", "attempt", "started_at", "duration_seconds", "outcome", "status", "response",
    "error", "worker",
)  # fmt: skip
"""In the order of the view."""
EVERY_SECONDS = 0.5
ROWS_MAX = 1000
"""Of one look: more than anybody reads."""


def tail(
    endpoint: OfEndpoint = None,
    tenant: Tenant = None,
    outcome: Annotated[str | None, typer.Option("--outcome", metavar="NAME", help="Like ok, http_status or timeout.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All but ok.")] = False,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Follow attempts as they are recorded, one line each, until Ctrl-C. JSON is one object a line."""
    settings = Settings.load(database_url=database_url)
    cursor: str | None = None

    async def look(database: Database) -> dict[str, Any]:
        nonlocal cursor
        found: dict[str, Any] = loads(
            await database.value(statements()["attempts_tail"], cursor, endpoint, tenant, outcome, failed, ROWS_MAX)
        )
        if cursor is None:
            say("following attempts; Ctrl-C ends it")
        cursor = dumps(found["cursor"])
        return found

    async def follow() -> None:
        looks = ask_again(settings.database_url, look, EVERY_SECONDS, lambda text: say(without_password(text)))
        async with aclosing(looks):
            async for found in looks:
                for attempt in found["attempts"]:
                    attempt["started_at"] = datetime.fromisoformat(attempt["started_at"])
                    record = {name: attempt[name] for name in FIELDS}
                    emit_line(record, format_, _line(record))
                if found["more"]:
                    say(f"{found['more']} more were not shown: --endpoint, --tenant, --outcome and --failed choose")

    run_until_interrupted(follow)


def _line(attempt: Record) -> str:
    what = attempt["outcome"] if attempt["status"] is None else f"{attempt['outcome']} {attempt['status']}"
    return (
        f"{timestamp(attempt['started_at'])}  endpoint {attempt['endpoint_id']}  delivery {attempt['delivery_id']}"
        f" attempt {attempt['attempt']}  {what}  {cell(attempt['duration_seconds'])} s  {attempt['error'] or ''}"
    ).rstrip()
