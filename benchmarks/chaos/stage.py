"""Everything that a run needs, set up and taken down: a database, receivers, proxies, workers, and what is between them."""

import base64
import json
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from benchmarks.chaos.clock import FakeClock
from benchmarks.chaos.commands import CannotRunError, is_root
from benchmarks.chaos.endpoints import NAME, SITES, Site
from benchmarks.chaos.fleet import Fleet, Worker, fleet, with_own_resolver
from benchmarks.chaos.names import NameServer, name_server
from benchmarks.chaos.network import Network, network
from benchmarks.chaos.pgbouncer import pgbouncer
from benchmarks.chaos.postgres import Postgres, postgres
from benchmarks.chaos.proxy import BlackHole, Proxy
from benchmarks.stage import ROOT, interpreters, worker_environment
from worker.store.database import Database, connect
from worker.store.migrate import migrate_up
from worker.store.sql import statements

CABLED = "CPython-cabled"
"""The worker whose cable to the database can be cut."""

RESOLVER = "nameserver {address}\noptions timeout:1 attempts:1\n"

_T = TypeVar("_T")


@dataclass
class Stage:
    """What there is. `missing` says of what there is not, by its name, why."""

    folder: Path
    dsn: str
    postgres: Postgres
    fleet: Fleet
    receivers: Process
    proxies: list[Proxy]
    endpoints: dict[int, str]
    network: Network | None
    names: NameServer | None
    clock: FakeClock | None
    missing: dict[str, str] = field(default_factory=dict)

    def calm(self) -> None:
        """Have no receiver fail by itself any more."""
        self.receivers.send_signal(signal.SIGUSR1)

    @property
    def arrivals(self) -> Path:
        """The receivers' log."""
        return self.folder / "arrivals"


def _new_folder() -> Path:
    """Make a folder that the server's user may look into: it has to find its own in it."""
    folder = Path(tempfile.mkdtemp(prefix="webhook-worker-chaos-"))
    folder.chmod(0o755)
    return folder


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Set everything up with the workers running."""
    missing: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        folder = _new_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)

        async def optional(what: str, context: AbstractAsyncContextManager[_T]) -> _T | None:
            try:
                return await stack.enter_async_context(context)
            except CannotRunError as error:
                missing[what] = str(error)
                return None

        net = await optional("network", network())
        address = net.address if net else "127.0.0.1"
        server = await stack.enter_async_context(postgres(folder, ["127.0.0.1", *([net.database_address] if net else [])]))
        if not is_root():
            missing["disk"] = "only root may mount a disk of its own for Postgres"
        key = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        prefix = await _prepare(server.dsn())
        receivers, port = await stack.enter_async_context(_receivers(address, folder / "arrivals", key, prefix))
        proxies = [
            await stack.enter_async_context(Proxy(address, port).listening(address)) for site in SITES if site.via == "proxy"
        ]
        nowhere = await stack.enter_async_context(Proxy(address, port).listening(address))
        nowhere.toxic = BlackHole()
        names = await optional("names", name_server(address, NAME, address)) if net else None
        if net is None:
            missing["names"] = missing["network"]
        doors = iter(proxies)
        urls = {
            site: f"http://{NAME if names and site.via == 'name' else address}:{_port(site, port, doors, nowhere)}"
            f"/{site.behaviour}/{site.endpoint.name}"
            for site in SITES
        }
        endpoints = await _register(server.dsn(), urls, key)
        bouncer = await optional("pgbouncer", _pgbouncer(folder, server))
        clock = _clock(folder, missing)
        workers = list(_workers(folder, server, net, bouncer, clock, address if names else None))
        running = await stack.enter_async_context(fleet(folder, workers))
        yield Stage(folder, server.dsn(), server, running, receivers, proxies, endpoints, net, names, clock, missing)


def _port(site: Site, port: int, doors: Iterator[Proxy], nowhere: Proxy) -> int:
    if site.via == "proxy":
        return next(doors).port
    return nowhere.port if site.via == "nowhere" else port


async def _prepare(dsn: str) -> str:
    """Make the schema, with circuits that are quick to look again; return the prefix of message ids."""
    database = connect(dsn)
    try:
        await migrate_up(database)
        prefix: str = await database.value(statements()["chaos_prepare"])
    finally:
        await database.close()
    return prefix


async def _register(dsn: str, urls: dict[Site, str], key: str) -> dict[int, str]:
    database = connect(dsn)
    try:
        return {await _endpoint(database, site, url, key): site.endpoint.name for site, url in urls.items()}
    finally:
        await database.close()


async def _endpoint(database: Database, site: Site, url: str, key: str) -> int:
    id_: int = await database.value(statements()["chaos_endpoint"], url, json.dumps(site.settings), key)
    return id_


@asynccontextmanager
async def _receivers(address: str, log: Path, key: str, prefix: str) -> AsyncIterator[tuple[Process, int]]:
    command = [*_module("receivers"), address, str(log), key, prefix]
    async with await anyio.open_process(command, cwd=ROOT, stderr=None) as process:
        assert process.stdout is not None
        try:
            yield process, int(await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 20))
        finally:
            process.terminate()


def _module(name: str) -> list[str]:
    return [interpreters()["CPython"], "-m", f"benchmarks.chaos.{name}"]


@asynccontextmanager
async def producer(number: int, per_second: float, seconds: float, dsn: str, log: Path) -> AsyncIterator[None]:
    """Run one producer; leave the context when it has ended."""
    command = [*_module("producers"), str(number), str(per_second), str(seconds), str(log)]
    async with await anyio.open_process(
        command, cwd=ROOT, env={**os.environ, "DATABASE_URL": dsn}, stdout=None, stderr=None
    ) as process:
        yield
        if await process.wait():
            raise RuntimeError(f"producer {number} ended with status {process.returncode}")


@asynccontextmanager
async def _pgbouncer(folder: Path, server: Postgres) -> AsyncIterator[str]:
    """Run one, and see that a worker works through it."""
    async with pgbouncer(folder, server.port) as dsn:
        for python in interpreters().values():
            command = [python, "-m", "worker", "run", "--once"]
            tried = await anyio.run_process(command, cwd=ROOT, env=worker_environment(dsn), check=False)
            if tried.returncode != 0:
                raise CannotRunError(f"no worker starts through it: {tried.stderr.decode().strip().splitlines()[-1]}")
        yield dsn


def _clock(folder: Path, missing: dict[str, str]) -> FakeClock | None:
    try:
        return FakeClock(folder)
    except CannotRunError as error:
        missing["clock"] = str(error)
        return None


def _workers(
    folder: Path, server: Postgres, net: Network | None, bouncer: str | None, clock: FakeClock | None, resolver: str | None
) -> list[Worker]:
    """Return a worker on each runtime for each way to the database that there is, and one with a clock of its own."""
    prefix: list[str] = []
    if resolver:
        resolv_conf = folder / "resolv.conf"
        resolv_conf.write_text(RESOLVER.format(address=resolver))
        prefix = with_own_resolver(resolv_conf)

    def environment(dsn: str) -> dict[str, str]:
        allowed = f"127.0.0.0/8 {net.address}/32" if net else "127.0.0.0/8"
        return {**worker_environment(dsn), "WEBHOOK_WORKER_ALLOW_NETWORKS": allowed}

    pythons = interpreters()
    workers = [Worker(name, python, environment(server.dsn()), prefix) for name, python in pythons.items()]
    if net:
        cabled = environment(server.dsn(net.database_address))
        workers.append(Worker(CABLED, pythons["CPython"], cabled, [*net.prefix, *prefix]))
    if bouncer:
        workers += [Worker(f"{name}-pgbouncer", python, environment(bouncer), prefix) for name, python in pythons.items()]
    if clock:
        moved = {**environment(server.dsn()), **clock.environment}
        workers.append(Worker("CPython-clock", pythons["CPython"], moved, prefix))
    return workers
