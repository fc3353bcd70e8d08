"""A database of an earlier release, with work in it, is brought to this one.

`releases/` holds what `webhook-worker migrate sql` printed then.
"""

import json
from pathlib import Path

import pytest

from worker.store.database import connect
from worker.store.migrate import migrate_up

RELEASES = {path.stem: path.read_text() for path in sorted((Path(__file__).parent / "releases").glob("*.sql"))}
ENQUEUE = """
select count(*) from webhook.enqueue_many(array_fill('e'::text, array[20]), array_fill('{}'::text, array[20]), $1::text)
"""


def outcomes(document: dict[str, list[list[int]]]) -> str:
    """What functions/300_record.sql documents: everything of a claim was delivered."""
    ended = ["delivered", "ok", 200, 0.1, 0.1, None, None, 0, None, None]
    return json.dumps([[document["claim"], row[0], *ended] for row in document["deliveries"]])


@pytest.mark.parametrize("release", RELEASES)
async def test_upgrade(empty_dsn: str, release: str) -> None:
    """What waits, is in flight or has ended survives; the earlier release's calls go on working, and lose nothing."""
    database = connect(empty_dsn)
    await database.script([RELEASES[release].replace("\\set ON_ERROR_STOP on", "")])
    for tenant in ("a", "b"):
        await database.value("select id from webhook.create_endpoint('https://receiver.test/', $1::text)", tenant)
        await database.value(ENQUEUE, tenant)
    ended, held = [json.loads(await database.value("select webhook.claim('old', 10, 100000)")) for _ in range(2)]
    await database.value("select webhook.record('old', $1::text)", outcomes(ended))

    assert await migrate_up(database)
    assert 10 == await database.value("select webhook.record('old', $1::text)", outcomes(held))
    await database.value("select webhook.enqueue('e', '{}'::text, 'a')")
    assert json.loads(await database.value("select webhook.maintain()"))
    assert await database.value("select webhook.has_due()")
    delivered = 20
    while rows := (claimed := json.loads(await database.value("select webhook.claim('old', 10, 100000)"))).get("deliveries"):
        delivered += await database.value("select webhook.record('old', $1::text)", outcomes(claimed))
        assert {"{}"} == {row[7] for row in rows}
    assert (41, 41) == (delivered, await database.value("select count(*) from webhook.finished"))
    await database.close()
