"""A worker that is frozen past its leases, then thawed: others took over, and it sends and changes nothing any more."""

import re
import signal
from collections import Counter
from pathlib import Path

import pytest
from fleet import Receiver, Worker, pythons, until

from worker.store.database import Database

pytestmark = pytest.mark.alone

EVENTS = 40


async def shorten_leases(database: Database) -> None:
    """Make this database's leases 3 s, which are at least 30 elsewhere; the workers learn of it by their claims."""
    definition = await database.value("select pg_get_functiondef('webhook.claim'::regproc)")
    assert 1 == definition.count("'00:00:30'::interval")
    await database.script([definition.replace("'00:00:30'::interval", "'00:00:03'::interval")])


@pytest.mark.sql
@pytest.mark.fault(55)
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parents[1].name)
async def test_frozen_past_the_lease(dsn: str, database: Database, python: str) -> None:
    """SIGSTOP, with some on the wire and more in hand; another takes all over; SIGCONT: nothing is sent, all is fenced off."""
    await shorten_leases(database)
    async with Receiver(pause=1).listening() as receiver:
        await database.value(
            "select id from webhook.create_endpoint($1, settings => '{\"timeout_seconds\": 1.5}')", receiver.url()
        )
        await database.value(
            "select count(*) from webhook.enqueue_many(array_fill('t'::text, array[$1::int]), "
            "(select array_agg(n::text) from generate_series(1, $1::int) as n))", EVENTS,
        )  # fmt: skip
        with Worker(dsn, "--concurrency", "8", python=python) as frozen:
            await until(lambda: receiver.arrivals)
            frozen.process.send_signal(signal.SIGSTOP)
            receiver.pause = 0
            in_hand = await database.value("select count(*) from webhook.inflight")
            with Worker(dsn) as other:
                await until(lambda: database.value("select count(*) = $1::int from webhook.finished", EVENTS))
                came = Counter(arrival.body for arrival in receiver.arrivals)
                frozen.process.send_signal(signal.SIGCONT)
                frozen.terminate()
                status, said = await frozen.wait()
                other.terminate()
                assert (await other.wait())[0] == 0
    assert came.total() == len(receiver.arrivals), "sent after its lease"
    ended = re.search(r"(\d+) outcomes fenced off, 0 not recorded", said)
    assert (0, in_hand) == (status, ended and int(ended[1])), said
    assert {str(n).encode() for n in range(1, EVENTS + 1)} == set(came)
    rows = await database.rows(
        "select e.payload from webhook.attempts as a join webhook.events as e on e.id = a.event_id "
        "where a.outcome = 'lease_expired'"
    )
    assert in_hand == len(rows)
    assert {body.decode() for body, times in came.items() if times > 1} <= {row["payload"] for row in rows}
    assert 0 == await database.value("select sum(in_flight)::int from webhook.endpoints")
