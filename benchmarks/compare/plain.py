"""This project's worker, and workers without a queue's library: the floor in two languages, and what tutorials have."""

from dataclasses import dataclass

from benchmarks.compare.contestant import ENDPOINTS, LANES, Command, InSql, Stage
from benchmarks.compare.installed import go
from benchmarks.stage import ROOT, interpreters, on_database, worker_environment
from worker.store.database import Database
from worker.store.migrate import migrate_up

BASELINE = ROOT / "benchmarks/baseline"
CONTESTANTS = ROOT / "benchmarks/contestants"


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
