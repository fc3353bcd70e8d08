"""What the producers of `python -m benchmarks chaos` write down is true."""

from functools import partial
from hashlib import sha256
from io import StringIO
from pathlib import Path

import anyio
import pytest
from fleet import until

from benchmarks.chaos.collect import read_produced
from worker.store.database import Database

producers = pytest.importorskip("benchmarks.chaos.producers", reason="they need asyncpg")

PAYLOAD = '{"é": 1}'
DIGEST = sha256(PAYLOAD.encode()).hexdigest()


@pytest.mark.parametrize(
    ("keyed", "roll_back", "fate", "stored"),
    [(False, False, "committed", 1), (True, False, "committed", 1), (False, True, "rolled back", 0)],
)
async def test_a_producer_knows_the_fate(
    dsn: str, database: Database, tmp_path: Path, *, keyed: bool, roll_back: bool, fate: str, stored: int
) -> None:
    """Its log has it, and the database agrees; with a key, a second time changes nothing."""
    event = producers.Event("order", PAYLOAD, "k" if keyed else None)
    connection, log = producers.Connection(dsn), StringIO()
    for _ in range(1 + keyed):
        await producers.carry_out(connection, [event], log, roll_back=roll_back)
    connection.close()
    (tmp_path / "log").write_text(log.getvalue())
    (produced,) = read_produced(tmp_path / "log")
    assert (DIGEST, "order", fate) == produced[:3]
    assert stored == await database.value("select count(*) from webhook.events where id = $1::bigint", produced.event or 0)
    assert stored == await database.value("select count(*) from webhook.events")


async def test_a_producer_without_a_reply_does_not_know(dsn: str, database: Database, tmp_path: Path) -> None:
    """Its commit waits for a lock, and the connection is ended under it: unknown, and the log says so from the beginning."""
    connection, log = producers.Connection(dsn), StringIO()
    await database.script([HOLD_COMMITS])
    async with anyio.create_task_group() as group:
        event = producers.Event("order", PAYLOAD, None)
        group.start_soon(partial(producers.carry_out, connection, [event], log, roll_back=False))
        await until(lambda: database.value(WAITING))
        assert await database.value(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query ~ '^COMMIT'"
        )
    connection.close()
    (tmp_path / "log").write_text(log.getvalue())
    assert ["unknown"] == [produced.fate for produced in read_produced(tmp_path / "log")]


HOLD_COMMITS = """
create function hold() returns trigger language plpgsql as 'begin perform pg_sleep(60); return null; end';
create constraint trigger hold after insert on webhook.event deferrable initially deferred
    for each row execute function hold()"""
WAITING = (
    "select count(*) > 0 from pg_stat_activity where datname = current_database() and query ~ '^COMMIT' and state = 'active'"
)
