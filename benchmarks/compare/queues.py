"""Queues of jobs that many use, each set up as its own documentation advises."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmarks.compare.contestant import ENDPOINTS, LANES, PAYLOAD, Command, Contestant, Enqueue, InSql, Stage
from benchmarks.compare.installed import CannotRunError, debian, npm
from benchmarks.compare.ports import free_port, wait_for_port


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


def _libpq(dsn: str) -> dict[str, str]:
    """Return a DSN as the variables that every client of libpq's kind reads."""
    parts = urlsplit(dsn)
    host = parse_qs(parts.query).get("host", [parts.hostname or ""])[0]
    return {"PGHOST": host, "PGUSER": parts.username or "", "PGDATABASE": parts.path[1:]}
