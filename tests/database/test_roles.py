"""deploy/postgres/roles.sql: each role can do its work, and nothing else. The session is the role's own."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from worker.core.model import Decision, Exchange, Outcome
from worker.core.retention import Retention
from worker.core.sealing import KeyRing, new_line
from worker.endpoints import Endpoints
from worker.store.database import Database, DatabaseError, connect
from worker.store.migrate import read_schema
from worker.store.postgres import PostgresStore
from worker.store.sql import statements

pytestmark = pytest.mark.sql

ROLES = ("webhook_producer", "webhook_worker", "webhook_operator", "webhook_reader")
SCRIPT = (Path(__file__).parents[2] / "deploy/postgres/roles.sql").read_text()
URL = "https://203.0.113.7/hook"
KEYS = "select * from webhook.endpoint_key"


@pytest.fixture
async def roles(database: Database) -> None:
    """Apply the script, twice: it may be."""
    await database.script([SCRIPT, SCRIPT])
    for role in ROLES:
        await database.script(
            [f"do $$ begin create role {role}_login login in role {role}; exception when duplicate_object then end $$"]
        )


@asynccontextmanager
async def session(dsn: str, role: str) -> AsyncIterator[Database]:
    """A connection of somebody who is in this role, and in no other."""
    connection = connect(as_role(dsn, role))
    try:
        yield connection
    finally:
        await connection.close()


def as_role(dsn: str, role: str) -> str:
    parts = urlsplit(dsn)
    return parts._replace(netloc=f"{role}_login@{parts.netloc.rpartition('@')[2]}").geturl()


async def test_a_producer_enqueues(dsn: str, database: Database, roles: None) -> None:
    """One, many, with a key, for a tenant with a limit: and it need not know where anything is."""
    await database.value("select id from webhook.create_endpoint($1::text, 'a')", URL)
    await database.value("select webhook.set_tenant('a', '{\"backlog_max\": 100}')")
    async with session(dsn, "webhook_producer") as producer:
        await producer.value("select webhook.enqueue('t', '{}'::jsonb, 'a')")
        await producer.value("select webhook.enqueue('t', 'text', 'a', 'key')")
        await producer.value("select count(*) from webhook.enqueue_many(array['t', 't'], array['1', '2'], 'a')")
        await producer.script(["begin", "select webhook.enqueue('t', 'never', 'a')", "rollback"])

    assert 4 == await database.value("select count(*) from webhook.pending")


async def test_a_worker_claims_records_and_keeps_house(dsn: str, database: Database, roles: None) -> None:
    """All that a worker process asks of the database, partitions included."""
    await database.value("select id from webhook.create_endpoint($1::text, settings => '{\"rate\": 100}')", URL)
    await database.value("select webhook.enqueue('t', '{}')")
    await database.value("select webhook.enqueue('t', '{}')")
    store = PostgresStore(as_role(dsn, "webhook_worker"), "w")
    try:
        claimed = await store.claim(10, 10_000)
        first, second = claimed.deliveries
        assert await store.extend([first.claim.id]) == {first.claim.id}
        assert await store.plan_again(first) is not None
        outcomes = [
            Outcome(first, Decision("delivered", "ok"), 0.0, 0.0, Exchange(200)),
            Outcome(second, Decision("retry", "http_status", disable_reason="410"), 0.0, 0.0, Exchange(410)),
        ]
        assert await store.record(outcomes, 1.0) == 2
        assert not await store.has_due()
        assert await store.reap() == 0
        async with database.transaction():  # another role's: a superuser's
            await database.script(["create temporary table held ()", "select pg_sleep(0.2)"])
            assert (await store.sample_queue())["oldest_snapshot_seconds"] >= 0.2
        tasks = set()
        while (done := await store.maintain(Retention())).get("more") or done.get("task"):
            tasks.add(done.get("task"))
        assert {"partitions", "retention", "reconcile"} <= tasks
    finally:
        await store.close()
    async with session(dsn, "webhook_worker") as worker:
        assert (await read_schema(worker)).version >= 10


async def test_an_operator_works_through_audited_functions(dsn: str, database: Database, roles: None) -> None:
    """Everything of the commands; and the audit log has the login beside the name that was given."""
    line = new_line("k")
    ring = KeyRing.parse(line)
    async with Endpoints(as_role(dsn, "webhook_operator"), actor="alice", key_ring=ring) as endpoints:
        created = await endpoints.create("https://example.invalid/")
        await endpoints.set(created.id, rate=5.0)
        await endpoints.rotate_key(created.id)
        await endpoints.keys(created.id)
        for change in (endpoints.pause, endpoints.resume, endpoints.disable, endpoints.enable):
            await change(created.id, reason="why")
        await endpoints.list()
    newer = KeyRing.parse(f"{new_line('l')}\n{line}")
    async with Endpoints(as_role(dsn, "webhook_operator"), actor="alice", key_ring=newer) as endpoints:
        assert 2 == (await endpoints.reseal_keys()).keys
    async with session(dsn, "webhook_operator") as operator:
        await operator.value("select webhook.set_tenant('', '{\"weight\": 2}', 'alice', 'why')")
        await operator.value("select webhook.enqueue('t', '{}')")
        delivery = await operator.value("select id from webhook.deliveries")
        await operator.value("select webhook.retry_delivery($1::bigint, false, 'alice', 'why')", delivery)
        sql = statements()
        for name in (
            "stats_tables",
            "stats_snapshot",
            "check_partitions",
            "check_defaults",
            "check_wake",
            "check_backlogs",
            "check_keys",
        ):
            await operator.rows(sql[name])
        await operator.rows(sql["stats"], 10, 10)
        await operator.rows(sql["deliveries_page"], "{}", None, 10)
        await operator.value(sql["deliveries_count"], "{}")
        await operator.rows(sql["deliveries_payloads"], str(delivery))
        await operator.rows(sql["delivery_facts"], delivery, 10)
        await operator.rows(sql["delivery_hold"], delivery, "alice", "why")
        await operator.rows(sql["delivery_release"], delivery, "alice", "why")
        await operator.rows(sql["job_preview"], "cancel", "{}", False, None)
        job = await operator.value(sql["job_create"], "cancel", "{}", None, False, None, None, "alice", "why")
        for name in ("job_pause", "job_resume", "job_cancel"):
            await operator.value(sql[name], job, "alice", "why")
        await operator.rows(sql["jobs_page"], None, None, None, 10)
        await operator.rows(sql["delivery_cancel"], delivery, "alice", "why")
        await operator.rows(sql["attempts_page"], *[None] * 6, 10)
        (begun,) = await operator.rows(sql["purge_begin"], "", None, "alice", "why")
        await operator.value(sql["purge_fan_out"], begun["purge"])
        await operator.value(sql["purge_endpoint"], begun["purge"], created.id, 10)
        for name in ("purge_events", "purge_answers"):
            await operator.rows(sql[name], begun["purge"], 0, 10)
        with pytest.raises(DatabaseError, match="there is no purge"):  # whatever is removed is in the audit log first
            await operator.rows(sql["purge_events"], begun["purge"] - 1, 0, 10)
        entries = await operator.rows(sql["audit_page"], *[None] * 6, 100)

    assert {("alice", "webhook_operator_login")} == {(entry["actor"], entry["login"]) for entry in entries}
    assert {
        "endpoint.create", "endpoint.set", "endpoint.rotate_key", "endpoint.pause", "endpoint.resume", "endpoint.disable",
        "endpoint.enable", "keys.rotate", "tenant.set", "delivery.retry", "events.purge",
        "delivery.hold", "delivery.release", "delivery.cancel", "job.create", "job.pause", "job.resume", "job.cancel",
    } == {entry["action"] for entry in entries}  # fmt: skip


async def test_a_reader_sees_the_views_without_headers(dsn: str, database: Database, roles: None) -> None:
    """What an endpoint's headers hold may be a credential."""
    await database.value(
        'select id from webhook.create_endpoint($1::text, settings => \'{"headers": {"X-A": "canary"}}\')', URL
    )
    async with session(dsn, "webhook_reader") as reader:
        for view in ("events", "deliveries", "attempts", "endpoint_keys", "jobs"):
            await reader.rows(f"select * from webhook.{view}")
        assert URL == await reader.value("select url from webhook.endpoints")
        with pytest.raises(DatabaseError, match="permission denied"):
            await reader.rows("select headers from webhook.endpoints")


SCHEMA = "(select oid from pg_namespace where nspname = 'webhook')"
CALLABLE = f"""
    select p.proname::text as name from pg_proc as p
    where p.pronamespace = {SCHEMA} and has_function_privilege(p.oid, 'execute')
"""
RELATIONS = f"""
    select c.relname::text as name, has_table_privilege(c.oid, 'select') as reads,
           has_any_column_privilege(c.oid, 'insert, update, references')
           or has_table_privilege(c.oid, 'delete, truncate, trigger') as writes
    from pg_class as c where c.relnamespace = {SCHEMA} and c.relkind in ('r', 'p', 'v')
"""
SEQUENCES = f"""
    select count(*) from pg_class as c where c.relnamespace = {SCHEMA}
    and case c.relkind when 'S' then has_sequence_privilege(c.oid, 'usage, update') end
"""
OPERATORS = """
    enqueue create_endpoint next_endpoint_id create_endpoint_with_keys set_endpoint pause_endpoint resume_endpoint
    disable_endpoint enable_endpoint rotate_key begin_endpoint_test keys_to_seal reseal_keys set_tenant retry_delivery
    cancel_delivery hold_delivery release_delivery matching_pending matching_inflight matching_finished
    preview_job create_job pause_job resume_job cancel_job begin_purge purge_fan_out purge_events purge_endpoint purge_answers
    drain_workers tail_attempts look_at_backlog look_at_endpoints
"""
ALLOWED = {
    "webhook_producer": ("enqueue enqueue_many", ""),
    "webhook_worker": (
        "claim record extend plan_again withhold_endpoint has_due reap maintain sample_queue report_worker forget_worker",
        "meta",
    ),
    "webhook_operator": (OPERATORS, "all but endpoint_key"),
    "webhook_reader": ("", "attempts deliveries endpoint_keys events jobs"),
}


@pytest.mark.parametrize("role", ROLES)
async def test_everything_else_is_refused(dsn: str, database: Database, roles: None, role: str) -> None:
    """Every function and every relation is asked for: what is not on the list is refused, and nobody writes to a table."""
    async with session(dsn, role) as somebody:
        callable_ = {row["name"] for row in await somebody.rows(CALLABLE)}
        relations = await somebody.rows(RELATIONS)
        sequences = await somebody.value(SEQUENCES)
        with pytest.raises(DatabaseError, match="permission denied"):
            await somebody.script(["create table webhook.mine ()"])
    functions, tables = ALLOWED[role]
    reads = {row["name"] for row in relations if row["reads"]}
    expected = {row["name"] for row in relations} - {"endpoint_key"} if tables.startswith("all") else set(tables.split())

    assert set(functions.split()) == callable_
    assert (expected, [], 0) == (reads, [row["name"] for row in relations if row["writes"]], sequences)


async def test_what_is_refused_is_refused_in_deed(dsn: str, database: Database, roles: None) -> None:
    """The catalog's word is tried: payloads, keys, others' functions."""
    await database.value("select id from webhook.create_endpoint($1::text)", URL)
    attempts = {
        "webhook_producer": (
            "select * from webhook.endpoints",
            "select webhook.claim('x', 1, 1)",
            "delete from webhook.pending",
        ),
        "webhook_worker": ("update webhook.event set payload = ''", KEYS, "select webhook.enqueue('t', '')"),
        "webhook_operator": ("update webhook.audit set actor = ''", KEYS, "select webhook.record('x', '[]')"),
        "webhook_reader": ("select * from webhook.endpoint", KEYS, "select webhook.pause_endpoint(1)"),
    }
    for role, statements_ in attempts.items():
        async with session(dsn, role) as somebody:
            for statement in statements_:
                with pytest.raises(DatabaseError, match="permission denied"):
                    await somebody.value(statement)


async def test_a_temporary_table_is_not_taken_for_ours(dsn: str, database: Database, roles: None) -> None:
    """Who calls with the owner's rights may have put tables and functions of the same names in front: they are not found."""
    await database.value("select id from webhook.create_endpoint($1::text)", URL)
    async with session(dsn, "webhook_producer") as producer:
        await producer.script(
            [
                "create temporary table event (like pg_catalog.pg_class)",
                "create temporary table meta (payload_bytes_max int)",
                "create temporary table wake (endpoint_id bigint, run_at timestamptz)",
                "create function pg_temp.clock_timestamp() returns timestamptz language sql return 'infinity'::timestamptz",
                "create function pg_temp.octet_length(text) returns int language sql return 0",
                "set search_path = pg_temp, pg_catalog, webhook",
            ]
        )
        event = await producer.value("select webhook.enqueue('t', '{}')")
        assert 0 == await producer.value("select count(*) from pg_temp.wake")

    assert [event] == [row["id"] for row in await database.rows("select id from webhook.event where created_at < now()")]


async def test_what_runs_with_the_owners_rights_has_a_fixed_path(database: Database, roles: None) -> None:
    """And belongs to a role that cannot log in, as all there is; none of it is for everybody to call."""
    rows = await database.rows(
        "select p.proname::text as name, p.prosecdef as definer, coalesce(p.proconfig::text, '') as config, "
        "pg_get_userbyid(p.proowner)::text as owner, "
        "exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a where a.grantee = 0) as public "
        "from pg_proc as p where p.pronamespace = 'webhook'::regnamespace"
    )
    relations = await database.rows(
        "select distinct pg_get_userbyid(c.relowner)::text as owner from pg_class as c "
        "where c.relnamespace = 'webhook'::regnamespace"
    )

    assert not [row["name"] for row in rows if row["definer"] and "search_path=pg_catalog, pg_temp" not in row["config"]]
    assert not [row["name"] for row in rows if row["public"]]
    assert {"webhook_owner"} == {row["owner"] for row in [*rows, *relations]}
    assert not await database.value(
        "select rolcanlogin or rolsuper or rolcreaterole from pg_roles where rolname = 'webhook_owner'"
    )


async def test_without_the_script_whoever_uses_the_schema_may_enqueue_only(database: Database) -> None:
    """Migrating alone opens nothing but that: what runs with the owner's rights is not for everybody."""
    rows = await database.rows(
        "select distinct p.proname::text as name from pg_proc as p "
        "where p.pronamespace = 'webhook'::regnamespace and has_function_privilege('public', p.oid, 'execute')"
    )

    assert {"enqueue", "enqueue_many"} == {row["name"] for row in rows}
    assert json.loads(await database.value("select to_json(has_schema_privilege('public', 'webhook', 'usage'))::text")) is False
