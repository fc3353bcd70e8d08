"""What `dev` does with the endpoints of a database, and what it takes for their defaults."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from worker.core.address import AddressRules, parse_networks
from worker.core.sealing import KeyRing
from worker.core.signing import SigningKey
from worker.dev.keeper import ACTOR, DEFAULTS, Keeper, _differs
from worker.dev.lookup import Lookup
from worker.dev.loopback import Posted
from worker.dev.printer import Printer
from worker.endpoints import EndpointRefusedError, Endpoints, NewEndpoint
from worker.store.database import Database

pytestmark = pytest.mark.sql

PRINTER = "http://127.0.0.1:8470/"
HOOK = "http://127.0.0.1:8999/hook"
KEYS = ("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "whsec_ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=")
MORE_KEYS = """
insert into webhook.endpoint_key (endpoint_id, secret)
select $1::bigint, sha256(n::text::bytea) from generate_series(1, 1100) as n
"""


class Kept:
    """A keeper, and what it has said."""

    def __init__(self, endpoints: Endpoints, database: Database) -> None:
        self.endpoints, self.lookup = endpoints, Lookup(database, KeyRing())
        self.said: list[str] = []
        self.keeper = Keeper(PRINTER, endpoints, self.lookup, self.said.append)


@asynccontextmanager
async def keeping(dsn: str, database: Database) -> AsyncIterator[Kept]:
    rules = AddressRules(allow=parse_networks("127.0.0.0/8"))
    async with Endpoints(dsn, actor=ACTOR, rules=rules, allow_http=True) as endpoints:
        yield Kept(endpoints, database)


async def states(endpoints: Endpoints) -> list[tuple[str, str, str]]:
    """Tenant, URL and state of all, the oldest first."""
    return [(one.tenant, one.url, one.state) for one in (await endpoints.list()).items[::-1]]


async def test_a_line_that_says_nothing_means_the_defaults(dsn: str) -> None:
    """Else it would be changed each time it is looked at. What is different is seen."""
    async with Endpoints(dsn, actor="test") as endpoints:
        made = await endpoints.create("https://example.com/hook")
        one = await endpoints.get(made.id)
    assert not _differs(one, DEFAULTS)
    assert [True, True, True] == [
        _differs(one, {**DEFAULTS, "rate": 5}),
        _differs(one, {**DEFAULTS, "event_types": ["order.*"]}),
        _differs(one, {**DEFAULTS, "retry": "5s"}),
    ]


async def test_a_line_that_is_refused_stops_no_other(dsn: str, database: Database) -> None:
    """It is named, what was done is said, and what is gone is removed."""
    async with keeping(dsn, database) as kept:
        await kept.keeper.bring({1: NewEndpoint(HOOK)})
        failed = await kept.keeper.bring({3: NewEndpoint("http://10.0.0.1/"), 4: NewEndpoint(f"{HOOK}/other", "acme")})
        after = await states(kept.endpoints)
    assert [3] == list(failed)
    assert isinstance(failed[3], EndpointRefusedError)
    assert [
        ("", PRINTER, "enabled"),
        ("", HOOK, "disabled"),
        ("acme", PRINTER, "enabled"),
        ("acme", f"{HOOK}/other", "enabled"),
    ] == after
    assert ["added", "added", "removed"] == [
        word for line in kept.said for word in line.split(": ")[0].split() if word.endswith("ed")
    ]


async def test_its_own_endpoint_counts_and_not_a_double(dsn: str, database: Database) -> None:
    """Somebody has made one with the same tenant and URL: that stays as it is, whatever becomes of the line."""
    async with keeping(dsn, database) as kept, Endpoints(dsn, actor="test", allow_http=True) as others:
        await kept.keeper.bring({1: NewEndpoint(HOOK)})
        double = await database.value("select id from webhook.create_endpoint($1::text)", HOOK)
        await kept.keeper.bring({1: NewEndpoint(HOOK, settings={"rate": 5})})
        changed = [one.rate for one in (await others.list()).items if one.url == HOOK]
        await kept.keeper.bring({})
        after = {one.id: one.state for one in (await others.list()).items if one.url == HOOK}
    assert [None, 5] == changed  # the newest first
    assert {double: "enabled", min(after): "disabled"} == after


async def test_all_of_its_own_that_are_not_wanted_are_disabled(dsn: str, database: Database) -> None:
    """Two of one name, say."""
    async with keeping(dsn, database) as kept:
        await kept.endpoints.create(HOOK)
        await kept.endpoints.create(HOOK)
        await kept.keeper.bring({1: NewEndpoint(HOOK)})
        after = await states(kept.endpoints)
    assert [("", HOOK, "disabled"), ("", HOOK, "enabled"), ("", PRINTER, "enabled")] == after


async def test_the_endpoint_that_prints_needs_nothing_else(dsn: str, database: Database) -> None:
    """What is there besides stays as it is."""
    async with keeping(dsn, database) as kept:
        await kept.endpoints.create(HOOK)
        await kept.keeper.bring_printer()
        await kept.keeper.bring_printer()
        after = await states(kept.endpoints)
    assert [("", HOOK, "enabled"), ("", PRINTER, "enabled")] == after


async def test_more_keys_than_anybody_counts(dsn: str, database: Database) -> None:
    """Those of a line are not given anew, and what an endpoint has signed is known as its own."""
    line = {1: NewEndpoint(HOOK, keys=KEYS)}
    async with keeping(dsn, database) as kept:
        await kept.keeper.bring(line)
        other = await kept.endpoints.create(f"{HOOK}/other")
        await database.value(MORE_KEYS, other.id)
        before = await database.value("select count(*) from webhook.endpoint_key")
        kept.said.clear()
        await kept.keeper.bring(line | {2: NewEndpoint(f"{HOOK}/other")})
        printer = Printer(PRINTER, kept.lookup, lambda _: None, kept.said.append)
        signature = SigningKey.from_text(KEYS[0]).sign(b"msg_1.1.{}")
        headers = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": signature}
        status = await printer.answer(Posted(headers, b"{}", 0.0))
        printer.close()
        await printer.show_all()
    assert before == await database.value("select count(*) from webhook.endpoint_key")
    assert 1 == len(kept.said)  # the other endpoint's key, which it had not said yet
    assert 204 == status
