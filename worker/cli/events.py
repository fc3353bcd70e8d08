"""`webhook-worker events`."""

from typing import Annotated

import typer

from worker.cli.help import Commands
from worker.cli.options import DatabaseUrl, OutputFormat, Reason, whole_number
from worker.cli.output import Format, Record, emit_one
from worker.cli.session import actor, with_database
from worker.store.database import Database
from worker.store.sql import statements

ROWS = 1_000
"""Of one step: a transaction that holds up nobody."""

app = Commands(help="What was enqueued.")


@app.callback()
def group() -> None:
    """Keep `purge` a command of its own: a single one would become the group."""


@app.command()
def purge(
    tenant: Annotated[str | None, typer.Option("--tenant", metavar="T", help="Everything of this tenant, up to now.")] = None,
    event_id: Annotated[int | None, typer.Option("--id", parser=whole_number(), metavar="ID", help="This event.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    reason: Reason = "",
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Remove payloads, and what receivers answered, for good; cancel unfinished deliveries. Interrupted, run it again."""
    if (tenant is None) == (event_id is None):
        raise typer.BadParameter("give --tenant or --id")
    if not yes:
        what = f"event {event_id}" if tenant is None else f"all events of tenant {tenant!r}"
        typer.confirm(f"remove {what}, which nothing brings back?", abort=True, err=True)

    async def work(database: Database) -> Record:
        return await _purge(database, tenant, event_id, reason)

    emit_one(with_database(database_url, work), format_)


async def _purge(database: Database, tenant: str | None, event_id: int | None, reason: str) -> Record:
    sql, who = statements(), actor()
    (begun,) = await database.rows(sql["purge_begin"], tenant, event_id, who, reason)
    of, first, last = begun["tenant"], event_id or 0, begun["up_to"]
    cancelled, endpoint_id = 0, 0
    while endpoints := await database.rows(sql["purge_endpoints"], of, endpoint_id, ROWS):
        for endpoint in endpoints:
            endpoint_id = endpoint["id"]
            while step := await database.value(sql["purge_endpoint"], endpoint_id, first, last, ROWS, who):
                cancelled += step
    responses = 0
    for row in await database.rows(sql["purge_partitions"]):
        responses += await database.value(sql["purge_responses"], row["partition"], of, first, last)
    events = 0
    while step := await database.value(sql["purge_payloads"], of, first, last, ROWS):
        events += step
    return {"tenant": of, "up_to": last, "cancelled": cancelled, "responses": responses, "removed": events}
