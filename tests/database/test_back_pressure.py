"""Back-pressure: a tenant with a backlog limit is measured by workers, warned of, and refused by enqueue."""

import json
from typing import Any

import pytest

from worker.store.database import Database, DatabaseError

SET = "select webhook.set_tenant('a', $1::text::jsonb, actor => 'ann', reason => 'because')"
ENQUEUE = "select webhook.enqueue('order.created', '{}', tenant => $1::text)"
MEASURE = "select webhook.measure_backlogs()::text"


async def enqueue(database: Database, count: int, tenant: str = "a") -> None:
    for _ in range(count):
        await database.value(ENQUEUE, tenant)


async def measure(database: Database) -> Any:
    return json.loads(await database.value(MEASURE))


async def stored(database: Database) -> dict[str, Any]:
    (row,) = await database.rows("select weight, backlog_max, backlog from webhook.tenant where tenant = 'a'")
    return row


@pytest.fixture
async def limited(database: Database) -> Database:
    """Return a database where tenant a has an endpoint and a limit of 10."""
    for tenant in ("a", "b"):
        await database.value("select id from webhook.create_endpoint('http://127.0.0.1:9/', $1::text)", tenant)
    await database.value(SET, '{"backlog_max": 10}')
    return database


async def test_at_the_limit(limited: Database) -> None:
    """Once a tenant is measured at its limit, enqueue fails for it, with its cause and the next step, and for nobody else."""
    await enqueue(limited, 10)
    await measure(limited)
    for sql in (ENQUEUE, "select webhook.enqueue_many(array['a'], array['{}'], tenant => $1::text)"):
        with pytest.raises(DatabaseError, match="tenant 'a' has 10 or more deliveries waiting, its limit is 10") as raised:
            await limited.value(sql, "a")
        assert raised.value.sqlstate == "53400"
        assert "tenants set" in str(raised.value.hint)
    await enqueue(limited, 1, "b")


async def test_after_the_limit(limited: Database) -> None:
    """When enough has been delivered, or the limit is gone, enqueue works again."""
    await enqueue(limited, 10)
    await measure(limited)
    await limited.script(["delete from webhook.pending where id = (select min(id) from webhook.pending)"])
    await measure(limited)
    await enqueue(limited, 1)
    await measure(limited)
    await limited.value(SET, '{"backlog_max": null}')
    await enqueue(limited, 1)


async def test_count_is_bounded(limited: Database) -> None:
    """A backlog is never counted past the limit by more than one."""
    await enqueue(limited, 15)
    await measure(limited)
    assert (await stored(limited))["backlog"] == 11


async def test_waiting_fan_outs_count(limited: Database) -> None:
    """What a wide fan-out still has to make belongs to the backlog."""
    await limited.script(["update webhook.meta set fan_out_max = 1"])
    for _ in range(2):
        await limited.value("select id from webhook.create_endpoint('http://127.0.0.1:9/', 'a')")
    await enqueue(limited, 1)
    await measure(limited)
    assert (await stored(limited))["backlog"] == 3
    await limited.value("select webhook.fan_out_step(2)")
    await measure(limited)
    assert (await stored(limited))["backlog"] == 3


async def test_warned_once(limited: Database) -> None:
    """A tenant is told of when it crosses 80 %, once, and when it is back under 70 %."""
    await enqueue(limited, 7)
    assert await measure(limited) == {}
    await enqueue(limited, 1)
    assert await measure(limited) == {"backlog_near": ["'a': 8 of 10"]}
    assert await measure(limited) == {}
    await limited.script(["delete from webhook.pending where id > (select max(id) - 2 from webhook.pending)"])
    assert await measure(limited) == {"backlog_back": ["'a': 6 of 10"]}
    assert await measure(limited) == {}


async def test_without_workers(limited: Database) -> None:
    """When nobody has measured for a minute, no worker is running: the producer counts itself, and the limit holds exactly."""
    await limited.script(["update webhook.tenant set backlog_at = now() - interval '2 minutes'"])
    await enqueue(limited, 10)
    with pytest.raises(DatabaseError, match="its limit is 10"):
        await enqueue(limited, 1)


async def test_housekeeping_measures(limited: Database) -> None:
    """Workers measure in their housekeeping."""
    await enqueue(limited, 9)
    turns = [await limited.value("select webhook.maintain()") for _ in range(20)]
    assert any("9 of 10" in turn for turn in turns)


async def test_settings_are_kept_and_audited(limited: Database) -> None:
    """A change leaves what it does not name, and a row in the audit log."""
    await limited.value(SET, '{"weight": 2.5}')
    assert {"weight": 2.5, "backlog_max": 10, "backlog": 0} == await stored(limited)
    (row,) = await limited.rows("select actor, action, reason, details::text from webhook.audit order by id desc limit 1")
    assert {"tenant": "a", "weight": 2.5} == json.loads(row.pop("details"))
    assert {"actor": "ann", "action": "tenant.set", "reason": "because"} == row


@pytest.mark.parametrize(
    "changes",
    [
        '{"weight": 0.001}', '{"weight": 101}', '{"weight": "heavy"}', '{"weight": null}', '{"backlog_max": 0}',
        '{"backlog_max": 1.5}', '{"backlog_max": "many"}', '{"colour": "red"}',
    ],
)  # fmt: skip
async def test_refused_settings(database: Database, changes: str) -> None:
    """What is no setting, or out of its range, is refused and changes nothing."""
    with pytest.raises(DatabaseError, match="webhook: a") as raised:
        await database.value(SET, changes)
    assert raised.value.sqlstate == "22023"
    assert await database.value("select count(*) from webhook.tenant") == 0
