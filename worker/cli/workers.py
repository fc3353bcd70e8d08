"""`webhook-worker workers`."""

from typing import Annotated

import typer

from worker.cli.help import Commands
from worker.cli.options import DatabaseUrl, DryRun, OutputFormat, Reason
from worker.cli.output import Format, emit_list, say
from worker.cli.session import NothingMatchedError, actor, with_database
from worker.store.database import Database, Row
from worker.store.sql import statements

COLUMNS = (
    "name", "state", "runtime", "version", "lanes", "in_hand", "attempted", "attempted_per_second", "delivered_per_second",
    "started_at", "seen_at",
)  # fmt: skip

app = Commands(help="Worker processes: which there are, and how to end one in good order.")


@app.command("list", epilog="Example: webhook-worker workers list")
def list_(database_url: DatabaseUrl = None, format_: OutputFormat = Format.table) -> None:
    """List worker processes, the oldest first. One that is silent has died, or cannot reach the database."""

    async def work(database: Database) -> list[Row]:
        return await database.rows(statements()["workers"], None)

    found = with_database(database_url, work)
    emit_list(found, format_, COLUMNS)
    if not found:
        raise NothingMatchedError("there is no worker")


@app.command(epilog="Example: webhook-worker workers drain web-1:4711:9f3a2c --reason 'new kernel'")
def drain(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="As `workers list` has it.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that there are now.")] = False,
    dry_run: DryRun = False,
    reason: Reason = "",
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Ask a worker to finish what is on the wire, give back the rest, and exit 0, as SIGTERM would.

    It hears of it within a few seconds. Whoever started it decides whether it comes back: under systemd's Restart=on-failure
    it stays down, under Restart=always it does not.
    """
    if (name is None) != every:
        raise typer.BadParameter("give the name of a worker, or --all")

    async def work(database: Database) -> list[Row]:
        sql = statements()
        if dry_run:
            found = await database.rows(sql["workers"], name)
            if name is not None and not found:
                raise NothingMatchedError(f"there is no worker {name}")
            return [{"name": row["name"]} for row in found if row["drain_asked_at"] is None]
        return await database.rows(sql["workers_drain"], name, actor(), reason)

    asked = with_database(database_url, work)
    emit_list(asked, format_)
    say(f"{len(asked)} {'would be' if dry_run else 'are'} asked to drain; who was asked before is not asked again")
