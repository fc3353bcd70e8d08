"""`dev`, in its order: a migrated database, a receiver that prints, endpoints, and a worker in this very process."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from worker.dev.endpoints_file import ACTOR, EndpointsFile
from worker.dev.lookup import Lookup
from worker.dev.loopback import open_loopback, serve_loopback
from worker.dev.printer import Printer
from worker.endpoints import Endpoints
from worker.pipeline.limits import Limits
from worker.service.serve import ServeOptions, serve
from worker.settings import Settings
from worker.store.database import Database, connect
from worker.store.migrate import migrate_up, read_schema
from worker.store.sql import statements

DRAIN_SECONDS = 3.0
"""A developer who pressed Ctrl-C does not wait for a receiver that hangs."""


class CannotDevelopError(RuntimeError):
    """It cannot begin. The text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class DevOptions:
    """`settings`: without guard rails. `is_own`: the database was made for this, else it is somebody's.

    `show` is called with each request that the receiver got, `tell` with what happens besides.
    """

    settings: Settings
    is_own: bool
    port: int
    file: Path | None
    show: Callable[[Mapping[str, Any]], None]
    tell: Callable[[str], None]


async def develop(options: DevOptions) -> bool:
    """Deliver, print, and follow the file until SIGTERM or SIGINT. True after an orderly end."""
    settings = options.settings
    database = connect(settings.database_url)
    lookup = Lookup(database, settings.key_ring)
    try:
        await _prepare(database, is_own=options.is_own)
        try:
            listener, url = await open_loopback(options.port)
        except OSError as error:
            raise CannotDevelopError(
                f"port {options.port} cannot be listened on ({error.strerror}): give another --port"
            ) from None
        async with (
            Endpoints(
                settings.database_url, actor=ACTOR, rules=settings.rules, allow_http=True, key_ring=settings.key_ring
            ) as endpoints,
            anyio.create_task_group() as group,
        ):
            group.start_soon(serve_loopback, listener, Printer(lookup, options.show).answer)
            file = EndpointsFile(options.file, f"{url}/", endpoints, lookup, options.tell)
            await file.look()
            options.tell(f"printing what comes to {url}/; Ctrl-C ends it")
            group.start_soon(file.follow)
            orderly = await serve(ServeOptions(settings, Limits.for_lanes(64, DRAIN_SECONDS)))
            group.cancel_scope.cancel()
        return orderly
    finally:
        with anyio.CancelScope(shield=True):
            await database.close()


async def _prepare(database: Database, *, is_own: bool) -> None:
    """Migrate what is ours or empty. What workers elsewhere deliver from is not for trying things out."""
    if is_own or not await database.value(statements()["migrate_exists"]):
        await migrate_up(database)
        return
    await read_schema(database)
    workers = await database.rows(statements()["workers"], None)
    if others := sorted({row["host"] for row in workers if row["state"] != "silent"} - {socket.gethostname()}):
        raise CannotDevelopError(
            f"workers on {', '.join(others)} deliver from this database: give `dev` one of its own, or let "
            "`webhook-worker listen` pass its events to you"
        )
