"""Reads the evidence: the producers' logs, the database, the receivers' log."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.chaos.endpoints import SITES
from benchmarks.chaos.evidence import Arrival, Attempt, Delivery, Evidence, Pair, Produced
from benchmarks.chaos.fleet import Fleet
from worker.store.database import Row, connect
from worker.store.sql import statements


async def collect(dsn: str, names: Mapping[int, str], producers: Iterable[Path], receivers: Path, fleet: Fleet) -> Evidence:
    """Read all of it. `names` are those of the endpoints, by id."""

    def pair(row: Row) -> Pair:
        return Pair(row["event_id"], names[row["endpoint_id"]])

    database, sql = connect(dsn), statements()
    try:
        return Evidence(
            endpoints=[site.endpoint for site in SITES],
            produced=[produced for log in producers for produced in read_produced(log)],
            stored={row["id"]: row["digest"] for row in await database.rows(sql["chaos_events"])},
            deliveries=[
                Delivery(pair(row), row["state"], row["finished_at"], row["last_error"], row["waits"])
                for row in await database.rows(sql["chaos_deliveries"])
            ],
            attempts=[
                Attempt(pair(row), row["outcome"], row["error"], row["at"])
                for row in await database.rows(sql["chaos_attempts"])
            ],
            arrivals=read_arrivals(receivers),
            forced=Counter(pair(row) for row in await database.rows(sql["chaos_forced"])),
            killed=fleet.killed,
            frozen=fleet.frozen,
        )
    finally:
        await database.close()


def read_produced(log: Path) -> list[Produced]:
    """Return what is last known of each event. One without an end was under way when its producer ended: unknown."""
    known: dict[str, Produced] = {}
    for line in log.read_text().splitlines():
        told = json.loads(line)
        for digest, event_type, *event in told["events"]:
            known[digest] = Produced(digest, event_type, told["fate"], *event)
    return list(known.values())


def read_arrivals(log: Path) -> list[Arrival]:
    """Return what the receivers wrote."""
    fields = (line.split() for line in log.read_text().splitlines())
    return [
        Arrival(Pair(int(event), endpoint), float(at), float(ended), digest, signed == "1", int(status))
        for event, endpoint, at, ended, digest, signed, status in fields
    ]
