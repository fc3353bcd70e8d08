"""`webhook-worker tenants`."""

import json
from typing import Annotated, Any

import typer

from worker.cli.help import Commands
from worker.cli.options import BIGINT_MAX, DatabaseUrl, OutputFormat, Reason, whole_number
from worker.cli.output import Format, emit_list, emit_one
from worker.cli.session import NothingMatchedError, actor, with_database
from worker.store.database import Database, Row
from worker.store.sql import statements

app = Commands(help="Whose endpoints and events they are: their share of the workers, their backlog.")


@app.command("list", epilog="Example: webhook-worker tenants list")
def list_(database_url: DatabaseUrl = None, format_: OutputFormat = Format.table) -> None:
    """List tenants by name. The backlog is counted for those with a limit, and never past it by more than one."""

    async def work(database: Database) -> list[Row]:
        return await database.rows(statements()["tenants"], None)

    found = with_database(database_url, work)
    emit_list(found, format_)
    if not found:
        raise NothingMatchedError("there are no tenants")


@app.command("set", epilog="Example: webhook-worker tenants set acme --weight 2 --backlog-max 100000")
def set_(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="'' is the empty tenant.")],
    weight: Annotated[
        float | None, typer.Option("--weight", metavar="W", help="Its share, beside others of 1: from 0.01 to 100.")
    ] = None,
    backlog_max: Annotated[
        str | None,
        typer.Option("--backlog-max", metavar="N", help="Enqueue fails when so many deliveries wait; none for no limit."),
    ] = None,
    reason: Reason = "",
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Change what is given and leave the rest."""
    changes: dict[str, Any] = {} if weight is None else {"weight": weight}
    if backlog_max is not None:
        changes["backlog_max"] = None if backlog_max == "none" else _count(backlog_max)
    if not changes:
        raise typer.BadParameter("give at least one setting to change")

    async def work(database: Database) -> Row:
        sql = statements()
        await database.value(sql["tenant_set"], tenant, json.dumps(changes), actor(), reason)
        (changed,) = await database.rows(sql["tenants"], tenant)
        return changed

    emit_one(with_database(database_url, work), format_)


def _count(text: str) -> int:
    try:
        return whole_number(BIGINT_MAX)(text)
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{error.message}, nor none", param_hint="--backlog-max") from None
