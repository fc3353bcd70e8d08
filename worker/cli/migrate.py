"""`webhook-worker migrate`: the schema of a database."""

from typing import Any

import typer

from worker.cli.help import Commands
from worker.cli.options import DatabaseUrl, OutputFormat
from worker.cli.output import Format, emit_list, say
from worker.cli.session import NothingMatchedError, with_database
from worker.store.database import Database
from worker.store.migrate import migrate_up, script
from worker.store.sql import functions_hash, migrations, statements

app = Commands(help="Bring a database to this release's schema, or show what is missing.")


@app.command(epilog="Example: webhook-worker migrate up")
def up(database_url: DatabaseUrl = None, format_: OutputFormat = Format.table) -> None:
    """Apply what is missing, in one transaction. Safe to run by two at once."""
    applied = with_database(database_url, migrate_up)
    emit_list([{"applied": name} for name in applied], format_)
    say(f"applied: {', '.join(applied)}" if applied else "nothing to do: the schema is up to date")


@app.command(epilog="Example: webhook-worker migrate status")
def status(database_url: DatabaseUrl = None, format_: OutputFormat = Format.table) -> None:
    """Show every migration of this release and of the database, and whether the functions are current."""
    rows = with_database(database_url, _status)
    if not rows:
        raise NothingMatchedError("there is no migration")
    emit_list(rows, format_)
    if missing := [row["name"] for row in rows if row["state"] != "applied"]:
        say(f"not as in this release: {', '.join(missing)}; `webhook-worker migrate up` applies what is missing")


@app.command(epilog="Example: webhook-worker migrate sql > schema.sql")
def sql() -> None:
    """Print everything as a script for psql, without a database: for those who review, or may not run this."""
    parts = ["\\set ON_ERROR_STOP on", "begin;", statements()["migrate_begin"], *script(), "commit;"]
    typer.echo("\n\n".join(part.strip() for part in parts))


async def _status(database: Database) -> list[dict[str, Any]]:
    migrated = await database.value(statements()["migrate_exists"])
    done = {row["number"]: row for row in await database.rows(statements()["migrate_history"])} if migrated else {}
    known = {number: name for number, name, _ in migrations()}
    rows = [
        {
            "name": known.get(number) or done[number]["name"],
            "state": "pending" if number not in done else "applied" if number in known else "unknown to this release",
            "applied_at": done[number]["applied_at"] if number in done else None,
            "applied_by": done[number]["applied_by"] if number in done else None,
        }
        for number in sorted(known.keys() | done.keys())
    ]
    current = migrated and (await database.rows(statements()["schema"]))[0]["functions_hash"] == functions_hash()
    rows.append({"name": "functions", "state": "applied" if current else "pending", "applied_at": None, "applied_by": None})
    return rows
