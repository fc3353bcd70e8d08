"""`dev`, in its order: a migrated database, a receiver that prints, endpoints, and a worker in this very process."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from worker.dev.endpoints_file import EndpointsFile
from worker.dev.keeper import ACTOR, Keeper
from worker.dev.lookup import Lookup
from worker.dev.loopback import open_loopback, serve_loopback
from worker.dev.prepare import CannotDevelopError, prepare
from worker.dev.printer import Printer
from worker.endpoints import EndpointRefusedError, Endpoints
from worker.http.transports import TransportsError
from worker.pipeline.limits import Limits
from worker.service.serve import ServeOptions, serve
from worker.settings import ConfigurationError, Settings
from worker.store.database import DatabaseError, connect

DRAIN_SECONDS = 3.0
"""A developer who pressed Ctrl-C does not wait for a receiver that hangs, nor for who does not read what is printed."""


@dataclass(frozen=True, slots=True)
class DevOptions:
    """`settings`: without guard rails. `is_own`: the database was made for this, else it is somebody's.

    `show` is called in a thread with each request that the receiver got, `tell` with what happens besides.
    """

    settings: Settings
    is_own: bool
    port: int
    file: Path | None
    show: Callable[[Mapping[str, Any]], None]
    tell: Callable[[str], None]


async def develop(options: DevOptions) -> bool:
    """Deliver, print, and follow the file until SIGTERM or SIGINT. True after an orderly end.

    Raises CannotDevelopError, ConfigurationError or StoreError.
    """
    settings = options.settings
    database = connect(settings.database_url)
    lookup = Lookup(database, settings.key_ring)
    try:
        await prepare(database, is_own=options.is_own)
        try:
            listener, address = await open_loopback(options.port)
        except OSError as error:
            raise CannotDevelopError(
                f"port {options.port} cannot be listened on ({error.strerror}): give another --port"
            ) from None
        url = f"{address}/"
        printer = Printer(url, lookup, options.show, options.tell)
        async with Endpoints(
            settings.database_url, actor=ACTOR, rules=settings.rules, allow_http=True, key_ring=settings.key_ring
        ) as endpoints:
            file = await _begin(options, Keeper(url, endpoints, lookup, options.tell))
            async with anyio.create_task_group() as printing:
                printing.start_soon(printer.show_all)
                async with anyio.create_task_group() as group:
                    group.start_soon(serve_loopback, listener, printer.answer)
                    options.tell(f"printing what comes to {url}; Ctrl-C ends it")
                    if file is not None:
                        group.start_soon(file.follow)
                    orderly = await _serve(settings)
                    group.cancel_scope.cancel()
                printer.close()
                printing.cancel_scope.deadline = anyio.current_time() + DRAIN_SECONDS
        return orderly
    finally:
        with anyio.CancelScope(shield=True):
            await database.close()


async def _begin(options: DevOptions, keeper: Keeper) -> EndpointsFile | None:
    """Bring the endpoint that prints, whatever the file is like, and then the others; return what follows the file."""
    try:
        await keeper.bring_printer()
    except (EndpointRefusedError, DatabaseError) as error:
        raise CannotDevelopError(f"the endpoint that prints cannot be made: {error}") from None
    if options.file is None:
        await keeper.bring({})
        return None
    file = EndpointsFile(options.file, keeper, options.tell)
    await file.begin()
    return file


async def _serve(settings: Settings) -> bool:
    try:
        return await serve(ServeOptions(settings, Limits.for_lanes(64, DRAIN_SECONDS)))
    except TransportsError as error:
        raise ConfigurationError(str(error)) from None
