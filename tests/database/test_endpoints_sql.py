"""The audited SQL functions for endpoints and single deliveries."""

import json
from typing import Any

import pytest

from worker.store.database import Database, DatabaseError

URL = "https://example.test/hook"
KEY = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
CREATE = "select id from webhook.create_endpoint($1::text, settings => $2::text::jsonb)"
SET = "select webhook.set_endpoint($1::bigint, $2::text::jsonb, actor => 'ann', reason => 'because')"
RETRY = "select webhook.retry_delivery($1::bigint, force => $2::bool, actor => 'ann', reason => 'because')"


async def create(database: Database, **settings: Any) -> int:
    return int(await database.value(CREATE, URL, json.dumps(settings)))


async def view(database: Database, endpoint: int) -> dict[str, Any]:
    (row,) = await database.rows("select * from webhook.endpoints where id = $1::bigint", endpoint)
    return row


async def audit(database: Database) -> list[tuple[Any, ...]]:
    sql = "select actor, action, endpoint_id, delivery_id, reason, details::text from webhook.audit order by id"
    rows = await database.rows(sql)
    return [(*list(row.values())[:-1], json.loads(row["details"])) for row in rows]


# -- create ----------------------------------------------------------------------------------------------------------


async def test_defaults(database: Database) -> None:
    """A new endpoint gets everything, at any rate, 64 at once, with 15 s each and nine retries over three days."""
    row = await view(database, await create(database))
    assert {
        "tenant": "", "url": URL, "event_types": [], "state": "enabled", "state_reason": "", "rate": None, "burst": 1,
        "max_in_flight": 64, "timeout_seconds": 15.0, "circuit": "closed", "in_flight": 0,
        "retry_seconds": [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400],
    }.items() <= row.items()  # fmt: skip


async def test_settings(database: Database) -> None:
    """Every setting can be chosen at creation."""
    settings = {
        "event_types": ["order.*", "user.created"], "rate": 2.5, "burst": 7, "max_in_flight": 3,
        "timeout_seconds": 1.5, "retry_seconds": [0, 0.5],
    }  # fmt: skip
    row = await view(database, await create(database, **settings, headers={"X-A": "b"}))
    assert settings == {name: row[name] for name in settings}


async def test_key_is_made(database: Database) -> None:
    """Without keys one is made: 32 bytes, different every time, and returned this once."""
    keys = [await database.value("select key from webhook.create_endpoint($1::text)", URL) for _ in range(2)]
    assert len(set(keys)) == 2
    sql = "select length(secret) from webhook.endpoint_key where 'whsec_' || encode(secret, 'base64') = $1::text"
    assert [await database.value(sql, key) for key in keys] == [32, 32]


async def test_keys_are_kept(database: Database) -> None:
    """Given keys are used, all of them."""
    sql = "select key from webhook.create_endpoint($1::text, keys => array[$2, 'whsec_' || encode(sha256('x'), 'base64')])"
    assert await database.value(sql, URL, KEY) == KEY
    assert await database.value("select count(*) from webhook.endpoint_key") == 2


async def test_nothing_to_visit(database: Database) -> None:
    """A new endpoint is due for a visit only once it has something pending, also after its limits were changed."""
    visits = "select count(*) from webhook.endpoint_sched where turn is not null or next_at < 'infinity'"
    endpoint = await create(database)
    await database.value(SET, endpoint, '{"rate": 5}')
    assert await database.value(visits) == 0
    await database.value("select webhook.enqueue('a', '{}')")
    await database.value("select webhook.drain_wake(10)")
    assert await database.value(visits) == 1


@pytest.mark.parametrize("key", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!!", KEY.removeprefix("whsec_"), "WHSEC_" + KEY[6:]])
async def test_bad_key(database: Database, key: str) -> None:
    """What is no key is refused, and nothing is left of the endpoint."""
    with pytest.raises(DatabaseError, match='a key is "whsec_" and 24 to 64 bytes in base64'):
        await database.value("select webhook.create_endpoint($1::text, keys => array[$2::text])", URL, key)
    assert await database.value("select count(*) from webhook.endpoint") == 0


@pytest.mark.parametrize(
    ("settings", "sqlstate"),
    [
        ({"colour": "red"}, "22023"),
        ({"rate": 0}, "23514"),
        ({"rate": -1}, "23514"),
        ({"rate": "NaN"}, "23514"),
        ({"rate": "Infinity"}, "23514"),
        ({"rate": 1e-9}, "23514"),
        ({"burst": 0}, "23514"),
        ({"transport": "No name"}, "23514"),
        ({"max_in_flight": 0}, "23514"),
        ({"timeout_seconds": 0}, "23514"),
        ({"timeout_seconds": 301}, "23514"),
        ({"timeout_seconds": "NaN"}, "23514"),
        ({"retry_seconds": [-1]}, "23514"),
        ({"retry_seconds": ["NaN"]}, "23514"),
        ({"retry_seconds": [1] * 101}, "23514"),
        ({"headers": ["x"]}, "23514"),
        ({"event_types": ["order*"]}, "22023"),
        ({"event_types": [""]}, "22023"),
        ({"event_types": ["*.created"]}, "22023"),
        ({"url": "ftp://example.test/"}, "23514"),
        ({"url": "https://example.test/\n"}, "23514"),
    ],
)
@pytest.mark.fault(63)
async def test_bad_settings(database: Database, settings: dict[str, Any], sqlstate: str) -> None:
    """Settings out of bounds are refused by create and by set, also while the endpoint is at its limit."""
    with pytest.raises(DatabaseError) as raised:
        await create(database, **settings)
    assert sqlstate == raised.value.sqlstate
    endpoint = await create(database, rate=0.5)
    await database.script(["update webhook.endpoint_sched set tat = now() + interval '2 s'"])
    before = await view(database, endpoint)
    with pytest.raises(DatabaseError) as raised:
        await database.value(SET, endpoint, json.dumps(settings))
    assert sqlstate == raised.value.sqlstate
    assert before == await view(database, endpoint)


@pytest.mark.parametrize("settings", [{"rate": 1e-5, "burst": 1_000_000}, {"rate": 1e6, "burst": 1_000_000}, {"rate": 1e-5}])
async def test_extreme_limits(database: Database, settings: dict[str, Any]) -> None:
    """The most extreme limits that are accepted do not break a claim, which others share."""
    await create(database, **settings)
    many = "select count(*) from webhook.enqueue_many(array_fill('a'::text, array[50]), array_fill('{}'::text, array[50]))"
    await database.value(many)
    for _ in range(3):
        claimed = json.loads(await database.value("select webhook.claim('w', 10, 1000000)"))
    assert claimed["now"]
    assert await database.value("select count(*) from webhook.inflight") == (1 if settings == {"rate": 1e-5} else 30)


async def test_create_is_audited(database: Database) -> None:
    """Who created what is written down, without the headers, which may hold credentials."""
    sql = "select id from webhook.create_endpoint($1::text, 't', $2::text::jsonb, actor => 'ann', reason => 'new')"
    endpoint = await database.value(sql, URL, json.dumps({"rate": 2, "headers": {"X-Token": "canary"}}))
    details = {"url": URL, "tenant": "t", "rate": 2}
    assert await audit(database) == [("ann", "endpoint.create", endpoint, None, "new", details)]


# -- set -------------------------------------------------------------------------------------------------------------


async def test_set(database: Database) -> None:
    """Only what is named changes; workers see a new version; it is audited."""
    endpoint = await create(database, rate=5, burst=9, headers={"X-A": "b"})
    await database.value(SET, endpoint, json.dumps({"rate": None, "url": URL + "/2", "retry_seconds": []}))
    row = await view(database, endpoint)
    assert (row["rate"], row["burst"], row["url"], row["retry_seconds"]) == (None, 9, URL + "/2", [])
    assert await database.value('select version from webhook.endpoint where headers = \'{"X-A": "b"}\'') == 3
    details: dict[str, Any] = {"rate": None, "url": URL + "/2", "retry_seconds": []}
    assert (await audit(database))[-1] == ("ann", "endpoint.set", endpoint, None, "because", details)


async def test_set_event_types(database: Database) -> None:
    """New event types apply from the next event on; none is all."""
    endpoint = await create(database, event_types=["a"])

    async def gets(event_type: str) -> bool:
        event = await database.value("select webhook.enqueue($1::text, '{}'::text)", event_type)
        return bool(await database.value("select count(*) from webhook.deliveries where event_id = $1::bigint", event))

    assert [await gets("a"), await gets("b")] == [True, False]
    await database.value(SET, endpoint, json.dumps({"event_types": ["b", "b", "b.*"]}))
    assert [await gets("a"), await gets("b"), await gets("b.c")] == [False, True, True]
    await database.value(SET, endpoint, json.dumps({"event_types": []}))
    assert [await gets("a"), await gets("b")] == [True, True]


@pytest.mark.parametrize(
    "call",
    [
        "webhook.set_endpoint(7, '{}')", "webhook.pause_endpoint(7)", "webhook.resume_endpoint(7)",
        "webhook.disable_endpoint(7)", "webhook.enable_endpoint(7)",
    ],
)  # fmt: skip
async def test_no_such_endpoint(database: Database, call: str) -> None:
    """An endpoint that does not exist is an error of its own."""
    with pytest.raises(DatabaseError, match="there is no endpoint 7") as raised:
        await database.value(f"select {call}")
    assert raised.value.sqlstate == "P0002"
    assert await audit(database) == []


# -- states ----------------------------------------------------------------------------------------------------------


async def steer(database: Database, verb: str, endpoint: int, reason: str = "") -> None:
    await database.value(f"select webhook.{verb}_endpoint($1::bigint, 'ann', $2::text)", endpoint, reason)


@pytest.mark.parametrize(("hold", "release", "state"), [("pause", "resume", "paused"), ("disable", "enable", "disabled")])
async def test_states(database: Database, hold: str, release: str, state: str) -> None:
    """Holding and releasing change the state and its reason; doing it twice changes and writes nothing."""
    endpoint = await create(database)
    for _ in range(2):
        await steer(database, hold, endpoint, "too loud")
        row = await view(database, endpoint)
        assert (row["state"], row["state_reason"]) == (state, "too loud")
    for _ in range(2):
        await steer(database, release, endpoint, "quiet now")
        row = await view(database, endpoint)
        assert (row["state"], row["state_reason"]) == ("enabled", "")
    assert (await audit(database))[1:] == [
        ("ann", f"endpoint.{hold}", endpoint, None, "too loud", {}),
        ("ann", f"endpoint.{release}", endpoint, None, "quiet now", {}),
    ]


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_disabled_is_left_by_enable_only(database: Database, verb: str) -> None:
    """A disabled endpoint is neither paused nor resumed: somebody has to look at why it is disabled."""
    endpoint = await create(database)
    await steer(database, "disable", endpoint, "gone")
    with pytest.raises(DatabaseError, match=f"endpoint {endpoint} is disabled") as raised:
        await steer(database, verb, endpoint)
    assert raised.value.sqlstate == "55000"
    assert raised.value.hint
    assert (await view(database, endpoint))["state_reason"] == "gone"


# -- retry -----------------------------------------------------------------------------------------------------------


async def claim(database: Database) -> tuple[int, int, int, int]:
    """Claim the one delivery: (claim, delivery, attempt, attempts before)."""
    claimed = json.loads(await database.value("select webhook.claim('w', 10, 1000000)"))
    ((delivery, _, attempt, before, *_),) = claimed["deliveries"]
    return claimed["claim"], delivery, attempt, before


async def record(database: Database, claim_id: int, delivery: int, disposition: str, retry: float = 0) -> int:
    outcome = [claim_id, delivery, disposition, "x", None, 0, 0, None, None, retry, None, None]
    return int(await database.value("select webhook.record('w', $1::text)", json.dumps([outcome])))


async def delivery_in(database: Database, disposition: str | None) -> tuple[int, int]:
    """Make a delivery that was claimed once and then ended like this: (claim, delivery)."""
    await create(database)
    await database.value("select webhook.enqueue('a', '{}')")
    claim_id, delivery, *_ = await claim(database)
    if disposition:
        assert await record(database, claim_id, delivery, disposition, 3600) == 1
    return claim_id, delivery


async def state(database: Database, delivery: int) -> str:
    return str(await database.value("select state from webhook.deliveries where id = $1::bigint", delivery))


@pytest.mark.parametrize(("disposition", "before"), [("dead", "dead"), ("retry", "pending")])
async def test_retry(database: Database, disposition: str, before: str) -> None:
    """A dead or waiting delivery is due at once, with its schedule from the start and its attempts still counted."""
    _, delivery = await delivery_in(database, disposition)
    assert await database.value(RETRY, delivery, False) == before
    assert await state(database, delivery) == "pending"
    _, again, attempt, attempts_before = await claim(database)
    assert (delivery, 2, 1) == (again, attempt, attempts_before)
    details = {"state_before": before, "forced": False}
    assert (await audit(database))[-1] == ("ann", "delivery.retry", 1, delivery, "because", details)


@pytest.mark.parametrize(("disposition", "message"), [("delivered", "is delivered"), (None, "is in flight")])
@pytest.mark.fault(65)
async def test_retry_refused(database: Database, disposition: str | None, message: str) -> None:
    """A delivered or in-flight delivery is not retried by mistake."""
    _, delivery = await delivery_in(database, disposition)
    before, written = await state(database, delivery), await audit(database)
    with pytest.raises(DatabaseError, match=message) as raised:
        await database.value(RETRY, delivery, False)
    assert raised.value.sqlstate == "55000"
    assert "--force" in str(raised.value.hint)
    assert (before, written) == (await state(database, delivery), await audit(database))


async def test_retry_delivered_by_force(database: Database) -> None:
    """Forced, a receiver gets a delivery once more, as the same delivery of the same event."""
    _, delivery = await delivery_in(database, "delivered")
    assert await database.value(RETRY, delivery, True) == "delivered"
    claim_id, again, *_ = await claim(database)
    assert delivery == again
    assert await record(database, claim_id, delivery, "delivered") == 1
    assert await state(database, delivery) == "delivered"
    assert await database.value("select count(*) from webhook.deliveries") == 1
    assert await database.value("select count(*) from webhook.attempts") == 2
    assert (await audit(database))[-1][-1] == {"state_before": "delivered", "forced": True}


async def test_retry_in_flight_by_force(database: Database) -> None:
    """Forced, a delivery is taken from its worker: due at once, and that worker's outcome is fenced off."""
    claim_id, delivery = await delivery_in(database, None)
    assert await database.value(RETRY, delivery, True) == "in_flight"
    assert await state(database, delivery) == "pending"
    assert await record(database, claim_id, delivery, "dead") == 0
    current, again, attempt, attempts_before = await claim(database)
    assert (delivery, 2, 1) == (again, attempt, attempts_before)
    assert await record(database, current, delivery, "delivered") == 1
    assert await database.value("select in_flight from webhook.endpoints") == 0
    assert await database.value("select count(*) from webhook.claim_batch") == 0


async def test_retry_of_a_held_delivery(database: Database) -> None:
    """A retry does not override its endpoint's pause."""
    _, delivery = await delivery_in(database, "dead")
    await steer(database, "pause", 1)
    assert await database.value(RETRY, delivery, False) == "dead"
    assert await state(database, delivery) == "held"
    assert json.loads(await database.value("select webhook.claim('w', 10, 1000000)"))["claim"] is None
    await steer(database, "resume", 1)
    assert (await claim(database))[1] == delivery


async def test_no_such_delivery(database: Database) -> None:
    """A delivery that does not exist is an error of its own."""
    with pytest.raises(DatabaseError, match="there is no delivery 7") as raised:
        await database.value(RETRY, 7, False)
    assert raised.value.sqlstate == "P0002"
