"""`webhook-worker deliveries export`: everything that matches, a page at a time, in as much memory as a page takes."""

import sys
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Annotated

import typer

from worker.cli.delivery_filters import Filters
from worker.cli.options import one_of
from worker.cli.output import Record, to_json
from worker.store.database import Database, Row
from worker.store.sql import statements

PAGE_ROWS = 1_000
PAYLOAD_ROWS = 50
"""A page's payloads are in memory at once: at most some 13 MB of 256 KiB each."""


class ExportFormat(StrEnum):
    """How rows are written: an object a line, or one array of them."""

    jsonl = "jsonl"
    json = "json"


Exported = Annotated[
    ExportFormat,
    typer.Option("--format", parser=one_of(ExportFormat), metavar="jsonl|json", help="An object a line, or one array."),
]


async def export(database: Database, filters: Filters, format_: ExportFormat, *, payloads: bool) -> int:
    """Write what matches to stdout, newest first; return how many rows."""
    opened, between, closed = ("[", ",\n ", "]\n") if format_ is ExportFormat.json else ("", "\n", "\n")
    count = 0
    async for record in _rows(database, filters, payloads=payloads):
        sys.stdout.write((between if count else opened) + to_json(record))
        count += 1
    sys.stdout.write(closed if count else "[]\n" if format_ is ExportFormat.json else "")
    return count


async def _rows(database: Database, filters: Filters, *, payloads: bool) -> AsyncIterator[Record]:
    sql, after = statements(), None
    while page := await database.rows(
        sql["deliveries_page"], filters.as_json(), after, PAYLOAD_ROWS if payloads else PAGE_ROWS
    ):
        carried: dict[int, Row] = {}
        if payloads:
            ids = ",".join(str(row["id"]) for row in page)
            carried = {row["id"]: row for row in await database.rows(sql["deliveries_payloads"], ids)}
        for row in page:
            yield {**row, **carried.get(row["id"], {"content_type": None, "payload": None})} if payloads else row
        after = page[-1]["id"]
