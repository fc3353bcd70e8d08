"""From exec of a worker to the first byte of its first POST: what a sudden burst waits for when workers are added."""

import math
import socket
import statistics
import subprocess
import time

from benchmarks.report import Report, progress
from benchmarks.stage import interpreters, migrated_database, on_database, worker_environment
from worker.store.database import Database

TARGET_SECONDS = {"CPython": 0.6, "PyPy": 2.0}


def run(*, quick: bool, scale: float) -> Report:
    """Start workers one after another, each with one webhook due, and time the connection's first bytes."""
    rounds = max(1, round((3 if quick else 10) * scale))
    rows = []
    holds = True
    with migrated_database() as dsn, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        async def add_endpoint(database: Database) -> None:
            await database.rows("select webhook.create_endpoint($1)", f"http://127.0.0.1:{port}/")

        on_database(dsn, add_endpoint)
        for name, python in interpreters().items():
            seconds = [_once(dsn, python, listener) for _ in range(rounds + 1)][1:]  # the first fills the file cache
            progress(f"{name}: {', '.join(f'{s:.3f}' for s in seconds)} s")
            holds &= statistics.median(seconds) < TARGET_SECONDS.get(name, math.inf)
            rows.append(
                {
                    "runtime": name,
                    "median_seconds": round(statistics.median(seconds), 3),
                    "min_seconds": round(min(seconds), 3),
                    "max_seconds": round(max(seconds), 3),
                    "rounds": rounds,
                }
            )
    return Report("exec to first POST under 0.6 s on CPython, 2 s on PyPy (median)", holds, rows)


def _once(dsn: str, python: str, listener: socket.socket) -> float:
    async def enqueue(database: Database) -> None:
        await database.value("select webhook.enqueue('cold.start', '{}')")

    on_database(dsn, enqueue)
    started = time.perf_counter()
    with subprocess.Popen(
        [python, "-m", "worker", "run", "--once"], env=worker_environment(dsn), stderr=subprocess.DEVNULL
    ) as process:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            seconds = time.perf_counter() - started
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            while connection.recv(65536):
                pass
        process.wait(30)
    return seconds
