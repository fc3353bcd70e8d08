"""`deliveries retry` in a real terminal: what would happen, the question, the bar; left in the middle, and joined again."""

import pytest
from fleet import Receiver, Worker, until
from terminal import Terminal, needs_tmux, record, terminal

from worker.store.database import Database

pytestmark = pytest.mark.alone

DELIVERIES = 120
RETRY = ("deliveries", "retry", "--state", "dead", "--rate", "20")
DEAD = """
select webhook.record('w', (
    select json_agg(json_build_array(claim_id, id, 'dead', 'http_status', 500, 0.1, 0.1, null, null, 0, null, null))::text
    from webhook.inflight))
"""
ENQUEUE = """
select count(*)
from webhook.enqueue_many(array_fill('order.created'::text, array[$1::int]), array_fill('{}'::text, array[$1::int]))
"""


async def screen_has(shown: Terminal, *texts: str) -> None:
    await until(lambda: all(text in shown.screen() for text in texts), every=0.2)


async def dead(database: Database, receiver: Receiver) -> None:
    """Make one endpoint with so many dead deliveries."""
    await database.value("select id from webhook.create_endpoint($1::text, '', '{\"max_in_flight\": 1000}')", receiver.url())
    await database.value(ENQUEUE, DELIVERIES)
    while await database.value("select count(*) from webhook.pending"):
        await database.value("select webhook.claim('w', 1000, 1000000)")
        await database.value(DEAD)


@needs_tmux
@pytest.mark.sql
async def test_it_shows_asks_and_can_be_left_and_joined_again(dsn: str, database: Database) -> None:
    """Ctrl-C leaves the bar, not the job; `jobs show --follow` shows it again; each delivery arrives once more."""
    async with Receiver().listening() as receiver:
        await dead(database, receiver)
        environment = {"DATABASE_URL": dsn}
        with Worker(dsn) as worker:
            with terminal(110, 20) as shown:
                shown.run([*RETRY, "--reason", "their bug is fixed"], environment)
                await screen_has(shown, f"{DELIVERIES} deliveries", "[y/N]")
                shown.press("y", "Enter")
                await until(lambda: 20 <= done(shown.screen()) < DELIVERIES, every=0.1)
                record("deliveries-retry", shown.screen())
                shown.press("C-c")
                await screen_has(shown, "ended with")
            with terminal(110, 20) as shown:
                shown.run(["jobs", "show", "1", "--follow"], environment)
                await screen_has(shown, "ended with 0")
                assert "done" in shown.screen()
            await until(lambda: len(receiver.arrivals) == DELIVERIES)
            worker.terminate()
            await worker.wait()
    assert DELIVERIES == len({arrival.headers["webhook-id"] for arrival in receiver.arrivals})


def done(screen: str) -> int:
    """Read how many of them the bar says are done."""
    for word in screen.split():
        number, slash, total = word.partition("/")
        if slash and total == str(DELIVERIES) and number.isdigit():
            return int(number)
    return 0
