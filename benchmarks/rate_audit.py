"""Are the limits of endpoints kept by a whole fleet, and used? Judged by the receiver's own log.

Eight worker processes on both runtimes, sixty endpoints with random rates and bursts, each with more work than it may do.
"""

import random
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from itertools import cycle, islice
from pathlib import Path

from benchmarks.arrivals import read_arrivals
from benchmarks.report import Report, progress
from benchmarks.stage import finish, interpreters, migrated_database, on_database, receiver, worker_environment
from worker.core.audit import worst_excess
from worker.store.database import Database

PROCESSES, ENDPOINTS = 8, 60
UTILISATION_MIN = 0.97
WARM_UP_SECONDS = 5.0


def run(*, quick: bool, scale: float) -> Report:
    """Let the fleet work for a while, then read the receiver's log."""
    seconds = (15.0 if quick else 45.0) * scale
    chance = random.Random(4)
    limits = [(round(chance.uniform(0.5, 20), 2), chance.randint(1, 20)) for _ in range(ENDPOINTS)]
    with tempfile.TemporaryDirectory() as directory, migrated_database() as dsn:
        log = Path(directory) / "arrivals"
        with receiver(str(log)) as port:

            async def load(database: Database) -> None:
                for n, (rate, burst) in enumerate(limits):
                    settings = f'{{"rate": {rate}, "burst": {burst}, "event_types": ["t{n}"]}}'
                    url = f"http://127.0.0.1:{port}/{n}"
                    await database.rows("select webhook.create_endpoint($1, settings => $2::text::jsonb)", url, settings)
                    events = int(rate * (seconds + 60) + burst)
                    await database.value(
                        "select count(*) from webhook.enqueue_many("
                        "array_fill($1::text, array[$2::int]), array_fill('{}'::text, array[$2::int]))",
                        f"t{n}",
                        events,
                    )

            on_database(dsn, load)
            pythons = islice(cycle(interpreters().values()), PROCESSES)
            workers = [
                subprocess.Popen([python, "-m", "worker", "run"], env=worker_environment(dsn), stderr=subprocess.DEVNULL)
                for python in pythons
            ]
            time.sleep(seconds + WARM_UP_SECONDS)
            until = time.monotonic()
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            statuses = [finish(worker).status for worker in workers]
            progress(f"the workers ended with {statuses}")
        arrivals = defaultdict[int, list[float]](list)
        for arrival in read_arrivals(log):
            arrivals[int(arrival.path[1:])].append(arrival.at)
    return _judge(limits, arrivals, until - seconds, until)


def _judge(limits: list[tuple[float, int]], arrivals: dict[int, list[float]], since: float, until: float) -> Report:
    excesses = [worst_excess(sorted(arrivals[n]), rate, burst) for n, (rate, burst) in enumerate(limits)]
    used = [sum(since <= at < until for at in arrivals[n]) / (rate * (until - since)) for n, (rate, _) in enumerate(limits)]
    fleet = sum(sum(since <= at < until for at in arrivals[n]) for n in range(len(limits)))
    utilisation = fleet / (sum(rate for rate, _ in limits) * (until - since))
    row = {
        "processes": PROCESSES,
        "endpoints": ENDPOINTS,
        "requests": sum(map(len, arrivals.values())),
        "worst_excess": round(max(excesses), 3),
        "utilisation": round(utilisation, 4),
        "lowest_utilisation": round(min(used), 4),
    }
    holds = max(excesses) <= 0 and utilisation >= UTILISATION_MIN
    target = "no window exceeds rate × (T + 0.1 s) + burst, and together the endpoints use 97 % of their rates"
    return Report(target, holds, [row])
