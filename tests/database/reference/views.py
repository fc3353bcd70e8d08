"""docs/reference/views.md: what people and programs read, from the database's own catalogue."""

from collections.abc import Iterator
from itertools import groupby

from reference.markdown import code, page, prose, table
from worker.store.database import Database, Row

INTRODUCTION = """
The views of the schema `webhook`, which are there for people and programs to read. Columns may be added at their end, never
changed; every other table may change with a migration. Who is in `webhook_operator` or `webhook_reader`
([rights](../operations.md#rights)) may read them, the latter without `headers`. In psql, `\\d+ webhook.deliveries` says the
same. [Troubleshooting](../troubleshooting.md) has queries to begin with; `list` and `show` of the [commands](cli.md) print the
same columns.
"""

COLUMNS = """
select c.relname as view, coalesce(obj_description(c.oid, 'pg_class'), '') as comment,
       a.attname as name, format_type(a.atttypid, a.atttypmod) as type,
       coalesce(col_description(c.oid, a.attnum), '') as meaning
from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
where c.relnamespace = 'webhook'::regnamespace and c.relkind = 'v' order by c.relname, a.attnum
"""


async def text(database: Database) -> str:
    """Return the page."""
    return page("Views", INTRODUCTION, *_parts(await database.rows(COLUMNS)))


def _parts(columns: list[Row]) -> Iterator[str]:
    for (view, comment), of_view in groupby(columns, lambda row: (row["view"], row["comment"])):
        yield f"## {view}"
        yield prose(_said(f"webhook.{view}", comment))
        yield table(("column", "type", ""), [_row(view, column) for column in of_view])


def _row(view: str, column: Row) -> tuple[str, str, str]:
    meaning = _said(f"webhook.{view}.{column['name']}", column["meaning"])
    return code(column["name"]), column["type"], prose(meaning)


def _said(what: str, comment: str) -> str:
    assert comment, f"{what} has no comment: give it one in sql/functions/800_comments.sql"
    return comment
