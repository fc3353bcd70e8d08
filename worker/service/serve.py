"""A worker process from start to exit."""

import logging
import os
import resource
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio

from worker.core.retention import Retention
from worker.http.pool import IDLE_MAX
from worker.http.resolver import Resolver
from worker.http.transports import make_sender
from worker.pipeline.limits import Limits
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.ports import Sender, StoreError
from worker.pipeline.tally import Tally
from worker.service.compiling import settle_compiler
from worker.service.health import Health
from worker.service.housekeeping import HouseCounts, keep_house
from worker.service.logs import say_always
from worker.service.measured import Measured
from worker.service.monitor import monitor
from worker.service.notify import ServiceManager
from worker.service.presence import be_present
from worker.service.sampler import Sampler
from worker.service.status import feed_watchdog, tell_ready, tell_status
from worker.settings import ConfigurationError, ListenAddress, Settings
from worker.store.database import connect
from worker.store.migrate import Schema, read_schema
from worker.store.postgres import PostgresStore

WATCH_SECONDS = 1.0

log = logging.getLogger("worker")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a worker process runs. `once`: end when nothing is due now; future retries stay. `tracing`: a span an attempt.

    `read_limits` reads the limits again, on SIGHUP, and may raise ConfigurationError; without it, SIGHUP drains like SIGTERM.
    """

    settings: Settings
    limits: Limits
    once: bool = False
    retention: Retention = field(default_factory=Retention)
    metrics_listen: ListenAddress | None = None
    metrics_endpoints: int = 0
    read_limits: Callable[[], Limits] | None = None
    tracing: bool = False


async def serve(options: ServeOptions) -> bool:
    """Deliver until SIGTERM or SIGINT, or until nothing is due (`once`). True after an orderly end, False if cut short.

    Raises DatabaseUnavailableError, IncompatibleSchemaError or TransportsError if it cannot start.
    """
    settings, manager = options.settings, ServiceManager()
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
    tally = None if options.metrics_listen is None else Tally()
    pipeline = Pipeline(
        store,
        sender,
        options.limits,
        schema.message_id_prefix,
        once=options.once,
        tally=tally,
    )
    sampler = Sampler(store, lambda: pipeline.counts.delivered)
    house = HouseCounts()
    log.info("worker %s delivers with %d lanes", name, options.limits.concurrency)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_obey_signals, pipeline, options, manager, group.cancel_scope)
            group.start_soon(keep_house, store, options.retention, house)
            group.start_soon(_watch, pipeline)
            group.start_soon(be_present, store, pipeline)
            group.start_soon(_beside, settle_compiler, lambda: pipeline.counts.claimed)
            if manager.listens or tally is not None:
                group.start_soon(_beside, sampler.run)
            if manager.listens:
                group.start_soon(tell_ready, pipeline, manager)
                group.start_soon(_beside, tell_status, pipeline, manager, lambda: sampler.latest)
                group.start_soon(feed_watchdog, pipeline, manager)
            if options.metrics_listen is not None and tally is not None:
                health = Health(store, pipeline)
                measured = Measured(pipeline, tally, house, sampler, health, options.metrics_endpoints)
                group.start_soon(_beside, monitor, measured, options.metrics_listen)
            await pipeline.run()
            group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(2):
                await sender.aclose()
            with anyio.move_on_after(2):
                with anyio.move_on_after(1), suppress(StoreError):  # else it is listed as silent for a while
                    await store.forget_me()
                await store.close()
    pipeline.failures.settle(time.monotonic(), all_of_them=True)
    counts = pipeline.counts
    log.info(
        "stopped: %d delivered, %d to be retried, %d dead, %d given back unsent, %d outcomes fenced off, %d not recorded",
        counts.delivered, counts.retried, counts.dead, counts.released, pipeline.fenced, pipeline.in_hand,
    )  # fmt: skip
    return not pipeline.in_hand


async def _beside(task: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Run what only looks on: if it fails, deliveries must not."""
    try:
        await task(*args)
    except Exception:
        log.exception("%s has ended by an error of its own, deliveries go on: please report it", task.__qualname__)


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


async def _obey_signals(pipeline: Pipeline, options: ServeOptions, manager: ServiceManager, process: anyio.CancelScope) -> None:
    """The first drains; the second leaves at once, and the leases tell others what was left. SIGHUP reads the limits again."""
    told = False  # by a signal: an operator may have had it drain before
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP and options.read_limits is not None:
                manager.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
                _reload(pipeline, options.read_limits)
                if pipeline.claimed.is_set() and not told:
                    manager.tell("READY=1")
            elif told:
                log.warning("second signal: leaving at once; expired leases will hand over what is in flight")
                process.cancel()
                return
            else:
                told = True
                log.info("draining: %d deliveries in hand", pipeline.in_hand)
                manager.tell("STOPPING=1")
                if not pipeline.stopping:
                    pipeline.stop()


def _reload(pipeline: Pipeline, read_limits: Callable[[], Limits]) -> None:
    """Let the limits hold that are in the file now. A file that cannot be used changes nothing."""
    try:
        limits = read_limits()
    except ConfigurationError as error:
        log.error("the limits stay as they were: %s", error)  # noqa: TRY400 - its text says it all
        return
    pipeline.resize(limits)
    log.info(
        "limits read again: %d lanes, slow share %g, %g s to drain",
        limits.concurrency, limits.slow_share, limits.drain_seconds,
    )  # fmt: skip


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
