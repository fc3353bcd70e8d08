"""`webhook-worker events`."""

from typing import Annotated

import typer

from worker.cli.help import Commands
from worker.cli.options import DatabaseUrl, DryRun, OutputFormat, Reason, whole_number
from worker.cli.output import Format, Record, emit_one, say
from worker.cli.session import NothingMatchedError, actor, with_database
from worker.store.database import Database
from worker.store.sql import statements

ROWS = 5_000
"""Of one step: a transaction that is over in a moment."""
COUNTED_MAX = 10_000
"""By a dry run."""

app = Commands(help="What was enqueued.")


@app.callback()
def group() -> None:
    """Keep `purge` a command of its own: a single one would become the group."""


@app.command(epilog="Example: webhook-worker events purge --tenant acme --reason 'they left'")
def purge(
    tenant: Annotated[str | None, typer.Option("--tenant", metavar="T", help="Everything of this tenant, up to now.")] = None,
    event_id: Annotated[int | None, typer.Option("--id", parser=whole_number(), metavar="ID", help="This event.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: DryRun = False,
    reason: Reason = "",
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Remove payloads, and what receivers answered, for good; cancel unfinished deliveries. Interrupted, run it again."""
    if (tenant is None) == (event_id is None):
        raise typer.BadParameter("give --tenant or --id")
    if dry_run:
        emit_one(with_database(database_url, lambda database: _look(database, tenant, event_id)), format_)
        say(f"dry run: nothing was removed; numbers are counted up to {COUNTED_MAX}")
        return
    if not yes:
        what = f"event {event_id}" if tenant is None else f"all events of tenant {tenant!r}"
        typer.confirm(f"remove {what}, which nothing brings back?", abort=True, err=True)

    async def work(database: Database) -> Record:
        return await _purge(database, tenant, event_id, reason)

    emit_one(with_database(database_url, work), format_)


async def _look(database: Database, tenant: str | None, event_id: int | None) -> Record:
    """Say what a purge would meet now."""
    (found,) = await database.rows(statements()["purge_look"], tenant, event_id, COUNTED_MAX)
    if event_id is not None and not found["events"]:
        raise NothingMatchedError(f"there is no event {event_id}")
    return found


async def _purge(database: Database, tenant: str | None, event_id: int | None, reason: str) -> Record:
    """Go through it until a whole pass has found nothing: deliveries are made, and answered, while it runs."""
    sql = statements()
    (begun,) = await database.rows(sql["purge_begin"], tenant, event_id, actor(), reason)
    purge = begun["purge"]
    total = {"cancelled": 0, "answers": 0, "removed": 0}
    found = {"any": 1}
    while any(found.values()):
        await database.value(sql["purge_fan_out"], purge)
        found = {
            "removed": await _in_ranges(database, sql["purge_events"], purge, "removed"),
            "cancelled": await _cancel(database, purge, begun["tenant"]),
            "answers": await _in_ranges(database, sql["purge_answers"], purge, "cleared"),
        }
        total = {name: count + found[name] for name, count in total.items()}
    return {"tenant": begun["tenant"], "up_to": begun["event_to"], **total}


async def _in_ranges(database: Database, statement: str, purge: int, counted: str) -> int:
    count, after = 0, 0
    while after is not None:
        (step,) = await database.rows(statement, purge, after, ROWS)
        count, after = count + step[counted], step["next"]
    return count


async def _cancel(database: Database, purge: int, tenant: str) -> int:
    sql = statements()
    count, endpoint_id = 0, 0
    while endpoints := await database.rows(sql["purge_endpoints"], tenant, endpoint_id, ROWS):
        for endpoint in endpoints:
            endpoint_id = endpoint["id"]
            while step := await database.value(sql["purge_endpoint"], purge, endpoint_id, ROWS):
                count += step
    return count
