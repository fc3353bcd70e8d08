"""Everybody at once: producers, three workers that lag, die and repeat themselves, operators, housekeeping; over the real SQL.

Each test is one seed of `random`: it decides what every actor does, the database decides who comes first. A failing seed
is in the test's name, and what went wrong in its message.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import anyio
import pytest

from worker.core.audit import worst_excess
from worker.store.database import Database, DatabaseError, connect

ENDPOINTS = {  # name: settings. `steady` is let alone, so that its limits can be checked
    "steady": {"rate": 80, "burst": 4, "max_in_flight": 40},
    "tight": {"max_in_flight": 2},
    "wide": {},
    "slow": {"rate": 100, "burst": 1, "max_in_flight": 3},
    "bursty": {"rate": 100, "burst": 20, "max_in_flight": 10},
}
SETTINGS = {"timeout_seconds": 0.05, "retry_seconds": [0.01] * 30}
LEASE = "0.25 s"
ROUNDS = 40
FINISH_SECONDS_MAX = 20.0

CREATE = "select id from webhook.create_endpoint('https://receiver.test/', settings => $1::text::jsonb)"
ENQUEUE = """
select webhook.enqueue('a.b', '{}'::text, idempotency_key => $1::text, deliver_at => now() + $2::text::interval)
"""
ENQUEUE_MANY = """
select webhook.enqueue_many(array_fill('a.b'::text, array[$1::int]), array_fill('{}'::text, array[$1::int]),
                            deliver_at => now() + $2::text::interval) as id
"""
CLAIM = f"select webhook.claim($1::text, $2::int, $3::bigint, lease_min => '{LEASE}')"
RECORD = "select webhook.record($1::text, $2::text)"
EXTEND = (
    "select array_to_json(array(select webhook.extend(array(select json_array_elements_text($1::text::json)::bigint))))::text"
)

# Raises where the promise is broken, so that the call that broke it fails.
GUARD = """
create function webhook.guard() returns trigger language plpgsql as $$
begin
    if new.in_flight > old.in_flight and new.in_flight > new.max_in_flight then
        raise exception 'endpoint % has % in flight, at most % are allowed', new.endpoint_id, new.in_flight, new.max_in_flight;
    end if;
    return new;
end $$;
create trigger guard before update on webhook.endpoint_sched for each row execute function webhook.guard();
"""

WHERE = """
select coalesce(json_object_agg(id, places), '{}')::text from (
    select id, array_agg(place) as places from (
        select id, 'pending' as place from webhook.pending
        union all select id, 'inflight' from webhook.inflight
        union all select id, state from webhook.finished) as d
    group by id) as d
"""
PAIRS = """
select json_build_object('pairs', count(*), 'distinct', count(distinct (event_id, endpoint_id)),
                         'events', count(distinct event_id))::text
from webhook.deliveries
"""
DRIFTED = """
select coalesce(json_agg(s.*), '[]')::text from webhook.endpoint_sched as s
where s.in_flight <> (select count(*) from webhook.inflight as i where i.endpoint_id = s.endpoint_id)
"""
STUCK = """
select coalesce(json_agg(s.*), '[]')::text from webhook.endpoint_sched as s
where exists (select from webhook.pending as p where p.endpoint_id = s.endpoint_id)
   or s.in_flight > 0
"""
REPEATED = "select count(*) from (select from webhook.attempt group by delivery_id, attempt having count(*) > 1) as a"


@dataclass
class Chaos:
    """What the actors share."""

    dsn: str
    seed: int
    endpoints: dict[str, int]
    events: set[int] = field(default_factory=set)
    planned: list[float] = field(default_factory=list)
    """When sends to `steady` were planned, as Unix time."""
    faults: bool = True

    @asynccontextmanager
    async def actor(self, name: str) -> AsyncIterator[tuple[Database, Random]]:
        database = connect(self.dsn)
        try:
            yield database, Random(f"{self.seed} {name}")
        finally:
            with anyio.CancelScope(shield=True):
                await database.close()

    # -- producers -----------------------------------------------------------------------------------------------------

    async def produce(self, name: str) -> None:
        async with self.actor(name) as (database, chance):
            for _ in range(ROUNDS):
                rolled_back = chance.random() < 0.2
                try:
                    async with database.transaction():
                        found = await self._enqueue(database, chance)
                        await anyio.sleep(chance.choice((0, 0, 0.02)))
                        if rolled_back:
                            raise RolledBackError
                except RolledBackError:
                    continue
                self.events |= found

    async def _enqueue(self, database: Database, chance: Random) -> set[int]:
        delay = f"{chance.choice((-3600, 0, 0, 0, 0.05, 0.3))} s"
        key = chance.choice((None, None, f"{chance.random():.17f}", "shared"))
        if chance.random() < 0.5:
            return {await database.value(ENQUEUE, key, delay)}
        return {row["id"] for row in await database.rows(ENQUEUE_MANY, chance.randint(1, 8), delay)}

    # -- workers -------------------------------------------------------------------------------------------------------

    async def work(self, name: str) -> None:
        """Claim, and do with it what workers do, and what befalls them."""
        async with self.actor(name) as (database, chance), self.actor(f"{name} again") as (second, _):
            held: list[list[Any]] = []
            for _ in range(2 * ROUNDS):
                rows, size = chance.choice((1, 8, 30, 100)), chance.choice((1, 6, 10_000))
                with anyio.move_on_after(chance.choice((30, 30, 30, 0.002))):  # cut off: nobody learns what was claimed
                    held += self._claimed(await database.value(CLAIM, name, rows, size))
                await anyio.sleep(chance.choice((0, 0, 0.005, 0.05)))
                chance.shuffle(held)
                if held and chance.random() < 0.3:
                    await database.value(EXTEND, json.dumps([row[0] for row in held]))
                if chance.random() < 0.1:
                    held = held[len(held) // 2 :]  # forgotten: their leases expire
                count = chance.randint(0, len(held))
                outcomes, held = [_outcome(chance, row) for row in held[:count]], held[count:]
                if outcomes:
                    await self._record(database, second, name, outcomes, chance.random())

    async def _record(self, database: Database, second: Database, name: str, outcomes: list[Any], chance: float) -> None:
        """Record: once; or twice at once, as after a lost answer; or again after one was cut off; or in two halves at once."""
        text = json.dumps(outcomes)
        if chance < 0.5:
            await database.value(RECORD, name, text)
        elif chance < 0.7:
            changed = await at_once(partial(database.value, RECORD, name, text), partial(second.value, RECORD, name, text))
            assert sum(changed) <= len(outcomes)
        elif chance < 0.85:
            with anyio.move_on_after(0.002):
                await second.value(RECORD, name, text)
            await database.value(RECORD, name, text)
        else:
            halves = json.dumps(outcomes[::2]), json.dumps(outcomes[1::2])
            await at_once(partial(database.value, RECORD, name, halves[0]), partial(second.value, RECORD, name, halves[1]))

    def _claimed(self, document: str) -> list[list[Any]]:
        """Return [claim id, delivery id] for each delivery, and keep the plan of `steady`."""
        claimed = json.loads(document)
        rows = claimed.get("deliveries", [])
        self.planned += [claimed["now"] + row[4] for row in rows if row[1] == self.endpoints["steady"]]
        return [[claimed["claim"], row[0]] for row in rows]

    # -- operators and housekeeping ------------------------------------------------------------------------------------

    async def operate(self, name: str) -> None:
        async with self.actor(name) as (database, chance):
            troubled = [id_ for endpoint, id_ in self.endpoints.items() if endpoint != "steady"]
            for _ in range(2 * ROUNDS):
                change = chance.choice(
                    ("pause", "resume", "resume", "disable", "enable", "enable", "set", "set", "retry", "retry")
                )
                try:
                    if change == "retry":
                        delivery = await database.value("select last_value from webhook.delivery_id")
                        sql = "select webhook.retry_delivery($1::bigint, force => $2::bool)"
                        await database.value(sql, chance.randint(max(1, delivery - 200), delivery), chance.random() < 0.7)
                    elif change == "set":
                        settings = chance.choice((
                            {"rate": chance.choice((None, 80, 500))},
                            {"burst": chance.choice((1, 5, 50)), "rate": 100},
                            {"max_in_flight": chance.choice((1, 2, 10, 64))},
                        ))  # fmt: skip
                        sql = "select webhook.set_endpoint($1::bigint, $2::text::jsonb)"
                        await database.value(sql, chance.choice(troubled), json.dumps(settings))
                    else:
                        await database.value(f"select webhook.{change}_endpoint($1::bigint)", chance.choice(troubled))
                except DatabaseError as error:
                    if error.sqlstate not in ("55000", "P0002"):  # refused in this state; no such delivery (yet)
                        raise
                await anyio.sleep(chance.choice((0, 0.01, 0.03)))

    async def keep_house(self, *, reconcile: bool) -> None:
        async with self.actor("housekeeping") as (database, chance):
            while self.faults:
                await database.value("select webhook.reap($1::int)", chance.choice((1, 20)))
                await database.value(
                    "update webhook.maintenance set due_at = '-infinity' where $1::bool or task <> 'reconcile' returning 1",
                    reconcile,
                )
                assert "failed" not in await database.value("select webhook.maintain()")
                await anyio.sleep(0.02)


class RolledBackError(Exception):
    """The producer changed its mind."""


def _outcome(chance: Random, row: list[Any]) -> list[Any]:
    """What functions/300_record.sql documents, at random."""
    disposition = chance.choice(("delivered", "delivered", "delivered", "retry", "retry", "released", "dead"))
    hold = chance.choice((None, None, None, 0.05)) if disposition == "retry" else None
    disable = "gone" if disposition == "retry" and chance.random() < 0.02 else None
    return [*row, disposition, "http_status", 500, 0.01, 0.01, "body", None, chance.choice((0, 0.02, 0.2)), hold, disable]


async def at_once(*calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    results: list[Any] = []

    async def run(call: Callable[[], Awaitable[Any]]) -> None:
        results.append(await call())

    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(run, call)
    return results


async def set_up(database: Database, seed: int, dsn: str, *, reconcile: bool) -> Chaos:
    await database.script([GUARD])
    name = await database.value("select current_database()::text")
    await database.script([f"alter database {name} set deadlock_timeout = '30ms'"])  # found soon, rather than waited out
    if not reconcile:
        await database.script(["update webhook.maintenance set due_at = 'infinity' where task = 'reconcile'"])
    endpoints = {key: await database.value(CREATE, json.dumps(SETTINGS | value)) for key, value in ENDPOINTS.items()}
    return Chaos(dsn, seed, endpoints)


async def run_chaos(chaos: Chaos, *, reconcile: bool) -> None:
    async with anyio.create_task_group() as housekeeping:
        housekeeping.start_soon(partial(chaos.keep_house, reconcile=reconcile))
        async with anyio.create_task_group() as actors:
            for n in (1, 2):
                actors.start_soon(chaos.produce, f"producer {n}")
            for n in (1, 2, 3):
                actors.start_soon(chaos.work, f"worker {n}")
            for n in (1, 2):
                actors.start_soon(chaos.operate, f"operator {n}")
        chaos.faults = False


async def finish(chaos: Chaos, database: Database) -> None:
    """Enable what is not, then deliver what is left by claim, record and reap alone: nothing else helps a stuck endpoint."""
    for id_ in chaos.endpoints.values():
        await database.value("select webhook.enable_endpoint($1::bigint)", id_)  # changes nothing if it is enabled
    with anyio.move_on_after(FINISH_SECONDS_MAX):
        while await database.value("select exists (select from webhook.pending) or exists (select from webhook.claim_batch)"):
            rows = json.loads(await database.value(CLAIM, "last", 100, 10_000)).get("deliveries", [])
            claim = await database.value("select max(claim_id) from webhook.claim_batch where worker = 'last'")
            outcomes = [[claim, row[0], "delivered", "ok", 200, 0, 0, None, None, 0, None, None] for row in rows]
            assert len(rows) == await database.value(RECORD, "last", json.dumps(outcomes))
            await database.value("select webhook.reap()")
            if not rows:
                await anyio.sleep(0.01)


@pytest.mark.sql
@pytest.mark.parametrize("reconcile", [False, True], ids=["alone", "reconciled"])
@pytest.mark.parametrize("seed", [1, 2])
async def test_interleavings(dsn: str, database: Database, seed: int, reconcile: bool) -> None:
    """Whatever comes between whatever: nothing is lost, doubled, stuck or over a limit, and nobody deadlocks."""
    chaos = await set_up(database, seed, dsn, reconcile=reconcile)
    await run_chaos(chaos, reconcile=reconcile)

    assert json.loads(await database.value(DRIFTED)) == []
    places = json.loads(await database.value(WHERE))
    assert {} == {id_: found for id_, found in places.items() if len(found) > 1}
    pairs = len(chaos.events) * len(ENDPOINTS)
    assert {"pairs": pairs, "distinct": pairs, "events": len(chaos.events)} == json.loads(await database.value(PAIRS))
    rate, burst = ENDPOINTS["steady"]["rate"], ENDPOINTS["steady"]["burst"]
    assert worst_excess(sorted(chaos.planned), rate, burst) <= -rate * 0.09  # the plan itself needs none of the tolerance

    await finish(chaos, database)
    assert json.loads(await database.value(STUCK)) == []
    assert pairs == await database.value("select count(*) from webhook.finished")
    assert await database.value("select count(*) from webhook.claim_batch") == 0
    assert await database.value(REPEATED) == 0
