"""Who takes part, each as its own documentation advises: its tables, how its producer enqueues, and the command of its worker.

All sign the same 1 KiB of JSON and send it to one of a hundred paths of one receiver, 64 at once in a process.
"""

import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmarks.compare.installed import CannotRunError, debian, go, npm
from benchmarks.compare.ports import free_port, wait_for_port
from benchmarks.stage import ROOT, interpreters, on_database, worker_environment
from worker.store.database import Database, connect
from worker.store.migrate import migrate_up

LANES = 64
ENDPOINTS = 100
PAYLOAD = json.dumps({"type": "order.created", "data": "x" * 960})
BASELINE = ROOT / "benchmarks/baseline"
CONTESTANTS = ROOT / "benchmarks/contestants"

Enqueue = Callable[[int], Awaitable[list[str]]]
"""Commit so many deliveries; their `webhook-id`s."""


@dataclass(frozen=True)
class Stage:
    """Where a contestant plays: a fresh database, the beginning of the receivers' URLs, what a service of its own told."""

    dsn: str
    prefix: str
    service: str = ""

    @property
    def receiver(self) -> str:
        """Host and port of the receiver."""
        return urlsplit(self.prefix).netloc


@dataclass(frozen=True)
class Command:
    """One process of a worker."""

    arguments: Sequence[str | Path]
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = ROOT


class Contestant(ABC):
    """One worker, in one configuration."""

    name: str
    family: str
    """What a plot groups it by."""
    deliveries: int
    """Of one run: some seconds' worth, and for a runtime with a compiler what that needs to see."""
    waits = True
    """It stays for events to come, so that its latency can be measured."""

    def install(self) -> None:  # noqa: B027 - most need nothing
        """Bring what is missing. Raises `CannotRunError`."""

    @contextmanager
    def service(self) -> Iterator[tuple[str, list[int]]]:
        """Run what it needs beside Postgres; yield what the worker must be told, and the processes to account for."""
        with nullcontext():
            yield "", []

    @abstractmethod
    def prepare(self, stage: Stage) -> None:
        """Make its tables."""

    @abstractmethod
    def producer(self, stage: Stage) -> Any:
        """Return an asynchronous context with an `Enqueue`."""

    @abstractmethod
    def commands(self, stage: Stage) -> list[Command]:
        """Return the processes of its worker."""


class InSql(Contestant):
    """One whose producer is a statement: `$1` deliveries, `$2` the URL's beginning, `$3` the payload."""

    schema: str
    enqueue: str

    def prepare(self, stage: Stage) -> None:
        """Run the script."""
        on_database(stage.dsn, lambda database: database.script([self.schema, "reset search_path"]))

    @asynccontextmanager
    async def producer(self, stage: Stage) -> AsyncIterator[Enqueue]:
        """Use one connection."""
        database = connect(stage.dsn)

        async def enqueue(count: int) -> list[str]:
            ids: list[str] = json.loads(await database.value(self.enqueue, count, stage.prefix, PAYLOAD))
            return ids

        try:
            yield enqueue
        finally:
            await database.close()


@dataclass
class Ours(InSql):
    """This project's worker, with everything on."""

    runtime: str
    processes: int = 1
    lanes: int = LANES
    endpoints: int = ENDPOINTS

    def __post_init__(self) -> None:
        many = f", {self.processes} processes" if self.processes > 1 else ""
        self.name, self.family = f"webhook-worker, {self.runtime}{many}", "webhook-worker"
        self.deliveries = 60_000 if self.runtime == "CPython" else 160_000
        self.enqueue = (
            "select json_agg('msg_' || m.message_id_prefix || '_' || id)::text from webhook.meta as m, "
            "webhook.enqueue_many(array(select 'path.' || 1 + floor(random() * "
            f"{self.endpoints})::int from generate_series(1, $1::int)), array_fill($3::text, array[$1::int])) as id "
            "where $2::text <> ''"
        )

    def prepare(self, stage: Stage) -> None:
        """Migrate, and create the endpoints, each with a type of event of its own: one event, one delivery, as for all."""

        async def work(database: Database) -> None:
            await migrate_up(database)
            for first in range(1, self.endpoints + 1, 1000):
                await database.value(
                    "select count(*) from generate_series($2::int, $3::int) as n cross join lateral webhook.create_endpoint("
                    "$1::text || n, settings => jsonb_build_object('event_types', jsonb_build_array('path.' || n)))",
                    stage.prefix, first, min(first + 999, self.endpoints),
                )  # fmt: skip

        on_database(stage.dsn, work)

    def commands(self, stage: Stage) -> list[Command]:
        """Run `webhook-worker run`."""
        arguments = (interpreters()[self.runtime], "-m", "worker", "run", "--concurrency", str(self.lanes))
        return [Command(arguments, worker_environment(stage.dsn))] * self.processes


@dataclass
class Bare(InSql):
    """The bare pipeline: the least a delivery can cost in Python. It brings its own 60,000 events, and ends with them."""

    runtime: str
    waits = False

    def __post_init__(self) -> None:
        self.name, self.family = f"bare pipeline, {self.runtime}", "floor"
        self.deliveries = 60_000
        self.schema = (BASELINE / "bare_pipeline.sql").read_text()

    def commands(self, stage: Stage) -> list[Command]:
        """Run it as it is."""
        arguments = (interpreters()[self.runtime], BASELINE / "bare_pipeline.py", str(self.deliveries), str(LANES))
        return [Command(arguments, {"DATABASE_URL": stage.dsn, "RECEIVER": stage.receiver})]


class Go(InSql):
    """A bare worker in Go, over the tables of the bare pipeline."""

    name, family, deliveries = "bare Go worker (pgx, net/http)", "floor", 60_000
    schema = (BASELINE / "bare_pipeline.sql").read_text() + "truncate event, pending;"
    enqueue = """
        with e as (insert into p.event (type, payload) select 'order.created', $3::text
                   from generate_series(1, $1::int) returning id),
        q as (insert into p.pending (endpoint_id, event_id) select id % 100, id from e)
        select json_agg('msg_' || id)::text from e where $2::text <> ''"""

    def install(self) -> None:
        """Build it."""
        self._program = go("go", "golang-github-jackc-pgx-v4-dev")

    def commands(self, stage: Stage) -> list[Command]:
        """Run it."""
        return [Command((self._program, stage.dsn, stage.prefix))]


@dataclass
class Textbook(InSql):
    """The worker that tutorials have."""

    runtime: str
    client: str = "httpx"

    def __post_init__(self) -> None:
        tuned = self.client == "aiohttp"
        self.name = f"textbook (asyncpg + {'aiohttp + uvloop' if tuned else 'httpx.AsyncClient'}), {self.runtime}"
        if self.runtime == "PyPy":
            self.name = self.name.replace("asyncpg", "psycopg")
        self.family, self.deliveries = "textbook", 10_000 if tuned else 5_000
        self.schema = (CONTESTANTS / "textbook.sql").read_text()
        self.enqueue = """
            with w as (
                insert into textbook.webhook (url, payload) select $2 || n % 100, $3 from generate_series(1, $1::int) as n
                returning id)
            select json_agg('msg_' || id)::text from w"""

    def commands(self, stage: Stage) -> list[Command]:
        """Run it."""
        return [Command((interpreters()[self.runtime], "-m", "benchmarks.contestants.textbook", stage.dsn, self.client))]


class Procrastinate(Contestant):
    """Procrastinate, whose producer defers in batches."""

    name, family, deliveries = "Procrastinate (aiohttp + uvloop)", "queue", 2_500

    def prepare(self, stage: Stage) -> None:
        """Apply its schema."""
        import anyio

        async def work() -> None:
            async with self._app(stage).open_async() as app:
                await app.schema_manager.apply_schema_async()

        anyio.run(work)

    @asynccontextmanager
    async def producer(self, stage: Stage) -> AsyncIterator[Enqueue]:
        """Defer through its own API."""
        ids = map("msg_{}".format, range(sys.maxsize))
        async with self._app(stage).open_async() as app:

            async def enqueue(count: int) -> list[str]:
                some = [next(ids) for _ in range(count)]
                jobs = [
                    {"url": f"{stage.prefix}{n % ENDPOINTS}", "message_id": id_, "payload": PAYLOAD}
                    for n, id_ in enumerate(some)
                ]
                await app.configure_task("deliver").batch_defer_async(*jobs)
                return some

            yield enqueue

    def commands(self, stage: Stage) -> list[Command]:
        """Run its worker."""
        arguments = (sys.executable, "-m", "benchmarks.contestants.procrastinate_app")
        return [Command(arguments, {"DATABASE_URL": stage.dsn})]

    @staticmethod
    def _app(stage: Stage) -> Any:
        import procrastinate

        return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=stage.dsn))


class PgQueuer(Contestant):
    """PgQueuer, whose producer enqueues lists."""

    name, family, deliveries = "PgQueuer (asyncpg + aiohttp + uvloop)", "queue", 5_000

    def prepare(self, stage: Stage) -> None:
        """Install its schema."""
        import anyio
        import asyncpg
        from pgqueuer.db import AsyncpgDriver
        from pgqueuer.queries import Queries

        async def work() -> None:
            connection = await asyncpg.connect(stage.dsn)
            await Queries(AsyncpgDriver(connection)).install()
            await connection.close()

        anyio.run(work)

    @asynccontextmanager
    async def producer(self, stage: Stage) -> AsyncIterator[Enqueue]:
        """Enqueue through its own API."""
        import asyncpg
        from pgqueuer.db import AsyncpgDriver
        from pgqueuer.queries import Queries

        ids = map("msg_{}".format, range(sys.maxsize))
        connection = await asyncpg.connect(stage.dsn)
        queries = Queries(AsyncpgDriver(connection))

        async def enqueue(count: int) -> list[str]:
            some = [next(ids) for _ in range(count)]
            jobs = [json.dumps([f"{stage.prefix}{n % ENDPOINTS}", id_, PAYLOAD]).encode() for n, id_ in enumerate(some)]
            await queries.enqueue(["deliver"] * count, jobs, [0] * count)
            return some

        try:
            yield enqueue
        finally:
            await connection.close()

    def commands(self, stage: Stage) -> list[Command]:
        """Run its worker."""
        return [Command((sys.executable, "-m", "benchmarks.contestants.pgqueuer_app", stage.dsn))]


class Celery(Contestant):
    """Celery with Redis: nothing is in Postgres, and what was enqueued is not in the producer's transaction."""

    name, family, deliveries = "Celery (Redis, gevent, requests)", "queue", 3_000

    def install(self) -> None:
        """Bring Redis."""
        self._redis = debian("redis-server", "redis-server")

    @contextmanager
    def service(self) -> Iterator[tuple[str, list[int]]]:
        """Run a Redis that keeps nothing on disk."""
        port = free_port()
        command = [self._redis, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                wait_for_port(port)
                yield f"redis://127.0.0.1:{port}/0", [process.pid]
            finally:
                process.terminate()

    def prepare(self, stage: Stage) -> None:
        """Redis needs no tables."""

    @asynccontextmanager
    async def producer(self, stage: Stage) -> AsyncIterator[Enqueue]:
        """Send tasks one by one: it has no other way."""
        from celery import Celery as App

        ids = map("msg_{}".format, range(sys.maxsize))
        app = App("contestant", broker=stage.service)

        async def enqueue(count: int) -> list[str]:
            some = [next(ids) for _ in range(count)]
            with app.producer_or_acquire() as producer:
                for n, id_ in enumerate(some):
                    arguments = (f"{stage.prefix}{n % ENDPOINTS}", id_, PAYLOAD)
                    app.send_task("deliver", arguments, producer=producer, ignore_result=True)
            return some

        yield enqueue
        app.close()

    def commands(self, stage: Stage) -> list[Command]:
        """Run one worker process of 64 greenlets."""
        arguments = (
            *(sys.executable, "-m", "celery", "--app", "benchmarks.contestants.celery_app", "worker"),
            *("--pool", "gevent", "--concurrency", str(LANES), "--loglevel", "WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        )
        return [Command(arguments, {"BROKER": stage.service})]


class Graphile(InSql):
    """Graphile Worker with undici."""

    name, family, deliveries = "Graphile Worker (undici)", "queue", 40_000
    enqueue = """
        select json_agg('msg_' || j.id)::text from graphile_worker.add_jobs(array(
            select row('deliver', json_build_object('url', $2::text || n % 100, 'body', $3::text),
                       null, null, null, null, null, null)::graphile_worker.job_spec
            from generate_series(1, $1::int) as n)) as j"""

    def install(self) -> None:
        """Bring its packages."""
        self._folder = npm("graphile")
        self._node = self._folder / "node_modules/node/bin/node"

    def prepare(self, stage: Stage) -> None:
        """Let it make its schema."""
        command = [str(self._node), "node_modules/.bin/graphile-worker", "--schema-only", "-c", "postgres:///"]
        done = subprocess.run(
            command, cwd=self._folder, env={**os.environ, **_libpq(stage.dsn)}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise CannotRunError(f"graphile-worker --schema-only: {done.stderr}")

    def commands(self, stage: Stage) -> list[Command]:
        """Run it."""
        return [Command((self._node, "worker.js", "postgres:///"), _libpq(stage.dsn), self._folder)]


def everybody() -> list[Contestant]:
    """Return those that this machine's runtimes allow, in the order of the table."""
    runtimes = list(interpreters())
    ours = Ours(runtimes[0])
    return [
        *(replace(ours, runtime=runtime, processes=processes) for runtime in runtimes for processes in (1, 2)),
        *(Bare(runtime) for runtime in runtimes),
        Go(),
        Graphile(),
        *(Textbook(runtime) for runtime in runtimes),
        Textbook("CPython", "aiohttp"),
        PgQueuer(),
        Procrastinate(),
        Celery(),
    ]


def _libpq(dsn: str) -> dict[str, str]:
    """Return a DSN as the variables that every client of libpq's kind reads."""
    parts = urlsplit(dsn)
    host = parse_qs(parts.query).get("host", [parts.hostname or ""])[0]
    return {"PGHOST": host, "PGUSER": parts.username or "", "PGDATABASE": parts.path[1:]}
