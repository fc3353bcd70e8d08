"""What a delivery costs the worker: CPU per delivery and deliveries a second, beside the bare pipeline of the same run.

The bare pipeline (benchmarks/baseline) claims, signs, sends and records without limits, fences, retries or metrics: the
least a delivery can cost here. 1 KiB payloads, 100 endpoints, 64 lanes, keep-alive, receiver and Postgres on the same cores.
"""

import re
import subprocess
import time
from pathlib import Path

from benchmarks.report import Report, progress
from benchmarks.stage import ROOT, finish, interpreters, migrated_database, on_database, receiver, worker_environment
from worker.store.database import Database

BASELINE = Path(__file__).parent / "baseline"


def run(*, quick: bool, scale: float) -> Report:
    """Deliver the same events with each contestant, in turn."""
    events = max(1, round((100 if quick else 400) * scale)) * 100  # each goes to 100 endpoints
    rows = []
    with migrated_database() as dsn, receiver() as port:

        async def add_endpoints(database: Database) -> None:
            for n in range(100):
                await database.rows("select webhook.create_endpoint($1)", f"http://127.0.0.1:{port}/h/{n}")

        async def settle(database: Database) -> None:
            await database.script(["vacuum analyze"])

        on_database(dsn, add_endpoints)
        for name, python in interpreters().items():
            bare = _bare(dsn, python, port, name)
            rows.append({"contestant": f"bare pipeline, {name}", **bare})
            progress(str(rows[-1]))
            on_database(dsn, lambda database: _enqueue(database, events))
            on_database(dsn, settle)
            ours = _worker(dsn, python, events)
            rows.append(
                {"contestant": f"webhook-worker, {name}", **ours, "times_bare": round(ours["cpu_us"] / bare["cpu_us"], 2)}
            )
            progress(str(rows[-1]))
    for row in rows:
        row.setdefault("times_bare", 1.0)
    return Report("every event is delivered (the cost itself has no target in this release)", holds=True, rows=rows)


async def _enqueue(database: Database, events: int) -> None:
    await database.value(
        "select count(*) from webhook.enqueue_many((select array_agg('load'::text) from generate_series(1, $1::int / 100)), "
        "(select array_agg(repeat('x', 1024)) from generate_series(1, $1::int / 100)))",
        events,
    )


def _worker(dsn: str, python: str, events: int) -> dict[str, float]:
    started = time.perf_counter()
    with subprocess.Popen(
        [python, "-m", "worker", "run", "--once", "--concurrency", "64"], env=worker_environment(dsn), stderr=subprocess.PIPE
    ) as process:
        ended = finish(process)
        seconds = time.perf_counter() - started
        said = process.stderr.read().decode() if process.stderr else ""
    delivered = re.search(r"(\d+) delivered", said)
    if ended.status or not delivered or int(delivered[1]) != events:
        raise RuntimeError(f"the worker did not deliver everything: {said}")
    return {
        "cpu_us": round(ended.cpu_seconds / events * 1e6),
        "per_second": round(events / seconds),
        "rss_mb": round(ended.rss_mb),
    }


def _bare(dsn: str, python: str, port: int, name: str) -> dict[str, float]:
    async def load(database: Database) -> None:
        await database.script([(BASELINE / "bare_pipeline.sql").read_text(), "reset search_path"])

    on_database(dsn, load)
    done = subprocess.run(
        [python, str(BASELINE / "bare_pipeline.py"), "60000", "64"],
        env={**worker_environment(dsn), "RECEIVER": f"127.0.0.1:{port}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"second half (\d+)/s (\d+)us rss (\d+)MB", done.stdout)
    if not found:
        raise RuntimeError(f"{name}: {done.stdout}{done.stderr}")
    return {"cpu_us": float(found[2]), "per_second": float(found[1]), "rss_mb": float(found[3])}
