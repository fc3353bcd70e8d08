"""`webhook-worker dev`: everything on this machine, for whoever writes a producer or a receiver (docs/adr/0023)."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

import anyio
import typer

from worker.cli.options import DatabaseUrl, OutputFormat, whole_number
from worker.cli.output import Format, emit_line, safe, say
from worker.cli.session import FailedError
from worker.embedded import EmbeddedPostgresError, embedded_postgres
from worker.service import logs
from worker.settings import NO_GUARD_RAILS, ExitCode, Settings, without_password

PORT = 8470


def dev(
    endpoints: Annotated[
        Path | None,
        typer.Option("--endpoints", metavar="FILE", help="Endpoints as for `endpoints import`; its changes hold at once."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Keep the embedded Postgres' data here. Default: nothing is kept."),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", parser=whole_number(65535), metavar="N", help="Of the receiver that prints.")
    ] = PORT,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Run a Postgres, a worker without guard rails, and a receiver that prints, until Ctrl-C.

    Without a database URL, the Postgres is an embedded one. Commands typed in another terminal take effect at once, and so does
    what changes in FILE.
    """
    if data is not None and database_url is not None:
        raise typer.BadParameter("with --database-url, the data is kept there", param_hint="--data")
    for number in (signal.SIGTERM, signal.SIGHUP):  # until the worker watches for them; see worker/cli/run.py
        signal.signal(number, lambda *_: os._exit(ExitCode.OK))
    logs.set_up("text", "info")
    try:
        orderly = _run(endpoints, data, port, database_url, format_)
    except KeyboardInterrupt:  # it came before the worker watched for it
        orderly = True
    raise typer.Exit(ExitCode.OK if orderly else ExitCode.FAILED)


def _run(endpoints: Path | None, data: Path | None, port: int, database_url: str | None, format_: Format) -> bool:
    from worker.dev.develop import DevOptions, develop
    from worker.dev.prepare import CannotDevelopError

    is_own = data is not None or not (database_url or os.environ.get("DATABASE_URL"))
    with ExitStack() as stack:
        try:
            dsn = stack.enter_context(embedded_postgres(data)) if is_own else database_url
            settings = Settings.load(database_url=dsn, guards=NO_GUARD_RAILS)
            source = ("--data" if data else "embedded") if is_own else "--database-url" if database_url else "DATABASE_URL"
            say(f"using database {_named(settings.database_url)} (from {source})")
            _say_how_to_join(settings.database_url if is_own else None)
            options = DevOptions(settings, is_own, port, endpoints, lambda record: _show(record, format_), say)
            uvloop = sys.implementation.name == "cpython" and sys.platform != "win32"
            return anyio.run(develop, options, backend_options={"use_uvloop": uvloop})
        except (CannotDevelopError, EmbeddedPostgresError) as error:
            raise FailedError(str(error)) from None


def _named(dsn: str) -> str:
    """Return host and name of a database, and nothing else of its URL."""
    parts = urlsplit(without_password(dsn))
    asked = parse_qs(parts.query)
    host = parts.netloc.rpartition("@")[2] or ",".join(asked.get("host", ["its default host"]))
    return f"{host}/{parts.path.strip('/') or 'its default name'}"


def _say_how_to_join(dsn: str | None) -> None:
    """Say what to paste into another terminal, so that commands there mean this database, and local URLs."""
    exports = {
        "WEBHOOK_WORKER_ALLOW_NETWORKS": " ".join(NO_GUARD_RAILS.allow_network or ()),
        "WEBHOOK_WORKER_ALLOW_PORTS": " ".join(NO_GUARD_RAILS.allow_port or ()),
        "WEBHOOK_WORKER_ALLOW_HTTP": "1",
    }
    if dsn is not None:
        exports = {"DATABASE_URL": dsn, **exports}
    say("export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in exports.items()))


def _show(record: Mapping[str, Any], format_: Format) -> None:
    if format_ is not Format.table:
        emit_line(record, format_, "")
        return
    clock = record["at"].astimezone().strftime("%H:%M:%S")
    whose = f"  tenant {record['tenant']}" if record["tenant"] else ""
    by = "" if record["endpoint_id"] is None else f" (endpoint {record['endpoint_id']})"
    event_type = record["event_type"] or "no event"
    lines = [f"{clock}  {event_type}{whose}  {record['webhook_id']}  signature {record['signature']}{by}"]
    for line in [*lines, *_pretty(record["payload"]).split("\n")]:
        typer.echo(safe(line))


def _pretty(payload: str) -> str:
    """Return JSON on several lines, if these say exactly what was sent, and anything else as it is."""
    try:
        document = json.loads(payload)
        plain = (json.dumps(document, separators=marks, ensure_ascii=False) for marks in ((",", ":"), (", ", ": ")))
        return json.dumps(document, indent=2, ensure_ascii=False) if payload in plain else payload
    except (ValueError, RecursionError):
        return payload
