"""`webhook-worker stats`."""

from worker.cli.options import DatabaseUrl, OutputFormat
from worker.cli.output import Format, Record, cell, emit_one
from worker.cli.session import with_database
from worker.store.database import Database
from worker.store.sql import statements

COUNTED_MAX = 10_000
ENDPOINTS_LOOKED_AT_MAX = 10_000
TABLES_SHOWN = 5


def stats(database_url: DatabaseUrl = None, format_: OutputFormat = Format.table) -> None:
    """Show the backlog, what is in flight, the oldest due delivery, endpoints by state, and what died in 24 hours.

    Also the largest tables, their dead rows, and who holds the oldest snapshot, which keeps dead rows from being removed.
    Numbers above 10000 are estimates or lower bounds, and marked as such: no big table is counted.
    """

    async def work(database: Database) -> Record:
        sql = statements()
        found = (await database.rows(sql["stats"], COUNTED_MAX, ENDPOINTS_LOOKED_AT_MAX))[0]
        snapshots = await database.rows(sql["stats_snapshot"])
        tables = await database.rows(sql["stats_tables"])
        return found | {"tables": tables, "oldest_snapshot": snapshots[0] if snapshots else None}

    found = with_database(database_url, work)
    emit_one(_for_people(found) if format_ is Format.table else found, format_)


def _for_people(found: Record) -> Record:
    """Put the marks where the numbers are."""
    at_least = f"more than {COUNTED_MAX}"
    oldest = found["oldest_due_seconds"]
    return {
        "backlog": f"about {found['backlog']} (estimate)" if found["backlog_is_estimate"] else found["backlog"],
        "in flight": at_least if found["in_flight_is_at_least"] else found["in_flight"],
        "oldest due": "nothing is due" if oldest is None else f"{cell(oldest)} s ago",
        "endpoints": f"{found['endpoints_enabled']} enabled, {found['endpoints_paused']} paused, "
        f"{found['endpoints_disabled']} disabled",
        "dead, last 24 h": at_least if found["dead_last_24h_is_at_least"] else found["dead_last_24h"],
        "oldest snapshot": describe_holder(found["oldest_snapshot"]),
        "tables": "; ".join(_table(table) for table in found["tables"][:TABLES_SHOWN]),
    }


def describe_holder(snapshot: Record | None) -> str:
    """Say how old the oldest snapshot is and who holds it."""
    if snapshot is None:
        return "none is held"
    age = "for an unknown time" if snapshot["seconds"] is None else f"for {cell(round(snapshot['seconds'], 1))} s"
    process = "" if snapshot["pid"] is None else f", process {snapshot['pid']}"
    details = ", ".join(str(snapshot[key]) for key in ("user_name", "state") if snapshot[key])
    return f"held {age} by the {snapshot['kind']} {snapshot['name'] or '(unnamed)'}{process}" + (
        f" ({details})" if details else ""
    )


def _table(table: Record) -> str:
    return f"{table['table_name']} {table['bytes'] / 1e6:.1f} MB, {table['dead_rows']} dead rows"
