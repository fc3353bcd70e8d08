"""Following a job that the fleet does: a bar on a terminal, which can be left and joined again."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime, timedelta

from worker.cli.live import ask_again, run_until_interrupted
from worker.cli.output import say
from worker.cli.session import NothingMatchedError, with_database
from worker.settings import Settings, without_password
from worker.store.database import Database, Row
from worker.store.sql import statements

LOOK_SECONDS = 0.5
IDLE_AFTER = timedelta(seconds=10)
"""A job that nobody takes a step of for so long waits for a worker."""


async def read_jobs(database: Database, job_id: int | None, state: str | None, after: int | None, rows: int) -> list[Row]:
    """Return jobs, newest first."""
    found = await database.rows(statements()["jobs_page"], job_id, state, after, rows)
    return [
        {**job, "filters": json.loads(job["filters"]), "skipped_because": json.loads(job["skipped_because"])} for job in found
    ]


async def read_job(database: Database, job_id: int) -> Row:
    """Return one job."""
    for job in await read_jobs(database, job_id, None, None, 1):
        return job
    raise NothingMatchedError(f"there is no job {job_id}")


def follow(database_url: str | None, job_id: int) -> Row:
    """Show how a job gets on, until it has ended or somebody presses Ctrl-C; return it as it is then."""
    dsn = Settings.load(database_url=database_url).database_url

    async def look(database: Database) -> Row:
        return await read_job(database, job_id)

    async def watch() -> Row:
        async with aclosing(ask_again(dsn, look, LOOK_SECONDS, lambda text: say(without_password(text)))) as looks:
            with _shown(await anext(looks)) as show:
                async for job in looks:
                    show(job)
                    if job["finished_at"] is not None:
                        break
        return job

    ended = run_until_interrupted(watch)
    if ended is not None:
        return ended
    say(f"left: the workers go on with job {job_id}. Join it again: webhook-worker jobs show {job_id} --follow")
    return with_database(database_url, lambda database: read_job(database, job_id))


@contextmanager
def _shown(job: Row) -> Iterator[Callable[[Row], None]]:
    """Yield what shows a job: a bar, or nothing but a line at the beginning where nobody would see it move."""
    if not sys.stderr.isatty():
        say(f"the workers do job {job['id']}: {job['action']} of {job['total']:,} deliveries")
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        say(f"job {job['id']}: Ctrl-C leaves it to the workers")
        bar = progress.add_task(job["action"], total=job["total"])
        yield lambda job: progress.update(
            bar, description=f"{job['action']}: {_standing(job)}", completed=min(job["total"], job["done"] + job["skipped"])
        )


def _standing(job: Row) -> str:
    idle = job["state"] == "running" and datetime.now(UTC) - (job["stepped_at"] or job["created_at"]) > IDLE_AFTER
    return "waiting for a worker" if idle else str(job["state"])
