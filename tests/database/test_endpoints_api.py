"""The API with which producer services register endpoints."""

import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from worker.core.address import AddressRules, parse_networks
from worker.core.sealing import KeyRing, new_line
from worker.core.signing import Ed25519Key, Scheme, SigningKey, shown
from worker.endpoints import (
    CreatedEndpoint,
    EndpointRefusedError,
    Endpoints,
    NewEndpoint,
    NoSuchEndpointError,
    RefusedEndpoint,
)
from worker.store.database import Database, DatabaseError

URL = "https://127.0.0.1/hook"
KEY = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@pytest.fixture
async def endpoints(dsn: str) -> AsyncIterator[Endpoints]:
    async with Endpoints(dsn, actor="shop", rules=AddressRules(allow=parse_networks("127.0.0.0/8"))) as opened:
        yield opened


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Answer name lookups from this dictionary; what is missing does not resolve."""
    names: dict[str, list[str]] = {}

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in names[host]]

    monkeypatch.setattr("worker.endpoints.urls.socket.getaddrinfo", getaddrinfo)
    return names


async def test_what_is_given_is_what_is_registered(endpoints: Endpoints) -> None:
    """Every setting that is given at creation can be read back."""
    created = await endpoints.create(
        URL, tenant="acme", event_types=["order.*"], rate=2.5, burst=3, max_in_flight=4, timeout_seconds=5.5,
        retry="5s 5m", headers={"X-Team": "blue"}, keys=[KEY], reason="signed up",
    )  # fmt: skip
    found = await endpoints.get(created.id)

    assert (URL, KEY, ()) == (created.url, created.key, created.warnings)
    assert ("acme", URL, ("order.*",), "enabled") == (found.tenant, found.url, found.event_types, found.state)
    assert (2.5, 3, 4, 5.5) == (found.rate, found.burst, found.max_in_flight, found.timeout_seconds)
    assert ((5.0, 300.0), {"X-Team": "blue"}) == (found.retry_seconds, found.headers)


async def test_the_defaults_are_the_documented_ones(endpoints: Endpoints) -> None:
    """Nothing given: every type, no rate, 64 in flight, 15 s, nine retries."""
    found = await endpoints.get((await endpoints.create(URL)).id)

    assert ((), None, 1, 64, 15.0) == (
        found.event_types, found.rate, found.burst, found.max_in_flight, found.timeout_seconds
    )  # fmt: skip
    assert 9 == len(found.retry_seconds)


async def test_times_are_in_utc(endpoints: Endpoints) -> None:
    """Whatever the server's time zone, times come in UTC."""
    found = await endpoints.get((await endpoints.create(URL)).id)

    assert "UTC" == found.created_at.tzname()


@pytest.mark.fault(68)
async def test_keys_and_headers_are_in_no_repr(endpoints: Endpoints) -> None:
    """What is printed by accident holds no credentials."""
    created = await endpoints.create(URL, headers={"Authorization": "Bearer canary"}, keys=[KEY])
    texts = [repr(created), repr(await endpoints.get(created.id)), repr(NewEndpoint(URL, keys=[KEY]))]

    assert not [text for text in texts if KEY in text or "canary" in text]


async def test_a_made_key_is_new_each_time(endpoints: Endpoints) -> None:
    """Without keys, each endpoint gets its own."""
    keys = {(await endpoints.create(URL)).key for _ in range(3)}

    assert 3 == len(keys)
    assert all(key.startswith("whsec_") for key in keys)


async def test_changes_are_audited(endpoints: Endpoints, database: Database) -> None:
    """Each change leaves its action, actor and reason."""
    created = await endpoints.create(URL, reason="new")
    await endpoints.set(created.id, rate=1, reason="slow down")
    await endpoints.pause(created.id, reason="incident")
    await endpoints.resume(created.id, reason="over")
    await endpoints.disable(created.id, reason="unpaid")
    await endpoints.enable(created.id, reason="paid")
    rows = await database.rows("select actor, action, reason from webhook.audit where endpoint_id = $1 order by id", created.id)

    assert {"shop"} == {row["actor"] for row in rows}
    assert [
        ("endpoint.create", "new"), ("endpoint.set", "slow down"), ("endpoint.pause", "incident"),
        ("endpoint.resume", "over"), ("endpoint.disable", "unpaid"), ("endpoint.enable", "paid"),
    ] == [(row["action"], row["reason"]) for row in rows]  # fmt: skip


async def test_set_changes_only_what_is_given(endpoints: Endpoints) -> None:
    """What is left out stays; a rate of None removes the limit; a new URL is checked as a first one is."""
    created = await endpoints.create(URL, rate=5, burst=7, headers={"X-A": "b"})
    await endpoints.set(created.id, rate=None, url="https://127.0.0.1/new")
    found = await endpoints.get(created.id)

    assert ("https://127.0.0.1/new", None, 7, {"X-A": "b"}) == (found.url, found.rate, found.burst, found.headers)
    with pytest.raises(EndpointRefusedError, match=r"10\.0\.0\.0/8"):
        await endpoints.set(created.id, url="https://10.1.2.3/")


async def test_a_disabled_endpoint_is_not_resumed(endpoints: Endpoints) -> None:
    """Resume is for paused endpoints: a disabled one has a reason to look at."""
    created = await endpoints.create(URL)
    await endpoints.disable(created.id, reason="gone")

    with pytest.raises(DatabaseError) as caught:
        await endpoints.resume(created.id)
    assert caught.value.hint is not None
    assert "gone" == (await endpoints.get(created.id)).state_reason


async def test_an_unknown_endpoint_is_a_lookup_error(endpoints: Endpoints) -> None:
    """Reading or changing what does not exist says so."""
    for call in (endpoints.get(404), endpoints.set(404, rate=1), endpoints.pause(404), endpoints.enable(404)):
        with pytest.raises(NoSuchEndpointError, match="there is no endpoint 404"):
            await call


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/", "plain http is refused"),
        ("https://u:p@example.com/", "user names"),
        ("https://2130706433/", "looks numeric"),
        ("https://10.0.0.1/", "10.0.0.0/8"),
        ("https://[::1]/", "outside 2000::/3"),
        ("https://internal.example/", r"resolves to 192\.168\.1\.1, which is denied .*192\.168\.0\.0/16"),
        ("https://mixed.example/", "mixed.example resolves to 10.0.0.1"),
    ],
)
@pytest.mark.fault(1)
@pytest.mark.fault(4)
async def test_a_denied_url_is_refused_with_its_rule(
    endpoints: Endpoints, resolve: dict[str, list[str]], url: str, why: str
) -> None:
    """What may not be dialled now is refused now, in words; one denied address among good ones is enough."""
    resolve |= {"internal.example": ["192.168.1.1"], "mixed.example": ["8.8.8.8", "10.0.0.1"]}

    with pytest.raises(EndpointRefusedError, match=why):
        await endpoints.create(url)


@pytest.mark.fault(15)
async def test_a_name_that_does_not_resolve_is_accepted_with_a_warning(
    endpoints: Endpoints, resolve: dict[str, list[str]]
) -> None:
    """A customer's DNS may come later."""
    created = await endpoints.create("https://later.example/")

    assert ("later.example does not resolve now; its deliveries fail until it does",) == created.warnings


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": 0}, {"rate": -1}, {"rate": float("nan")}, {"rate": float("inf")}, {"rate": "5"}, {"rate": True},
        {"rate": 9e-6}, {"rate": 1e6 + 1},
        {"transport": "No name"}, {"transport": 1},
        {"burst": 0}, {"burst": 1.5}, {"burst": None}, {"max_in_flight": 0}, {"max_in_flight": 10**9},
        {"timeout_seconds": 0}, {"timeout_seconds": 301}, {"retry": "5 minutes"}, {"retry": "2y"}, {"retry": None},
        {"retry": "1s " * 101}, {"event_types": "order.*"}, {"event_types": ["*.created"]}, {"event_types": [1]},
        {"headers": {"Host": "x"}}, {"headers": {"X-A": "b\r\nX-C: d"}}, {"headers": {"webhook-id": "x"}},
        {"headers": ["X-A: b"]}, {"headers": {"X-A": 1}}, {"colour": "blue"}, {"keys": ["whsec_short"]},
        {"keys": [1]}, {"tenant": "x" * 256}, {"tenant": "\0"}, {"tenant": "\ud800"}, {"tenant": None},
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.fault(37)
@pytest.mark.fault(38)
async def test_a_bad_setting_is_refused(endpoints: Endpoints, settings: dict[str, Any]) -> None:
    """Bad settings are refused before anything is written."""
    with pytest.raises(EndpointRefusedError):
        await endpoints.create(URL, **settings)

    assert () == (await endpoints.list()).items


@pytest.mark.parametrize(
    "settings",
    [{"rate": 1e-5, "burst": 1, "max_in_flight": 1}, {"rate": 1e6, "burst": 10**6, "max_in_flight": 10**5}],
    ids=["least", "most"],
)
@pytest.mark.fault(63)
async def test_the_bounds_are_those_of_the_database(endpoints: Endpoints, settings: dict[str, Any]) -> None:
    """What is refused here is what the database refuses: both ends of each range are taken by both."""
    created = await endpoints.create(URL, **settings)
    found = await endpoints.get(created.id)

    assert settings == {name: getattr(found, name) for name in settings}


async def test_the_refusal_of_a_rate_says_what_may_be(endpoints: Endpoints) -> None:
    """One a month is too slow, in words."""
    with pytest.raises(EndpointRefusedError, match=r"rate is 4e-07; it must be a number a second from 0\.00001 to 1000000"):
        await endpoints.create(URL, rate=4e-7)


async def test_every_key_that_is_given_signs(endpoints: Endpoints, database: Database) -> None:
    """Both sign during a rotation; the first one is handed back."""
    other = "whsec_" + "QUJD" * 11
    created = await endpoints.create(URL, keys=[KEY, other])
    keys = await database.rows("select 'whsec_' || encode(secret, 'base64') as key from webhook.endpoint_key order by id")

    assert (KEY, [KEY, other]) == (created.key, [row["key"] for row in keys])


async def test_a_list_is_paged_by_key(endpoints: Endpoints) -> None:
    """Pages follow each other newest first, without gaps, and the last one says so."""
    ids = [(await endpoints.create(URL)).id for _ in range(5)]
    seen: list[int] = []
    after, pages = None, 0
    while pages == 0 or after is not None:
        page = await endpoints.list(limit=2, after=after)
        seen += [endpoint.id for endpoint in page.items]
        after, pages = page.after, pages + 1

    assert (ids[::-1], 3) == (seen, pages)


async def test_a_list_is_filtered(endpoints: Endpoints) -> None:
    """By tenant, and by state."""
    first = await endpoints.create(URL, tenant="a")
    second = await endpoints.create(URL, tenant="b")
    await endpoints.pause(second.id)

    assert [first.id] == [endpoint.id for endpoint in (await endpoints.list(tenant="a")).items]
    assert [second.id] == [endpoint.id for endpoint in (await endpoints.list(state="paused")).items]


async def test_thousands_are_created_in_seconds(endpoints: Endpoints, database: Database) -> None:
    """2,000 endpoints take four round trips and a few seconds, each with a key of its own, in order."""
    new = [NewEndpoint(f"https://127.0.0.1/{n}", f"tenant-{n}", {"event_types": ["order.*"]}) for n in range(2000)]
    started = time.monotonic()
    results = await endpoints.create_many(new, reason="moved here")
    created = [result for result in results if isinstance(result, CreatedEndpoint)]

    assert time.monotonic() - started < 30  # two seconds alone; the machine may be shared
    assert [one.url for one in new] == [one.url for one in created]
    assert 2000 == len({one.key for one in created})
    assert 2000 == await database.value("select count(*) from webhook.subscription")


async def test_a_refused_one_does_not_stop_the_others(endpoints: Endpoints) -> None:
    """Each of many gets its own result, in order."""
    results = await endpoints.create_many(
        [NewEndpoint(URL), NewEndpoint("https://10.0.0.1/"), NewEndpoint(URL, settings={"rate": -1}), NewEndpoint(URL)]
    )

    assert [CreatedEndpoint, RefusedEndpoint, RefusedEndpoint, CreatedEndpoint] == [type(result) for result in results]
    assert 2 == len((await endpoints.list()).items)


async def test_what_only_the_database_refuses_stands_alone(endpoints: Endpoints, database: Database) -> None:
    """A batch that the database refuses is halved until the bad one is found; the others are created."""
    await database.script(["alter table webhook.endpoint add check (tenant <> 'bad')"])
    results = await endpoints.create_many([NewEndpoint(URL, "bad" if n == 3 else "good") for n in range(7)])

    assert [3] == [n for n, result in enumerate(results) if isinstance(result, RefusedEndpoint)]


async def test_none_of_none(endpoints: Endpoints) -> None:
    """No endpoints, no calls, no results."""
    assert () == await endpoints.create_many([])


async def test_tasks_take_turns(endpoints: Endpoints) -> None:
    """Several tasks may use one object at once."""
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(endpoints.create, URL)

    assert 10 == len((await endpoints.list()).items)


RULES = AddressRules(allow=parse_networks("127.0.0.0/8"))
NEWER, OLDER = new_line("newer"), new_line("older")


async def stored(database: Database) -> list[tuple[bytes, str | None]]:
    """What is in the table of keys, in their order."""
    rows = await database.rows("select secret, sealed_with from webhook.endpoint_key order by id")
    return [(bytes(row["secret"]), row["sealed_with"]) for row in rows]


@pytest.mark.parametrize("scheme", ["v1", "v1a"])
async def test_with_a_key_ring_no_key_is_stored_unsealed(dsn: str, database: Database, scheme: Scheme) -> None:
    """What is stored is bound to the endpoint, and opens with the ring; the public half of an Ed25519 key stands beside it."""
    ring = KeyRing.parse(NEWER)
    async with Endpoints(dsn, actor="shop", rules=RULES, key_ring=ring) as endpoints:
        created = await endpoints.create(URL, scheme=scheme)
        (key,) = await endpoints.keys(created.id)
    ((secret, sealed_with),) = await stored(database)
    opened = ring.unseal(secret, sealed_with, created.id, scheme)

    assert ("newer", scheme, "newer") == (sealed_with, key.scheme, key.sealed_with)
    assert created.key == shown(Ed25519Key(opened) if scheme == "v1a" else SigningKey(opened))
    assert (created.key if scheme == "v1a" else None) == key.public_key


async def test_given_keys_are_sealed_too(dsn: str, database: Database) -> None:
    """Of a batch, each for its own endpoint."""
    ring, new = KeyRing.parse(NEWER), [NewEndpoint(f"{URL}/{n}", keys=[KEY]) for n in range(3)]
    async with Endpoints(dsn, actor="shop", rules=RULES, key_ring=ring) as endpoints:
        made = [one for one in await endpoints.create_many(new) if isinstance(one, CreatedEndpoint)]
    opened = [ring.unseal(secret, name, one.id, "v1") for (secret, name), one in zip(await stored(database), made, strict=True)]

    assert [KEY] * 3 == [one.key for one in made] == [shown(SigningKey(secret)) for secret in opened]


@pytest.mark.fault(40)
async def test_a_rotation_overlaps(endpoints: Endpoints, database: Database) -> None:
    """The new key signs at once and first, the one before it until the overlap is over; and somebody did it for a reason."""
    created = await endpoints.create(URL, keys=[KEY])
    rotated = await endpoints.rotate_key(created.id, overlap_seconds=3600, reason="an old laptop was stolen")
    newest, oldest = await endpoints.keys(created.id)
    (entry,) = await database.rows(
        "select actor, reason, details::text from webhook.audit where action = 'endpoint.rotate_key'"
    )

    assert rotated.id == newest.id
    assert newest.expires_at is None
    assert oldest.expires_at is not None
    assert 3500 < (oldest.expires_at - newest.created_at).total_seconds() < 3700
    assert rotated.key.startswith("whsec_")
    assert rotated.key != KEY
    assert ("shop", "an old laptop was stolen") == (entry["actor"], entry["reason"])
    assert rotated.key[6:] not in entry["details"]
    await endpoints.rotate_key(created.id, key=KEY, overlap_seconds=0)
    assert 1 == len(await endpoints.keys(created.id))


async def test_a_rotation_may_be_refused(endpoints: Endpoints) -> None:
    """For an endpoint that is not there, a text that is no key, a negative overlap, or more signatures than make sense."""
    created = await endpoints.create(URL)
    with pytest.raises(NoSuchEndpointError):
        await endpoints.rotate_key(created.id + 1)
    with pytest.raises(EndpointRefusedError, match="a key is"):
        await endpoints.rotate_key(created.id, key="whsec_AAAA")
    with pytest.raises(EndpointRefusedError, match="not negative"):
        await endpoints.rotate_key(created.id, overlap_seconds=-1)
    for _ in range(7):
        await endpoints.rotate_key(created.id)
    with pytest.raises(DatabaseError, match="more than 8 keys"):
        await endpoints.rotate_key(created.id)
    assert 8 == len(await endpoints.keys(created.id))


async def test_everything_is_sealed_anew(dsn: str, endpoints: Endpoints, database: Database) -> None:
    """What was never sealed, and what an older key of the ring sealed. Twice changes nothing; who did it is kept."""
    plain = await endpoints.create(URL, keys=[KEY])
    async with Endpoints(dsn, actor="shop", rules=RULES, key_ring=KeyRing.parse(OLDER)) as with_older:
        older = await with_older.create(URL, keys=[KEY], scheme="v1")
    ring = KeyRing.parse(f"{NEWER}\n{OLDER}")
    async with Endpoints(dsn, actor="ops", rules=RULES, key_ring=ring) as with_both:
        done = [await with_both.reseal_keys(reason="yearly") for _ in range(2)]
    names = [name for _, name in await stored(database)]
    opened = [
        shown(SigningKey(ring.unseal(secret, name, id_, "v1")))
        for (secret, name), id_ in zip(await stored(database), (plain.id, older.id), strict=True)
    ]
    entries = await database.rows(
        "select actor, reason, details ->> 'keys' as keys from webhook.audit where action = 'keys.rotate'"
    )

    assert [("newer", 2, ()), ("newer", 0, ())] == [(one.sealed_with, one.keys, one.failed) for one in done]
    assert (["newer"] * 2, [KEY] * 2) == (names, opened)
    assert [("ops", "yearly", "2")] == [(e["actor"], e["reason"], e["keys"]) for e in entries]


async def test_what_cannot_be_unsealed_is_named_and_left(dsn: str, database: Database) -> None:
    """A ring without the key that sealed it changes nothing of it, and says which endpoint's it is."""
    async with Endpoints(dsn, actor="shop", rules=RULES, key_ring=KeyRing.parse(OLDER)) as with_older:
        created = await with_older.create(URL)
    before = await stored(database)
    async with Endpoints(dsn, actor="ops", rules=RULES, key_ring=KeyRing.parse(NEWER)) as with_newer:
        done = await with_newer.reseal_keys()

    assert (before, 0) == (await stored(database), done.keys)
    assert f"of endpoint {created.id}: it is sealed with 'older', which is not in the key file" in done.failed[0]


async def test_without_a_ring_nothing_can_be_sealed(endpoints: Endpoints) -> None:
    """It says so at once."""
    with pytest.raises(ValueError, match="no key-encryption key"):
        await endpoints.reseal_keys()
