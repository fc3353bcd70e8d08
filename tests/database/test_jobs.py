"""Jobs: each delivery once, at the rate, whoever takes the steps and wherever they stop; and the changes of single ones."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import anyio
import pytest

from worker.store.database import Database, DatabaseError, connect

pytestmark = pytest.mark.sql

CREATE = "select webhook.create_job($1::text, $2::text::jsonb, $3::float8, actor => 'ann', reason => 'because')"
STEP = "select done::text from webhook.job_step()"
AT_ONCE = "update webhook.job set planned_until = '-infinity' where state = 'running'"
"""The next step need not wait for the clock: it takes three seconds' worth again."""
DEAD = '{"state": "dead"}'


async def endpoints(database: Database, count: int = 1) -> list[int]:
    return [
        await database.value("select id from webhook.create_endpoint('https://example.com/', '', '{\"max_in_flight\": 1000}')")
        for _ in range(count)
    ]


async def enqueue(database: Database, events: int) -> None:
    await database.value(
        "select count(*) from webhook.enqueue_many("
        "array_fill('a'::text, array[$1::int]), array_fill('{}'::text, array[$1::int]))",
        events,
    )


async def end(database: Database, disposition: str = "dead") -> None:
    """Claim everything that is due, and let it all end like this."""
    while (claimed := json.loads(await database.value("select webhook.claim('w', 1000, 1000000)")))["claim"]:
        outcomes = [
            [claimed["claim"], row[0], disposition, "http_status", 500, 0, 0, None, None, 3600, None, None]
            for row in claimed["deliveries"]
        ]
        await database.value("select webhook.record('w', $1::text)", json.dumps(outcomes))


async def dead(database: Database, events: int, receivers: int = 1) -> list[int]:
    """Make so many dead deliveries for each of so many endpoints: their ids."""
    await endpoints(database, receivers)
    await enqueue(database, events)
    await end(database)
    return await ids(database, "select id from webhook.finished where state = 'dead' order by id")


async def ids(database: Database, sql: str) -> list[int]:
    return [row["id"] for row in await database.rows(sql)]


async def job(database: Database, job_id: int) -> dict[str, Any]:
    (row,) = await database.rows("select *, skipped_because::text as why from webhook.jobs where id = $1::bigint", job_id)
    return row


async def run(database: Database, job_id: int) -> dict[str, Any]:
    """Take steps until the job has ended."""
    while (await job(database, job_id))["state"] == "running":
        await database.script([AT_ONCE])
        await database.value(STEP)
    return await job(database, job_id)


async def changed(database: Database, action: str) -> list[int]:
    return await ids(database, f"select delivery_id as id from webhook.audit where action = 'delivery.{action}' order by id")


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[Database]:
    connection = connect(dsn)
    yield connection
    await connection.close()


@pytest.mark.fault(66)
@pytest.mark.parametrize("seed", range(4))
async def test_each_is_retried_once_wherever_it_is_interrupted(dsn: str, database: Database, seed: int) -> None:
    """Steps are undone, taken twice at once, and lose their connection; what they retried dies again: none is retried twice."""
    chance = Random(seed)
    wanted = await dead(database, 40, receivers=3)
    job_id = await database.value(CREATE, "retry", DEAD, chance.choice([1.0, 2.0, 5.0]))
    async with session(dsn) as other:
        while (await job(database, job_id))["state"] == "running":
            await database.script([AT_ONCE])
            match chance.randrange(6):
                case 0:  # undone
                    await database.script(["begin", STEP, "rollback"])
                case 1:  # killed: the connection is gone before the commit
                    async with session(dsn) as victim:
                        await victim.script(["begin", STEP])
                        pid = await victim.value("select pg_backend_pid()")
                        await database.value("select pg_terminate_backend($1::int, 10000)", pid)
                case 2:  # another worker comes while a step is under way: there is nothing for it to do
                    await other.script(["begin", STEP])
                    assert "{}" == await database.value(STEP)
                    await other.script(["commit"])
                case 3:  # what was retried dies again, which is not this job's affair
                    await database.script(["update webhook.pending set run_at = clock_timestamp()"])
                    await database.script(
                        ["update webhook.endpoint_sched set next_at = clock_timestamp(), version = version + 1"]
                    )
                    await end(database)
                case _:
                    await database.value(STEP)

    assert wanted == sorted(await changed(database, "retry"))
    ended = await job(database, job_id)
    assert (120, 0) == (ended["done"], ended["skipped"])


async def test_the_rate_is_kept_to_the_delivery(database: Database) -> None:
    """Each is planned 1/rate after the one before, over steps and endpoints; what was missed meanwhile is not made up for."""
    await dead(database, 20, receivers=3)
    job_id = await database.value(CREATE, "retry", DEAD, 5.0)
    for _ in range(3):
        await database.value(STEP)  # the second and third come too early: the first took three seconds' worth
    moments = (
        "select extract(epoch from run_at - lag(run_at) over (order by run_at))::float8 as gap from webhook.pending offset 1"
    )
    early = await database.rows(moments)
    await database.script(["update webhook.job set planned_until = clock_timestamp() - interval '1 hour'"])
    await database.value(STEP)
    late = await database.value(
        "select count(*) from webhook.pending where run_at < clock_timestamp() + interval '0.5 s' and id > 15"
    )

    assert [pytest.approx(0.2, abs=1e-5)] * 14 == [row["gap"] for row in early]
    assert late <= 3
    assert 30 == (await job(database, job_id))["done"]


async def test_a_job_is_about_what_matched_when_it_was_created(database: Database) -> None:
    """What dies later is left alone, whatever its id; filters hold."""
    first = await dead(database, 3, receivers=2)
    job_id = await database.value(CREATE, "retry", '{"state": "dead", "endpoint_id": 1}', None)
    await enqueue(database, 3)
    await end(database)
    done = await run(database, job_id)

    mine = await ids(database, f"select id from webhook.deliveries where endpoint_id = 1 and id <= {first[-1]} order by id")
    assert (mine, 3, 3) == (sorted(await changed(database, "retry")), done["total"], done["done"])


async def test_what_cannot_be_retried_is_skipped_with_a_reason(database: Database) -> None:
    """Its event is gone: the others go on, and the job says how many and why."""
    await dead(database, 10)
    await database.script(["delete from webhook.event where id <= 4"])
    done = await run(database, await database.value(CREATE, "retry", DEAD, 2.0))

    assert ("done", 6, 4, {"its event is gone": 4}) == (done["state"], done["done"], done["skipped"], json.loads(done["why"]))


async def test_a_job_is_paused_resumed_and_cancelled(database: Database) -> None:
    """Each is in the audit log; a paused job takes no step, and one that has ended takes no word."""
    await dead(database, 10)
    job_id = await database.value(CREATE, "retry", DEAD, 1.0)
    await database.value("select webhook.pause_job($1::bigint, 'ann', 'slowly')", job_id)
    paused = await database.value(STEP)
    await database.value("select webhook.resume_job($1::bigint, 'ann')", job_id)
    await database.value(STEP)
    await database.value("select webhook.cancel_job($1::bigint, 'ann')", job_id)
    with pytest.raises(DatabaseError, match="is cancelled"):
        await database.value("select webhook.resume_job($1::bigint, 'ann')", job_id)
    with pytest.raises(DatabaseError, match="there is no job 99"):
        await database.value("select webhook.pause_job(99, 'ann')")

    ended = await job(database, job_id)
    actions = await database.rows("select action from webhook.audit where action like 'job.%' order by id")
    assert ("{}", "cancelled", 3, True) == (paused, ended["state"], ended["done"], ended["finished_at"] is not None)
    assert ["job.create", "job.pause", "job.resume", "job.cancel"] == [row["action"] for row in actions]


async def test_workers_look_for_a_job_only_while_there_is_one(database: Database) -> None:
    """The task is never due without one; with one, whoever keeps house takes the steps, until it is done."""
    due = "select due_at < 'infinity' from webhook.maintenance where task = 'jobs'"
    await dead(database, 5)
    before = await database.value(due)
    job_id = await database.value(CREATE, "retry", DEAD, None)
    created = await database.value(due)
    while "job_done" not in (done := json.loads(await database.value("select webhook.maintain()"))):
        assert done
    while json.loads(await database.value("select webhook.maintain()")):
        pass

    assert (False, True, False) == (before, created, await database.value(due))
    assert {"task": "jobs", "job": job_id, "job_done": 5, "job_skipped": 0}.items() <= done.items()


async def test_a_job_waits_for_what_somebody_else_holds(dsn: str, database: Database) -> None:
    """A step whose endpoint is locked for long is undone, all of it; another job goes first; then it goes on."""
    await dead(database, 3, receivers=2)
    first, second = [await database.value(CREATE, "retry", f'{{"state": "dead", "endpoint_id": {n}}}', None) for n in (2, 1)]
    async with session(dsn) as other:
        await other.script(["begin", "select webhook.pause_endpoint(2)"])
        steps = [json.loads(await database.value(STEP)) for _ in range(2)]
        await other.script(["rollback"])
    assert [("job_waits" in step, step["job"]) for step in steps] == [(True, first), (False, second)]
    assert 0 == (await job(database, first))["done"]
    assert (3, 0) == ((ended := await run(database, first))["done"], ended["skipped"])


async def test_a_step_is_about_few_endpoints(database: Database) -> None:
    """What one wide event made is done a few endpoints at a time, each delivery once."""
    wide = await dead(database, 2, receivers=70)
    job_id = await database.value(CREATE, "retry", DEAD, None)
    moved = []
    while (await job(database, job_id))["state"] == "running":
        moved.append(json.loads(await database.value(STEP))["moved"])
    assert [60, 60, 20] == moved
    assert sorted(await changed(database, "retry")) == wide


async def test_a_job_says_what_it_did_not_find(database: Database) -> None:
    """What matched and is in flight when its turn comes is skipped, and counted."""
    await endpoints(database)
    await enqueue(database, 5)
    job_id = await database.value(CREATE, "cancel", "{}", None)
    assert 2 == len(json.loads(await database.value("select webhook.claim('w', 2, 1000000)"))["deliveries"])
    ended = await run(database, job_id)
    assert (5, 3, 2) == (ended["total"], ended["done"], ended["skipped"])
    assert {"it changed meanwhile": 2} == json.loads(ended["why"])


async def test_a_job_cancels_what_waits(database: Database) -> None:
    """Pending, held and waiting for a retry; what is in flight is left to its worker, and what has ended is not touched."""
    await endpoints(database)
    await enqueue(database, 2)
    await end(database, "retry")
    await enqueue(database, 3)
    await database.value("select webhook.claim('w', 1, 1000000)")
    done = await run(database, await database.value(CREATE, "cancel", "{}", None))

    states = Counter(row["state"] for row in await database.rows("select state from webhook.deliveries"))
    assert (4, {"cancelled": 4, "in_flight": 1}) == (done["done"], states)
    assert {"cancelled: because"} == {row["e"] for row in await database.rows("select last_error as e from webhook.finished")}


async def test_jobs_hold_and_release(database: Database) -> None:
    """Held by hand they wait, whatever happens; released they are due when they would have been."""
    await endpoints(database)
    await enqueue(database, 4)
    await end(database, "retry")
    await enqueue(database, 1)
    due = "select id, run_at from webhook.pending order by id"
    before = {row["id"]: row["run_at"] for row in await database.rows(due)}
    held = await run(database, await database.value(CREATE, "hold", "{}", None))
    claimed = json.loads(await database.value("select webhook.claim('w', 10, 1000000)")).get("deliveries", [])
    states = {row["state"] for row in await database.rows("select state from webhook.deliveries")}
    again = await run(database, await database.value(CREATE, "hold", "{}", None))
    released = await run(database, await database.value(CREATE, "release", "{}", 1000.0))
    after = {row["id"]: row["run_at"] for row in await database.rows(due)}

    assert (5, [], {"held"}, 0, 5) == (held["done"], claimed, states, again["done"], released["done"])
    assert list(before.values())[:4] == list(after.values())[:4]
    assert 0 == await database.value("select count(*) from webhook.held_delivery")
    with anyio.fail_after(10):  # it is due within milliseconds, at its own moment
        while not (claimed := json.loads(await database.value("select webhook.claim('w', 10, 1000000)")).get("deliveries")):
            pass
    assert 1 == len(claimed)


@pytest.mark.parametrize(
    ("action", "filters", "message"),
    [
        ("retry", "{}", "one of them"),
        ("retry", '{"state": "in_flight"}', "one of them"),
        ("retry", '{"state": "delivered"}', "these are delivered"),
        ("cancel", '{"state": "dead"}', "only what is pending or held can be cancelled"),
        ("retry", '{"state": "dead", "nonsense": 1}', "not filtered by nonsense"),
    ],
)
async def test_a_job_that_makes_no_sense_is_refused(database: Database, action: str, filters: str, message: str) -> None:
    """When it is created, with the reason; nothing is written."""
    with pytest.raises(DatabaseError, match=message) as raised:
        await database.value(CREATE, action, filters, 1.0)

    assert ("22023", 0) == (raised.value.sqlstate, await database.value("select count(*) from webhook.job"))


async def test_one_delivery_is_held_released_and_cancelled(database: Database) -> None:
    """Each says what it was before, and is in the audit log."""
    await endpoints(database)
    await enqueue(database, 1)
    before = [
        await database.value(f"select webhook.{verb}_delivery(1, 'ann', 'because')") for verb in ("hold", "release", "cancel")
    ]
    revived = await database.value("select webhook.retry_delivery(1)")

    audited = await database.rows("select action, reason from webhook.audit where delivery_id = 1 order by id limit 3")
    assert (["pending", "held", "pending"], "cancelled") == (before, revived)
    assert [(f"delivery.{verb}", "because") for verb in ("hold", "release", "cancel")] == [
        tuple(row.values()) for row in audited
    ]


@pytest.mark.parametrize("verb", ["cancel", "hold", "release"])
async def test_what_is_in_flight_or_over_is_left_alone(database: Database, verb: str) -> None:
    """Refused, with what to do instead; nothing changes."""
    await endpoints(database)
    await enqueue(database, 1)
    claimed = json.loads(await database.value("select webhook.claim('w', 10, 1000000)"))
    refusals = []
    for _ in range(2):
        with pytest.raises(DatabaseError) as raised:
            await database.value(f"select webhook.{verb}_delivery(1, 'ann')")
        assert raised.value.hint
        refusals.append((raised.value.sqlstate, str(raised.value).partition("\n")[0]))
        outcome = [claimed["claim"], 1, "delivered", "ok", 200, 0, 0, None, None, 0, None, None]
        await database.value("select webhook.record('w', $1::text)", json.dumps([outcome]))

    assert [("55000", "webhook: delivery 1 is in flight"), ("55000", "webhook: delivery 1 is delivered")] == refusals
    assert [] == await changed(database, verb)


async def test_a_retry_lets_go_what_was_held(database: Database) -> None:
    """It is due now, and no note is left; a purge leaves none either."""
    await endpoints(database)
    await enqueue(database, 2)
    for delivery in (1, 2):
        await database.value("select webhook.hold_delivery($1::bigint)", delivery)
    assert "held" == await database.value("select webhook.retry_delivery(1)")
    assert 1 == await database.value("select count(*) from webhook.held_delivery")
    purge = await database.value("select purge from webhook.begin_purge(null, 2, 'ann', 'because')")
    await database.value("select webhook.purge_endpoint($1::bigint, 1, 10)", purge)

    assert 0 == await database.value("select count(*) from webhook.held_delivery")
    assert ["pending", "cancelled"] == [
        row["state"] for row in await database.rows("select state from webhook.deliveries order by id")
    ]
