"""`webhook-worker enqueue`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from worker.cli.options import DatabaseUrl, OutputFormat, parse_moment
from worker.cli.output import Format, emit_one, say
from worker.cli.session import FailedError, with_database
from worker.core.backoff import parse_duration
from worker.core.trace import trace_context
from worker.store.database import Database
from worker.store.sql import statements

PAYLOAD_BYTES_MAX = 64 * 1024 * 1024  # the database's own limit is what counts; this bounds what is read


def enqueue(
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="Like order.created.")],
    file: Annotated[str | None, typer.Option("--file", metavar="PATH", help="The payload's exact bytes; - for stdin.")] = None,
    payload: Annotated[str | None, typer.Option("--payload", metavar="JSON", help="The payload itself.")] = None,
    tenant: Annotated[str, typer.Option("--tenant", metavar="T", help="Whose event it is.")] = "",
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", metavar="K", help="Given again, queues nothing and prints the first id.")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="Deliver then (RFC 3339).")] = None,
    in_: Annotated[str | None, typer.Option("--in", metavar="DURATION", help="Deliver after 90s, 15m, 2h …")] = None,
    traceparent: Annotated[
        str | None,
        typer.Option("--traceparent", metavar="CONTEXT", help="The trace that it belongs to (W3C); receivers get it."),
    ] = None,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Queue one event; print its id. Without --file and --payload, the payload is read from stdin."""
    if file is not None and payload is not None:
        raise typer.BadParameter("give --file or --payload, not both", param_hint="--payload")
    if at is not None and in_ is not None:
        raise typer.BadParameter("give --at or --in, not both", param_hint="--in")
    if traceparent is not None and trace_context(traceparent) is None:
        raise typer.BadParameter("it is not like 00-<32 hex digits>-<16 hex digits>-01", param_hint="--traceparent")
    moment = parse_moment(at, "--at") if at is not None else None
    delay = _seconds(in_) if in_ is not None else 0.0
    text = payload if payload is not None else _read(file or "-")
    _check(text)

    async def work(database: Database) -> int:
        enqueued: int = await database.value(
            statements()["event_enqueue"], event_type, text, tenant, idempotency_key, moment, delay, traceparent
        )
        return enqueued

    event_id = with_database(database_url, work)
    if format_ is Format.table:
        typer.echo(event_id)
    else:
        emit_one({"id": event_id}, format_)


def _read(file: str) -> str:
    if file == "-":
        if sys.stdin.isatty():
            say("reading the payload from the terminal; end it with Ctrl-D")
        data = sys.stdin.buffer.read(PAYLOAD_BYTES_MAX + 1)
    else:
        try:
            with Path(file).open("rb") as opened:
                data = opened.read(PAYLOAD_BYTES_MAX + 1)
        except OSError as error:
            raise FailedError(f"{file} cannot be read: {error.strerror}") from None
    if len(data) > PAYLOAD_BYTES_MAX:
        raise FailedError(f"the payload is larger than {PAYLOAD_BYTES_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FailedError(f"the payload is not UTF-8 (byte {error.start}), and Postgres stores text") from None


def _check(text: str) -> None:
    if "\0" in text:
        raise FailedError("the payload contains a NUL character, which Postgres cannot store as text")
    if any("\ud800" <= character <= "\udfff" for character in text):  # how Python shows a command line's other bytes
        raise FailedError("the payload is not UTF-8, and Postgres stores text")


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--in") from None
