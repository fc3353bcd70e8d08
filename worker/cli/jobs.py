"""`webhook-worker jobs`: what operators do to many deliveries at once, and the fleet takes its time for."""

from enum import StrEnum
from typing import Annotated

import typer

from worker.cli.help import Commands
from worker.cli.job_follow import follow, read_job, read_jobs
from worker.cli.options import AfterId, DatabaseUrl, Id, Limit, OutputFormat, Reason, one_of
from worker.cli.output import Format, emit_list, emit_one, say
from worker.cli.session import NothingMatchedError, actor, with_database
from worker.store.database import Database, Row
from worker.store.sql import statements

COLUMNS = ("id", "action", "state", "done", "skipped", "total", "rate", "actor", "reason", "created_at", "finished_at")

app = Commands(help="Bulk changes of deliveries, which the workers carry out: see how they get on, pause or end them.")


class JobState(StrEnum):
    """The states of a job."""

    running = "running"
    paused = "paused"
    done = "done"
    cancelled = "cancelled"


OfJobState = Annotated[
    JobState | None,
    typer.Option("--state", parser=one_of(JobState), metavar="S", help="In this state: running, paused, done or cancelled."),
]


@app.command("list", epilog="Example: webhook-worker jobs list --state running")
def list_(
    state: OfJobState = None,
    limit: Limit = 50,
    after: AfterId = None,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """List jobs, newest first."""

    async def work(database: Database) -> list[Row]:
        return await read_jobs(database, None, state, after, limit + 1)

    rows = with_database(database_url, work)
    emit_list(rows[:limit], format_, COLUMNS)
    if not rows:
        raise NothingMatchedError("no job matches")
    if len(rows) > limit:
        say(f"there are more: --after {rows[limit - 1]['id']}")


@app.command(epilog="Example: webhook-worker jobs show 3 --follow")
def show(
    job_id: Id,
    follow_: Annotated[
        bool, typer.Option("--follow", help="Until it has ended, or you press Ctrl-C: it goes on then.")
    ] = False,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Show one job: its filters, how far it is, what it left out and why."""

    async def work(database: Database) -> Row:
        return await read_job(database, job_id)

    emit_one(follow(database_url, job_id) if follow_ else with_database(database_url, work), format_)


@app.command(epilog="Example: webhook-worker jobs pause 3 --reason 'their receiver is slow'")
def pause(job_id: Id, reason: Reason = "", database_url: DatabaseUrl = None, format_: OutputFormat = Format.table) -> None:
    """Let a job rest. What it has planned, three seconds of its rate, still goes out."""
    _change("job_pause", job_id, reason, database_url, format_)


@app.command(epilog="Example: webhook-worker jobs resume 3")
def resume(job_id: Id, reason: Reason = "", database_url: DatabaseUrl = None, format_: OutputFormat = Format.table) -> None:
    """Let a paused job go on where it was."""
    _change("job_resume", job_id, reason, database_url, format_)


@app.command(epilog="Example: webhook-worker jobs cancel 3 --reason 'the wrong endpoint'")
def cancel(
    job_id: Id,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the job that would be ended, and leave it.")] = False,
    reason: Reason = "",
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """End a job before it is through. What it has done stays done."""
    if dry_run:
        say("dry run: nothing was changed")
    _change(None if dry_run else "job_cancel", job_id, reason, database_url, format_)


def _change(statement: str | None, job_id: int, reason: str, database_url: str | None, format_: Format) -> None:
    async def work(database: Database) -> Row:
        if statement:
            await database.value(statements()[statement], job_id, actor(), reason)
        return await read_job(database, job_id)

    emit_one(with_database(database_url, work), format_)
