"""A trace context goes from enqueue into event and claim; what is no context is no error. In SQL and in Python alike."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.core.trace import trace_context, trace_headers
from worker.store.database import Database, connect
from worker.store.migrate import migrate_up

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STATE = "rojo=00f067aa0ba902b7,congo@vendor=t61rcWkgMzE"
CASES = [
    (None, None),
    (PARENT, None),
    (PARENT, STATE),
    (None, STATE),
    ("", None),
    ("hello", None),
    (PARENT.upper(), None),
    (PARENT + "-more", None),
    (PARENT + "\n", None),
    (f"{PARENT}\r\nx-forged: 1", None),
    ("01" + PARENT[2:], None),
    ("cc" + PARENT[2:] + "-what-the-future-will-be-like", STATE),
    ("cc" + PARENT[2:] + "-" + "x" * 500, None),
    ("cc" + PARENT[2:] + ".x", None),
    ("ff" + PARENT[2:], None),
    ("00-" + "0" * 32 + PARENT[35:], None),
    (PARENT[:36] + "0" * 16 + "-01", None),
    (PARENT, ""),
    (PARENT, "a=1\nb=2"),
    (PARENT, "a=" + "x" * 510),
    (PARENT, "a=" + "x" * 511),
    (PARENT, ",".join(f"k{n}=v" for n in range(32))),
    (PARENT, ",".join(f"k{n}=v" for n in range(33))),
    (PARENT, "A=1"),
    (PARENT, "a=1, b=2"),
    (PARENT, "ä=1"),
]
STORED = "select webhook.trace_context($1::text, $2::text)"


@pytest.mark.parametrize(("parent", "state"), CASES)
async def test_both_agree_on_what_is_valid(database: Database, parent: str | None, state: str | None) -> None:
    assert trace_context(parent, state) == await database.value(STORED, parent, state)


def test_what_is_valid() -> None:
    """Headers as the specification has them; a later version is read as ours; a bad tracestate costs only itself."""
    assert (("traceparent", PARENT), ("tracestate", STATE)) == trace_headers(trace_context(PARENT, STATE))
    assert (("traceparent", PARENT),) == trace_headers(trace_context("cc" + PARENT[2:] + "-more", "a=1\nb"))
    assert () == trace_headers(trace_context("ff" + PARENT[2:]))


@settings(max_examples=300)
@given(st.text(max_size=60), st.text(max_size=60))
@example(PARENT, "a=1\x00")
def test_nothing_but_printable_ascii_comes_out(parent: str, state: str) -> None:
    """Whatever a producer gives: it cannot write a header of its own."""
    for headers in (trace_headers(trace_context(parent, state)), trace_headers(trace_context(PARENT, state))):
        assert all(value.isascii() and value.isprintable() for _, value in headers)


async def test_enqueue_keeps_it_with_the_event(dsn: str, database: Database) -> None:
    """All forms of enqueue; the claim has it where there is one, and nothing where there is none."""
    await database.value("select id from webhook.create_endpoint('https://receiver.test/')")
    for form in ("text", "json", "jsonb"):
        call = f"select webhook.enqueue('t', '{{}}'::{form}, traceparent => $1::text, tracestate => $2::text)"
        await database.value(call, PARENT, STATE)
    many = "select count(*) from webhook.enqueue_many(array['t', 't', 't'], array['1', '2', '3'], traceparents => $1::text[])"
    await database.value(many, [PARENT, None, "no context"])
    await database.value("select webhook.enqueue('t', '{}', '', null, now(), 'application/json')")  # as ever
    rows = await database.rows("select id, traceparent, tracestate from webhook.events order by id")
    document = json.loads(await database.value("select webhook.claim('w', 100, 1000000)"))

    assert [(PARENT, STATE)] * 3 + [(PARENT, None)] + [(None, None)] * 3 == [(r["traceparent"], r["tracestate"]) for r in rows]
    assert {str(r["id"]) for r in rows if r["traceparent"]} == set(document["traces"])
    assert 8 == len(document["deliveries"][0])  # as the previous release reads it


async def test_a_claim_without_any_says_so_in_one_word(database: Database) -> None:
    await database.value("select id from webhook.create_endpoint('https://receiver.test/')")
    await database.value("select webhook.enqueue('t', '{}', traceparent => 'no context')")
    document = json.loads(await database.value("select webhook.claim('w', 100, 1000000)"))

    assert (1, None) == (len(document["deliveries"]), document["traces"])


async def test_arrays_of_other_lengths_are_refused(database: Database) -> None:
    with pytest.raises(Exception, match="1 event types, 1 payloads, no idempotency keys, 2 traceparents, no tracestates"):
        await database.value(
            "select count(*) from webhook.enqueue_many(array['t'], array['1'], traceparents => array[null, null]::text[])"
        )


@pytest.mark.sql
async def test_it_outlives_its_partition(database: Database) -> None:
    """An event that is kept for a delivery keeps its context."""
    await database.value("select id from webhook.create_endpoint('https://receiver.test/')")
    await database.value(
        "select webhook.enqueue('t', '{}', deliver_at => now() + interval '1 day', traceparent => $1::text)", PARENT
    )
    kept = await database.value("select webhook.keep_events(now() - interval '1 day', now() + interval '1 day', 10)")
    await database.script(["delete from webhook.event"])

    assert 1 == kept
    assert PARENT == await database.value("select traceparent from webhook.events")


@pytest.mark.sql
async def test_who_may_enqueue_stays_so_through_the_migration(empty_dsn: str) -> None:
    """The functions are others afterwards; owner and rights are as they were, before anybody applies roles.sql again."""
    release = (Path(__file__).parent / "releases/0.1.0.sql").read_text().replace("\\set ON_ERROR_STOP on", "")
    roles = [
        f"do $$ begin create role {role} nologin; exception when duplicate_object then end $$"
        for role in ("trace_owner", "trace_producer", "trace_nobody")
    ]
    database = connect(empty_dsn)
    old = "webhook.enqueue(text, text, text, text, timestamptz, text)"
    await database.script([release, *roles])
    await database.script(
        [
            "grant usage on schema webhook to trace_producer, trace_nobody",
            f"alter function {old} owner to trace_owner",
            f"revoke execute on function {old} from public",
            f"grant execute on function {old} to trace_producer",
        ]
    )
    await migrate_up(database)
    found = await database.rows(
        """select p.pronargs, p.proowner::regrole::text as owner, p.prosecdef,
                  has_function_privilege('trace_producer', p.oid, 'execute') as producer,
                  has_function_privilege('trace_nobody', p.oid, 'execute') as nobody
           from pg_proc as p where p.oid = any (array(
               select q.oid from pg_proc as q where q.pronamespace = 'webhook'::regnamespace and q.proname = 'enqueue'))
           order by nobody"""
    )
    await database.script(["drop owned by trace_owner, trace_producer, trace_nobody cascade"])
    await database.close()

    assert {"pronargs": 8, "owner": "trace_owner", "prosecdef": True, "producer": True, "nobody": False} == found[0]
    assert [(8, True), (8, True)] == [(row["pronargs"], row["nobody"]) for row in found[1:]]
