"""What commands print: data on stdout as a table, a JSON array or JSON lines; chatter on stderr.

Stored text comes from strangers (URLs, reasons, responses), so nothing of it reaches a terminal unescaped: neither
control characters nor rich's markup.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

Record = Mapping[str, Any]


class Format(StrEnum):
    """How data is printed."""

    table = "table"
    json = "json"
    jsonl = "jsonl"


def emit_list(records: Sequence[Record], format_: Format, columns: Sequence[str] = ()) -> None:
    """Print records: all their fields as JSON; of them `columns` (default: all) as a table."""
    if format_ is Format.json:
        _write("[" + ",\n ".join(to_json(record) for record in records) + "]")
    elif format_ is Format.jsonl:
        for record in records:
            _write(to_json(record))
    elif records:
        _print_table(columns or tuple(records[0]), [[record[name] for name in columns or record] for record in records])


def emit_one(record: Record, format_: Format) -> None:
    """Print one record: an object as JSON, a field a line as a table."""
    if format_ is not Format.table:
        _write(to_json(record))
        return
    width = max(len(name) for name in record)
    for name, value in record.items():
        _write(f"{name.ljust(width)}  {cell(value)}".rstrip())


def emit_line(record: Record, format_: Format, line: str) -> None:
    """Print one record of a stream at once: as JSON, or to people as a line of its own."""
    _write(safe(line) if format_ is Format.table else to_json(record))
    sys.stdout.flush()


def say(text: str) -> None:
    """Print a line of chatter to stderr."""
    sys.stderr.write(safe(text) + "\n")
    sys.stderr.flush()


def to_json(record: Record) -> str:
    """Write an object on one line, in ASCII: what a terminal could mistake for a command is escaped."""
    return json.dumps(record, default=_to_json).replace("\x7f", "\\u007f")


def cell(value: Any) -> str:
    """Return a value as people read it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}" if abs(value) >= 1e5 else f"{value:.3f}".rstrip("0").rstrip(".")
        case datetime():
            return timestamp(value)
        case Mapping():
            return ", ".join(f"{safe(str(name))}: {cell(inner)}" for name, inner in value.items()) or "-"
        case list() | tuple():
            return " ".join(cell(inner) for inner in value) or "-"
    return safe(str(value))


def safe(text: str) -> str:
    """Return the text with every control, formatting and direction-changing character escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def timestamp(moment: datetime) -> str:
    """Return RFC 3339 in UTC, to the microsecond that Postgres keeps."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    numeric = [all(isinstance(row[n], (int, float, type(None))) for row in rows) for n in range(len(columns))]
    lines = [[cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        _print_folded(columns, numeric, lines)
        return
    # A pipe has no width to fold for: one record is one line, with nothing cut off and nothing after its last cell.
    widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
    for line in (columns, *lines):
        aligned = zip(line, widths, numeric, strict=True)
        _write("  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in aligned).rstrip())


def _print_folded(columns: Sequence[str], numeric: Sequence[bool], lines: Sequence[Sequence[str]]) -> None:
    """Print a table as wide as the terminal: what is longer goes on in the next line of its cell."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, right in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    Console(highlight=False).print(table)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return timestamp(value)
    raise TypeError(type(value).__name__)
