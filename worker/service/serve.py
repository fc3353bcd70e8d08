"""A worker process from start to exit."""

import logging
import os
import resource
import secrets
import signal
import socket
import time
from dataclasses import dataclass, field

import anyio

from worker import __version__
from worker.core.retention import Retention
from worker.http.pool import IDLE_MAX
from worker.http.resolver import Resolver
from worker.http.transports import make_sender
from worker.pipeline.limits import Limits
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.ports import Sender
from worker.service.housekeeping import keep_house
from worker.service.logs import say_always
from worker.settings import Settings
from worker.store.database import connect
from worker.store.migrate import Schema, read_schema
from worker.store.postgres import PostgresStore

WATCH_SECONDS = 1.0

log = logging.getLogger("worker")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a worker process runs. `once`: end when nothing is due now; future retries stay. `tracing`: a span an attempt."""

    settings: Settings
    limits: Limits
    once: bool = False
    retention: Retention = field(default_factory=Retention)
    tracing: bool = False


async def serve(options: ServeOptions) -> bool:
    """Deliver until SIGTERM or SIGINT, or until nothing is due (`once`). True after an orderly end, False if cut short.

    Raises DatabaseUnavailableError, IncompatibleSchemaError or TransportsError if it cannot start.
    """
    settings = options.settings
    schema = await _schema(settings.database_url)
    name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    say_always(worker=name)
    store = PostgresStore(settings.database_url, name, settings.key_ring)
    idle_max = _idle_connections_max(options.limits.concurrency)
    sender: Sender = make_sender(
        settings.transports, Resolver(settings.rules), allow_http=settings.allow_http, idle_max=idle_max
    )
    if options.tracing:
        sender = _traced(sender, name)
    pipeline = Pipeline(
        store,
        sender,
        options.limits,
        schema.message_id_prefix,
        user_agent=f"webhook-worker/{__version__}",
        once=options.once,
    )
    log.info("worker %s delivers with %d lanes", name, options.limits.concurrency)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_stop_on_signal, pipeline, group.cancel_scope)
            group.start_soon(keep_house, store, options.retention)
            group.start_soon(_watch, pipeline)
            await pipeline.run()
            group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2):
            await store.close()
            await sender.aclose()
    pipeline.failures.settle(time.monotonic(), all_of_them=True)
    counts = pipeline.counts
    log.info(
        "stopped: %d delivered, %d to be retried, %d dead, %d given back unsent, %d outcomes fenced off, %d not recorded",
        counts.delivered, counts.retried, counts.dead, counts.released, pipeline.fenced, pipeline.in_hand,
    )  # fmt: skip
    return not pipeline.in_hand


def _traced(sender: Sender, worker: str) -> Sender:
    """Trace what it sends, if what that needs is installed."""
    try:
        from worker.service.tracing import traced
    except ImportError as error:
        log.warning("OTEL_… asks for traces, and what makes them is missing: pip install 'webhook-worker[otel]' (%s)", error)
        return sender
    return traced(sender, worker)


def _idle_connections_max(lanes: int) -> int:
    """Ask for as many open files as this process may have; return how many of them kept connections may take: half."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = max(soft, 4 * IDLE_MAX) if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    if lanes > files // 2:
        log.warning("%d lanes may need more than the %d files that this process may open: raise LimitNOFILE", lanes, files)
    return min(IDLE_MAX, files // 2)


async def _schema(dsn: str) -> Schema:
    database = connect(dsn)
    try:
        return await read_schema(database)
    finally:
        await database.close()


async def _stop_on_signal(pipeline: Pipeline, process: anyio.CancelScope) -> None:
    """The first signal drains; the second leaves at once, and the leases tell others what was left."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            if pipeline.stopping:
                log.warning("second signal: leaving at once; expired leases will hand over what is in flight")
                process.cancel()
                return
            log.info("draining: %d deliveries in hand", pipeline.in_hand)
            pipeline.stop()


async def _watch(pipeline: Pipeline) -> None:
    """Say once that the database is away, and once that it is back; and how many failures were not told of, a minute later."""
    away = False
    while True:
        pipeline.failures.settle(time.monotonic())
        error = pipeline.store_error
        if error is not None and not away:
            log.warning("the store fails, deliveries wait: %s", error, extra={"error": type(error).__name__})
        elif error is None and away:
            log.info("the store is back")
        away = error is not None
        await anyio.sleep(WATCH_SECONDS)
