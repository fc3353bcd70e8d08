"""webhook.enqueue and webhook.enqueue_many: what a producer may rely on inside its own transaction."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from worker.store.database import Database, DatabaseError, connect

ENQUEUE = "select webhook.enqueue($1::text, $2::text)"
KEYED = "select webhook.enqueue('order.created', $1::text, idempotency_key => $2::text)"
MANY = "select id from webhook.enqueue_many($1::text[], $2::text[], idempotency_keys => $3::text[]) as id"


class RolledBack(Exception):
    """Leaves a transaction without committing it."""


Connect = Callable[[], AbstractAsyncContextManager[Database]]


@pytest.fixture
def another(dsn: str) -> Connect:
    """Open further connections: other producers."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Database]:
        connection = connect(dsn)
        try:
            yield connection
        finally:
            await connection.close()

    return opened


async def endpoint(database: Database, *event_types: str, tenant: str = "") -> int:
    sql = "select id from webhook.create_endpoint('http://127.0.0.1:9/', $1::text, $2::text::jsonb)"
    return int(await database.value(sql, tenant, json.dumps({"event_types": event_types})))


async def receivers(database: Database, event: int) -> list[int]:
    rows = await database.rows("select endpoint_id from webhook.deliveries where event_id = $1::bigint order by 1", event)
    return [row["endpoint_id"] for row in rows]


async def payload(database: Database, event: int) -> Any:
    return await database.value("select payload from webhook.events where id = $1::bigint", event)


async def ids(database: Database, sql: str, *args: Any) -> list[int]:
    return [row["id"] for row in await database.rows(sql, *args)]


# -- payloads --------------------------------------------------------------------------------------------------------

ODD = '{"b":1,   "a": [1.0, 1e400], "b": 2}\n'


async def test_untyped_literal_is_text(database: Database) -> None:
    """A bare literal is taken as text, byte for byte, though it looks like JSON."""
    event = await database.value(f"select webhook.enqueue('order.created', '{ODD}')")
    assert await payload(database, event) == ODD


async def test_json_is_kept_byte_for_byte(database: Database) -> None:
    """A json payload keeps its spaces, its order and its duplicates."""
    event = await database.value(f"select webhook.enqueue('order.created', '{ODD}'::json)")
    assert await payload(database, event) == ODD


async def test_jsonb_is_as_postgres_writes_it(database: Database) -> None:
    """A jsonb payload is sent as Postgres writes it: it never was the caller's bytes."""
    event = await database.value("""select webhook.enqueue('order.created', '{"b":1,  "a": 2}'::jsonb)""")
    assert await payload(database, event) == '{"a": 2, "b": 1}'


@pytest.mark.fault(39)
async def test_empty_and_invalid_json_text(database: Database) -> None:
    """Text is not parsed: an empty payload and broken JSON are sent as they are."""
    for text in ("", "{broken", "\t\u2028\U0001f642"):
        assert await payload(database, await database.value(ENQUEUE, "order.created", text)) == text


async def test_payload_limit(database: Database) -> None:
    """The largest payload is taken; one byte more is a clear error, counted in bytes and not in characters."""
    assert await database.value(ENQUEUE, "order.created", "x" * 262_144)
    with pytest.raises(DatabaseError, match="the payload has 262146 bytes, the limit is 262144") as raised:
        await database.value(ENQUEUE, "order.created", "é" * 131_073)
    assert raised.value.sqlstate == "54000"
    assert "payload_bytes_max" in str(raised.value.hint)


async def test_payload_limit_is_a_setting(database: Database) -> None:
    """An operator may raise or lower the limit."""
    await database.script(["update webhook.meta set payload_bytes_max = 10"])
    with pytest.raises(DatabaseError, match="the payload has 11 bytes, the limit is 10"):
        await database.value(ENQUEUE, "order.created", "x" * 11)


@pytest.mark.parametrize(
    ("arguments", "sqlstate", "message"),
    [
        ("null::text, '{}'", "22023", "event type null is not valid"),
        ("'', '{}'", "22023", "event type '' is not valid"),
        ("'order created', '{}'", "22023", "event type 'order created' is not valid"),
        ("'order.', '{}'", "22023", "event type 'order.' is not valid"),
        ("'order.*', '{}'", "22023", "event type 'order.*' is not valid"),
        ("E'order\\n', '{}'", "22023", "is not valid"),
        ("repeat('a', 256), '{}'", "22023", "is not valid"),
        ("'a', null::text", "22004", "the payload is null"),
        ("'a', '{}', tenant => null", "22023", "the tenant is null or longer than 255 bytes"),
        ("'a', '{}', tenant => repeat('t', 256)", "22023", "the tenant is null or longer than 255 bytes"),
        ("'a', '{}', idempotency_key => ''", "22023", "an idempotency key has 1 to 255 bytes, this one has 0"),
        ("'a', '{}', idempotency_key => repeat('k', 256)", "22023", "this one has 256"),
        ("'a', '{}', deliver_at => null", "22023", "deliver_at is null or infinite"),
        ("'a', '{}', deliver_at => 'infinity'", "22023", "deliver_at is null or infinite"),
        ("'a', '{}', content_type => null", "22023", "the content type is not a header value"),
        ("'a', '{}', content_type => ''", "22023", "the content type is not a header value"),
        ("'a', '{}', content_type => E'text/plain\\r\\nx: y'", "22023", "the content type is not a header value"),
    ],
)
async def test_refused(database: Database, arguments: str, sqlstate: str, message: str) -> None:
    """What cannot be an event is refused with its cause and the next step."""
    with pytest.raises(DatabaseError) as raised:
        await database.value(f"select webhook.enqueue({arguments})")
    assert sqlstate == raised.value.sqlstate
    assert message in str(raised.value)
    assert raised.value.hint
    assert await database.value("select count(*) from webhook.events") == 0


# -- transactions ----------------------------------------------------------------------------------------------------


async def test_rollback_leaves_nothing(database: Database) -> None:
    """A producer that rolls back has queued nothing, and its idempotency key is free again."""
    await endpoint(database)

    class RolledBack(Exception):
        pass

    with suppress(RolledBack):
        async with database.transaction():
            await database.value(KEYED, "{}", "k")
            raise RolledBack
    for table in ("event", "pending", "wake", "idempotency_key"):
        assert await database.value(f"select count(*) from webhook.{table}") == 0
    event = await database.value(KEYED, "{}", "k")
    assert len(await receivers(database, event)) == 1


async def test_committed_together(database: Database, another: Connect) -> None:
    """Nobody sees an event before its producer commits."""
    await endpoint(database)
    async with another() as observer:
        async with database.transaction():
            event = await database.value(ENQUEUE, "order.created", "{}")
            assert await receivers(observer, event) == []
        assert len(await receivers(observer, event)) == 1


async def test_producers_do_not_wait(database: Database, another: Connect) -> None:
    """An open producer transaction holds up neither another producer nor a worker's claim."""
    await endpoint(database)
    async with another() as other, database.transaction():
        await database.value(ENQUEUE, "order.created", "{}")
        with anyio.fail_after(5):
            await other.value(ENQUEUE, "order.created", "{}")
            claimed = json.loads(await other.value("select webhook.claim('w', 10, 1000000)"))
        assert len(claimed["deliveries"]) == 1


# -- idempotency -----------------------------------------------------------------------------------------------------


async def test_same_key_again(database: Database) -> None:
    """The same key again gives the first event's id and queues nothing, whatever else was given."""
    await endpoint(database)
    first = await database.value(KEYED, "first", "k")
    assert first == await database.value(KEYED, "second", "k")
    assert await payload(database, first) == "first"
    assert len(await receivers(database, first)) == 1
    assert await database.value("select count(*) from webhook.events") == 1


async def test_keys_belong_to_a_tenant(database: Database) -> None:
    """Two tenants may use the same key."""
    sql = "select webhook.enqueue('a', '{}', tenant => $1::text, idempotency_key => 'k')"
    assert await database.value(sql, "x") != await database.value(sql, "y")


@pytest.mark.parametrize("commits", [True, False])
async def test_same_key_waits(database: Database, another: Connect, commits: bool) -> None:
    """Of two producers with one key the second waits: for the first's id, or to be the first after a rollback."""
    found: list[int] = []

    async def second() -> None:
        async with another() as other:
            found.append(await other.value(KEYED, "second", "k"))

    class RolledBack(Exception):
        pass

    async with anyio.create_task_group() as producers, another() as third:
        with suppress(RolledBack):
            async with database.transaction():
                first = await database.value(KEYED, "first", "k")
                producers.start_soon(second)
                await until_somebody_waits(third)
                with anyio.fail_after(5):  # another key waits for nobody
                    assert await third.value(KEYED, "third", "other")
                assert found == []
                if not commits:
                    raise RolledBack
    assert commits == (found == [first])
    assert await payload(database, found[0]) == ("first" if commits else "second")


async def until_somebody_waits(observer: Database) -> None:
    """Poll, outside of any transaction: inside one the statistics stand still."""
    with anyio.fail_after(10):
        while not await observer.value(  # noqa: ASYNC110 - another process's state: nobody tells us
            "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database())"
        ):
            await anyio.sleep(0.01)


# -- subscriptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("order.created", ["order.created"], ["order", "order.created.eu", "orders.created", "Order.created"]),
        ("order.*", ["order.created", "order.created.eu"], ["order", "orders.created", "a.order.created"]),
        ("a.b.*", ["a.b.c", "a.b.c.d"], ["a.b", "a.c.b", "a.bc.d"]),
        ("*", ["order", "order.created", "a.b.c"], []),
    ],
)
async def test_patterns(database: Database, pattern: str, matching: list[str], others: list[str]) -> None:
    """A subscription is an exact type, everything below a prefix, or everything."""
    id_ = await endpoint(database, pattern)
    for event_type in (*matching, *others):
        event = await database.value(ENQUEUE, event_type, "{}")
        assert ([id_] if event_type in matching else []) == await receivers(database, event), event_type


async def test_overlapping_patterns_deliver_once(database: Database) -> None:
    """An endpoint whose patterns match an event several times gets it once, from enqueue and from enqueue_many."""
    id_ = await endpoint(database, "*", "order.*", "order.created")
    assert await receivers(database, await database.value(ENQUEUE, "order.created", "{}")) == [id_]
    (event,) = await ids(database, MANY, ["order.created"], ["{}"], None)
    assert await receivers(database, event) == [id_]


async def test_no_event_types_is_all(database: Database) -> None:
    """An endpoint without event types gets everything."""
    id_ = await endpoint(database)
    assert await receivers(database, await database.value(ENQUEUE, "a.b", "{}")) == [id_]


async def test_other_tenants_get_nothing(database: Database) -> None:
    """An event goes to its own tenant's endpoints only."""
    await endpoint(database, tenant="other")
    mine = await endpoint(database, tenant="mine")
    event = await database.value("select webhook.enqueue('a', '{}', tenant => 'mine')")
    assert await receivers(database, event) == [mine]


@pytest.mark.parametrize("verb", ["pause", "disable"])
async def test_held_endpoints_get_held_deliveries(database: Database, verb: str) -> None:
    """Events for a paused or disabled endpoint are held for it, not lost."""
    id_ = await endpoint(database)
    await database.value(f"select webhook.{verb}_endpoint($1::bigint)", id_)
    event = await database.value(ENQUEUE, "a", "{}")
    assert await database.value("select state from webhook.deliveries where event_id = $1::bigint", event) == "held"


async def test_event_without_subscribers(database: Database) -> None:
    """An event that nobody wants is kept, and visible."""
    event = await database.value(ENQUEUE, "lonely", "{}")
    (row,) = await database.rows("select tenant, event_type, payload_bytes from webhook.events where id = $1::bigint", event)
    assert row == {"tenant": "", "event_type": "lonely", "payload_bytes": 2}


async def test_deliver_at(database: Database) -> None:
    """A future event is pending for its time."""
    await endpoint(database)
    event = await database.value("select webhook.enqueue('a', '{}', deliver_at => '2030-01-02T03:04:05Z')")
    sql = "select state from webhook.deliveries where event_id = $1::bigint and next_attempt_at = '2030-01-02T03:04:05Z'"
    assert await database.value(sql, event) == "pending"


# -- enqueue_many ----------------------------------------------------------------------------------------------------


async def test_many_in_input_order(database: Database) -> None:
    """Ids come back in the order of the input, each for its own event and receivers."""
    orders, users = await endpoint(database, "order.*"), await endpoint(database, "user.created")
    types = ["user.created", "order.created", "none", "order.created"] * 50
    payloads = [str(n) for n in range(200)]
    found = await ids(database, MANY, types, payloads, None)
    assert payloads == [await payload(database, event) for event in found]
    assert len(set(found)) == 200
    wanted = {"user.created": [users], "order.created": [orders], "none": []}
    for event_type, event in zip(types[:8], found[:8], strict=True):
        assert wanted[event_type] == await receivers(database, event)
    assert await database.value("select count(*) from webhook.pending") == 150


async def test_many_of_nothing(database: Database) -> None:
    """No events, no ids."""
    assert await ids(database, MANY, [], [], None) == []


async def test_many_with_repeated_keys(database: Database) -> None:
    """A key that comes twice in one call, or was used before, gives the first event's id; only the first is queued."""
    id_ = await endpoint(database)
    before = await database.value(KEYED, "before", "old")
    keys = ["a", None, "b", "a", "old", None, "b"]
    first = await ids(database, MANY, ["t"] * 7, list("0123456"), keys)
    assert (first[0], first[2], before) == (first[3], first[6], first[4])
    assert len(set(first)) == 5
    assert [await payload(database, event) for event in first] == ["0", "1", "2", "0", "before", "5", "2"]
    for event in first:
        assert await receivers(database, event) == [id_]
    again = await ids(database, MANY, ["t"] * 7, list("xxxxxxx"), keys)
    assert [again[n] for n in (0, 2, 3, 4, 6)] == [first[n] for n in (0, 2, 3, 4, 6)]
    assert not {again[1], again[5]} & set(first)


async def test_many_with_overlapping_keys_do_not_deadlock(database: Database, another: Connect) -> None:
    """Two producers whose keys overlap in opposite order wait for each other, and agree on the ids."""
    keys = [f"k{n:02}" for n in range(40)]
    found: dict[str, list[int]] = {}

    async def produce(name: str, own: list[str]) -> None:
        async with another() as connection:
            found[name] = await ids(connection, MANY, ["t"] * 40, [name] * 40, own)

    async with anyio.create_task_group() as producers:
        producers.start_soon(produce, "up", keys)
        producers.start_soon(produce, "down", keys[::-1])
    assert found["up"] == found["down"][::-1]
    assert await database.value("select count(*) from webhook.events") == 40


@pytest.mark.parametrize(
    ("types", "payloads", "keys", "message"),
    [
        (["a"], ["1", "2"], None, "1 event types, 2 payloads, no idempotency keys"),
        (["a"], ["1"], ["k", "l"], "1 event types, 1 payloads, 2 idempotency keys"),
        (None, ["1"], None, "null event types, 1 payloads"),
        (["a", "b c"], ["1", "2"], None, "event type 'b c' is not valid"),
        (["a", None], ["1", "2"], None, "event type null is not valid"),
        (["a", "b"], ["1", "x" * 262_145], None, "the payload has 262145 bytes"),
    ],
)
async def test_many_refused(database: Database, types: Any, payloads: Any, keys: Any, message: str) -> None:
    """One bad event refuses the whole call, with its cause."""
    with pytest.raises(DatabaseError, match=message):
        await ids(database, MANY, types, payloads, keys)
    assert await database.value("select count(*) from webhook.events") == 0


# -- partitions ------------------------------------------------------------------------------------------------------

PARTITION = "select tableoid::regclass::text from webhook.event where id = $1::bigint"


async def test_event_lands_in_its_week(database: Database) -> None:
    """An event is stored in this week's partition."""
    event = await database.value(ENQUEUE, "a", "{}")
    week = await database.value("""select to_char(now() at time zone 'UTC', '"webhook.event_"IYYY"w"IW')""")
    assert week == await database.value(PARTITION, event)


async def test_event_without_a_partition(database: Database) -> None:
    """With no partition for this week, because workers were away for long, producers still succeed."""
    week = await database.value("""select to_char(now() at time zone 'UTC', '"webhook.event_"IYYY"w"IW')""")
    await database.script([f"drop table {week}"])
    event = await database.value(ENQUEUE, "a", "{}")
    assert await database.value(PARTITION, event) == "webhook.event_default"
