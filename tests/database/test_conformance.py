"""One suite for every store: in memory, and in Postgres through either driver. They must not differ in anything seen here."""

import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import anyio
import pytest

from worker.core.model import Decision, Delivery, Disposition, Exchange, Outcome
from worker.pipeline.ports import Avoid, Store
from worker.store.database import Database
from worker.store.memory import MemoryStore
from worker.store.postgres import PostgresStore

URL = "http://127.0.0.1:9/hook"
KINDS = ("memory", "psycopg") if sys.implementation.name == "pypy" else ("memory", "asyncpg", "psycopg")


class ReapingStore(Store, Protocol):
    async def reap(self) -> int: ...


class Bench(Protocol):
    """Two workers' stores on the same deliveries, and the producer's and operator's side of them."""

    shifted: float
    """Seconds by which the past was moved; add it to a time seen now to compare it with one seen earlier."""

    @property
    def a(self) -> ReapingStore: ...
    @property
    def b(self) -> ReapingStore: ...
    async def add(self, tenant: str = "", **settings: Any) -> int: ...
    async def enqueue(
        self,
        payload: str = "{}",
        event_type: str = "order.created",
        in_seconds: float = 0.0,
        tenant: str = "",
        traceparent: str | None = None,
    ) -> int: ...
    async def weigh(self, tenant: str, weight: float) -> None: ...
    async def circuit(self, endpoint: int) -> str: ...
    async def change(self, endpoint: int, **changes: Any) -> None: ...
    async def steer(self, verb: str, endpoint: int) -> None: ...
    async def retry(self, delivery: int) -> str: ...
    async def states(self) -> list[tuple[str, int]]: ...
    async def endpoint_state(self, endpoint: int) -> str: ...
    async def pass_time(self, seconds: float) -> None: ...


class MemoryBench:
    def __init__(self) -> None:
        self.now, self.shifted = 1_800_000_000.0, 0.0
        self.a = self.b = self.store = MemoryStore(lambda: self.now)

    async def add(self, tenant: str = "", **settings: Any) -> int:
        return self.store.add_endpoint(URL, tenant=tenant, **settings)

    async def enqueue(
        self,
        payload: str = "{}",
        event_type: str = "order.created",
        in_seconds: float = 0.0,
        tenant: str = "",
        traceparent: str | None = None,
    ) -> int:
        at = self.now + in_seconds
        return self.store.enqueue(event_type, payload.encode(), tenant=tenant, deliver_at=at, traceparent=traceparent)

    async def weigh(self, tenant: str, weight: float) -> None:
        self.store.set_tenant(tenant, weight)

    async def circuit(self, endpoint: int) -> str:
        return self.store.circuit(endpoint)

    async def change(self, endpoint: int, **changes: Any) -> None:
        self.store.set_endpoint(endpoint, **changes)

    async def steer(self, verb: str, endpoint: int) -> None:
        getattr(self.store, verb)(endpoint)

    async def retry(self, delivery: int) -> str:
        return self.store.retry(delivery, force=True)

    async def states(self) -> list[tuple[str, int]]:
        return [(self.store.state(id_), stored.attempt) for id_, stored in sorted(self.store.deliveries.items())]

    async def endpoint_state(self, endpoint: int) -> str:
        return self.store.endpoint_state(endpoint)[0]

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds


class PostgresBench:
    def __init__(self, dsn: str, connect: Callable[[str], Database]) -> None:
        self.a, self.b = PostgresStore(dsn, "a", connect=connect), PostgresStore(dsn, "b", connect=connect)
        self.database, self.shifted = connect(dsn), 0.0

    async def add(self, tenant: str = "", **settings: Any) -> int:
        sql = "select id from webhook.create_endpoint($1::text, $2::text, $3::text::jsonb)"
        return int(await self.database.value(sql, URL, tenant, json.dumps(settings)))

    async def enqueue(
        self,
        payload: str = "{}",
        event_type: str = "order.created",
        in_seconds: float = 0.0,
        tenant: str = "",
        traceparent: str | None = None,
    ) -> int:
        sql = """select webhook.enqueue($1::text, $2::text, $3::text,
                                        deliver_at => clock_timestamp() + make_interval(secs => $4::float8),
                                        traceparent => $5::text)"""
        return int(await self.database.value(sql, event_type, payload, tenant, in_seconds, traceparent))

    async def weigh(self, tenant: str, weight: float) -> None:
        await self.database.value(
            "update webhook.tenant set weight = $2::float8 where tenant = $1::text returning 1", tenant, weight
        )

    async def circuit(self, endpoint: int) -> str:
        return str(await self.database.value("select circuit from webhook.endpoints where id = $1::bigint", endpoint))

    async def change(self, endpoint: int, **changes: Any) -> None:
        await self.database.value("select webhook.set_endpoint($1::bigint, $2::text::jsonb)", endpoint, json.dumps(changes))

    async def steer(self, verb: str, endpoint: int) -> None:
        await self.database.value(f"select webhook.{verb}_endpoint($1::bigint)", endpoint)

    async def retry(self, delivery: int) -> str:
        return str(await self.database.value("select webhook.retry_delivery($1::bigint, force => true)", delivery))

    async def states(self) -> list[tuple[str, int]]:
        rows = await self.database.rows("select state, attempts from webhook.deliveries order by id")
        return [(row["state"], row["attempts"]) for row in rows]

    async def endpoint_state(self, endpoint: int) -> str:
        return str(await self.database.value("select state from webhook.endpoints where id = $1::bigint", endpoint))

    async def pass_time(self, seconds: float) -> None:
        """Move the past further away, which is the same as letting time pass."""
        self.shifted += seconds
        moved = f"- interval '{seconds} s'"
        await self.database.script(
            [
                f"update webhook.wake set run_at = run_at {moved}",
                f"update webhook.pending set run_at = run_at {moved}",
                f"update webhook.claim_batch set claimed_at = claimed_at {moved}, lease_until = lease_until {moved}",
                f"""update webhook.endpoint_sched set tat = tat {moved}, not_before = not_before {moved},
                           head = head {moved}, next_at = next_at {moved}, failing_since = failing_since {moved},
                           recovering_since = recovering_since {moved}""",
                f"""update webhook.sched_floor set next_at = next_at {moved}, seen_next_at = seen_next_at {moved},
                           ahead_next_at = ahead_next_at {moved}""",
            ]
        )

    async def close(self) -> None:
        for connection in (self.a, self.b, self.database):
            await connection.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kind_dsn(kind: str, request: pytest.FixtureRequest) -> str | None:
    return None if kind == "memory" else str(request.getfixturevalue("dsn"))


@pytest.fixture
async def bench(kind: str, kind_dsn: str | None) -> AsyncIterator[Bench]:
    if kind_dsn is None:
        yield MemoryBench()
        return
    if kind == "asyncpg":
        from worker.store.asyncpg_database import AsyncpgDatabase as Driver
    else:
        from worker.store.psycopg_database import PsycopgDatabase as Driver  # type: ignore[assignment]  # the same protocol
    postgres = PostgresBench(kind_dsn, Driver)
    yield postgres
    await postgres.close()


async def claim(store: Store, rows: int = 100, bytes_max: int = 1 << 30) -> list[Delivery]:
    return (await store.claim(rows, bytes_max)).deliveries


async def record(
    store: Store,
    deliveries: list[Delivery],
    disposition: Disposition = "delivered",
    *,
    retry: float = 0.0,
    hold: float | None = None,
    disable: str | None = None,
    outcome: str = "http_status",
) -> int:
    status = {"delivered": 200, "retry": 500, "dead": 500, "released": None}[disposition]
    decision = Decision(disposition, "ok" if status == 200 else outcome, retry, hold, disable)
    return await store.record([Outcome(d, decision, 10.0, 0.25, Exchange(status)) for d in deliveries], 11.0)


# -- claims ----------------------------------------------------------------------------------------------------------


async def test_claim_carries_everything(bench: Bench) -> None:
    """A claimed delivery has its payload byte for byte, its endpoint, and this attempt counted."""
    endpoint = await bench.add(headers={"X-Team": "orders"}, retry_seconds=[1, 2.5], timeout_seconds=7)
    payload = '{"n":  1, "é": "\\u0000\U0001f642"}\n'
    event = await bench.enqueue(payload)
    (delivery,) = await claim(bench.a)
    assert payload.encode() == delivery.payload
    assert (event, 1, 0, None) == (delivery.event_id, delivery.attempt, delivery.attempts_before, delivery.send_at)
    assert delivery.content_type == "application/json"
    config = delivery.endpoint
    assert (endpoint, URL, 7.0, (1.0, 2.5)) == (config.id, config.url, config.timeout_seconds, config.retry_seconds)
    assert config.headers == (("X-Team", "orders"),)
    assert len(config.keys) == 1
    assert await bench.states() == [("in_flight", 1)]


async def test_the_transport_comes_with_a_claim(bench: Bench) -> None:
    """An endpoint says how it is reached; most do not."""
    endpoint = await bench.add(transport="partner")
    for expected in ("partner", "other"):
        await bench.enqueue()
        (delivery,) = await claim(bench.a)
        assert expected == delivery.endpoint.transport
        await record(bench.a, [delivery])
        await bench.change(endpoint, transport="other")
    await bench.add()
    await bench.enqueue()
    assert {"default", "other"} == {delivery.endpoint.transport for delivery in await claim(bench.a)}


async def test_claimed_once(bench: Bench) -> None:
    """What one worker has claimed, nobody else gets."""
    await bench.add()
    await bench.enqueue()
    assert len(await claim(bench.a)) == 1
    assert await claim(bench.b) == []
    assert await claim(bench.a) == []


async def test_concurrent_claims_share_nothing(bench: Bench) -> None:
    """Two workers that claim at once get every delivery exactly once between them."""
    for _ in range(6):
        await bench.add()
    for _ in range(10):
        await bench.enqueue()
    got: list[int] = []

    async def worker(store: Store) -> None:
        for _ in range(12):
            got.extend(delivery.id for delivery in await claim(store, 12))

    async with anyio.create_task_group() as workers:
        workers.start_soon(worker, bench.a)
        workers.start_soon(worker, bench.b)
    got += [delivery.id for delivery in await claim(bench.a)]  # an endpoint that both wanted at the very end
    assert sorted(set(got)) == sorted(got)
    assert len(got) == 60


async def test_lease_is_twice_the_longest_deadline(bench: Bench) -> None:
    """A batch's lease is 30 s, or twice the longest deadline in it."""
    await bench.add(timeout_seconds=10)
    await bench.enqueue()
    first = (await bench.a.claim(10, 1 << 20)).claim
    assert first is not None
    assert first.lease_seconds == 30.0
    await bench.add(timeout_seconds=100)
    await bench.enqueue()
    second = (await bench.a.claim(10, 1 << 20)).claim
    assert second is not None
    assert second.lease_seconds == 200.0


async def test_quantum(bench: Bench) -> None:
    """An endpoint with a thousand due deliveries takes only its share of a batch."""
    huge = await bench.add(event_types=["huge"])
    small = [await bench.add(event_types=["small"]) for _ in range(4)]
    for _ in range(60):
        await bench.enqueue(event_type="huge")
    await bench.enqueue(event_type="small")
    taken = Counter(delivery.endpoint.id for delivery in await claim(bench.a, 20))
    assert {huge: 4, **dict.fromkeys(small, 1)} == taken


async def test_few_rows_of_each_of_many_fill_a_claim(bench: Bench) -> None:
    """An endpoint is expected to have what it was seen to have: some with three rows each do not starve a claim."""
    for _ in range(40):
        await bench.add()
    for _ in range(3):
        await bench.enqueue()
    assert [20] * 6 == [len(await claim(bench.a, 20)) for _ in range(6)]
    assert [] == await claim(bench.a, 20)


async def test_avoid(bench: Bench) -> None:
    """Endpoints that a worker wants to avoid are left out of its claim, and stay due for others and for later."""
    first, second, third = [await bench.add() for _ in range(3)]
    await bench.enqueue()
    claimed = await bench.a.claim(100, 1 << 20, avoid=Avoid({first, third}))
    assert [second] == [delivery.endpoint.id for delivery in claimed.deliveries]
    claimed = await bench.a.claim(100, 1 << 20, avoid=Avoid([first, third]))
    assert ([], False) == (claimed.deliveries, claimed.more)
    assert {first, third} == {delivery.endpoint.id for delivery in await claim(bench.b)}


async def test_avoid_tenants(bench: Bench) -> None:
    """A tenant of which a worker has enough is left out whole, be it due or become due just now, and nobody waits behind it."""
    for _ in range(30):
        await bench.add("crowd")
    await bench.enqueue(tenant="crowd")
    assert len(await claim(bench.a, 2)) == 2  # the others are in the run queue now
    await bench.enqueue(tenant="crowd")
    (small,) = [await bench.add("small") for _ in range(1)]
    await bench.enqueue(tenant="small")
    claimed = await bench.a.claim(10, 1 << 20, Avoid(tenants=["crowd", "nobody"]))
    assert [small] == [delivery.endpoint.id for delivery in claimed.deliveries]
    claimed = await bench.a.claim(10, 1 << 20, Avoid(tenants=["crowd"]))
    assert ([], False) == (claimed.deliveries, claimed.more)
    assert len(await claim(bench.b, 100)) == 58


async def test_weights_come_with_a_claim(bench: Bench) -> None:
    """A worker learns what part of its lanes is a tenant's."""
    for tenant in ("heavy", "light"):
        await bench.add(tenant)
        await bench.enqueue(tenant=tenant)
    await bench.weigh("heavy", 2.5)
    assert (await bench.a.claim(10, 1 << 20)).weights == {"heavy": 2.5, "light": 1.0}


async def test_bytes_bound_a_claim(bench: Bench) -> None:
    """A claim stops at its bytes, but always gives one delivery."""
    await bench.add()
    for _ in range(5):
        await bench.enqueue("x" * 1000)
    assert len(await claim(bench.a, 100, 1500)) == 2
    assert len(await claim(bench.a, 100, 1)) == 1
    assert len(await claim(bench.a, 100)) == 2


@pytest.mark.fault(36)
async def test_plan_again(bench: Bench) -> None:
    """A send that has to be repeated takes the endpoint's next token, if there is one soon."""
    await bench.add(rate=2, burst=2)
    for _ in range(5):
        await bench.enqueue()
    claimed = await bench.a.claim(2, 1 << 20)
    plans = [*(delivery.send_at for delivery in claimed.deliveries), await bench.a.plan_again(claimed.deliveries[0])]
    first = plans[0]
    assert first is not None
    assert [0.0, 0.0, 0.5] == [None if at is None else pytest.approx(at - first, abs=0.05) for at in plans]
    assert await bench.a.plan_again(claimed.deliveries[0]) is None
    assert [] == await claim(bench.b)


@pytest.mark.fault(36)
async def test_plan_again_is_for_who_may_send(bench: Bench) -> None:
    """Without a rate it is now; for a claim that has lost the delivery, or an endpoint that asked for quiet, it is never."""
    await bench.add()
    for _ in range(3):
        await bench.enqueue()
    claimed = await bench.a.claim(2, 1 << 20)
    planned = await bench.a.plan_again(claimed.deliveries[0])
    assert planned == pytest.approx(claimed.database_now, abs=0.5)
    assert 1 == await record(bench.a, claimed.deliveries[:1])
    assert await bench.a.plan_again(claimed.deliveries[0]) is None
    (other,) = await claim(bench.b)
    quiet = Outcome(other, Decision("retry", "http_status", hold_seconds=60.0), 0.0, 0.0, Exchange(429))
    assert 1 == await bench.b.record([quiet], 0.0)
    assert await bench.a.plan_again(claimed.deliveries[1]) is None


async def test_deliver_at_in_the_future(bench: Bench) -> None:
    """A delivery is not claimed before its time."""
    await bench.add()
    await bench.enqueue(in_seconds=60)
    assert await claim(bench.a) == []
    await bench.pass_time(58)
    assert await claim(bench.a) == []
    await bench.pass_time(2.1)
    assert len(await claim(bench.a)) == 1


async def test_older_rows_are_never_hidden(bench: Bench) -> None:
    """An event that commits late, with an earlier time than what was already claimed, is found at once."""
    await bench.add()
    for _ in range(3):
        await bench.enqueue()
    assert len(await claim(bench.a)) == 3
    await bench.enqueue("late", in_seconds=-3600)
    assert [delivery.payload for delivery in await claim(bench.a)] == [b"late"]


async def test_oldest_first(bench: Bench) -> None:
    """An endpoint's deliveries are claimed in the order in which they are due."""
    await bench.add()
    for seconds in (-1, -3, -2):
        await bench.enqueue(str(seconds), in_seconds=seconds)
    assert [b"-3", b"-2"] == [delivery.payload for _ in range(2) for delivery in await claim(bench.a, 1)]


async def test_has_due(bench: Bench) -> None:
    """Something is due if it could be sent now: not what is held, in flight or for later."""
    endpoint = await bench.add()
    assert not await bench.a.has_due()
    await bench.enqueue()
    assert await bench.a.has_due()
    deliveries = await claim(bench.a)
    assert not await bench.a.has_due()
    await record(bench.a, deliveries, "retry", retry=60)
    assert not await bench.a.has_due()
    await bench.pass_time(61)
    assert await bench.a.has_due()
    await bench.steer("pause", endpoint)
    assert not await bench.a.has_due()


# -- records ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disposition", ["delivered", "dead"])
async def test_terminal(bench: Bench, disposition: Disposition) -> None:
    """A delivered or dead delivery is never claimed again."""
    await bench.add()
    await bench.enqueue()
    assert await record(bench.a, await claim(bench.a), disposition) == 1
    assert await bench.states() == [(disposition, 1)]
    await bench.pass_time(1e6)
    assert await claim(bench.a) == []


@pytest.mark.parametrize("disposition", ["delivered", "dead", "retry", "released"])
@pytest.mark.fault(44)
async def test_recording_twice(bench: Bench, disposition: Disposition) -> None:
    """A record whose answer was lost may be sent again: it changes nothing twice."""
    await bench.add(max_in_flight=1)
    await bench.enqueue()
    deliveries = await claim(bench.a)
    assert await record(bench.a, deliveries, disposition, retry=60) == 1
    after = await bench.states()
    assert await record(bench.a, deliveries, disposition, retry=60) == 0
    assert await record(bench.b, deliveries, "dead") == 0
    assert after == await bench.states()


async def test_retry_waits(bench: Bench) -> None:
    """A retry is due after its delay, not before, and counts one more attempt."""
    await bench.add()
    await bench.enqueue()
    await record(bench.a, await claim(bench.a), "retry", retry=60)
    assert await bench.states() == [("pending", 1)]
    await bench.pass_time(58)
    assert await claim(bench.a) == []
    await bench.pass_time(2.1)
    assert [delivery.attempt for delivery in await claim(bench.b)] == [2]


async def test_released(bench: Bench) -> None:
    """What was given back unsent is due at once, and its attempt does not count."""
    await bench.add()
    await bench.enqueue()
    await record(bench.a, await claim(bench.a), "released")
    assert await bench.states() == [("pending", 0)]
    assert [delivery.attempt for delivery in await claim(bench.b)] == [1]


@pytest.mark.fault(46)
async def test_fence(bench: Bench) -> None:
    """A worker that lost its claim changes nothing, though the delivery is in flight again."""
    await bench.add()
    await bench.enqueue()
    late = await claim(bench.a)
    await bench.pass_time(31)
    assert await bench.b.reap() == 1
    current = await claim(bench.b)
    assert await record(bench.a, late) == 0
    assert await bench.states() == [("in_flight", 2)]
    assert await record(bench.b, current) == 1
    assert await bench.states() == [("delivered", 2)]


async def test_manual_retry_fences_the_worker(bench: Bench) -> None:
    """A delivery that an operator takes from its worker is due at once; that worker's outcome comes too late."""
    await bench.add(retry_seconds=[3600])
    await bench.enqueue()
    late = await claim(bench.a)
    assert await bench.retry(late[0].id) == "in_flight"
    assert await record(bench.a, late) == 0
    (again,) = await claim(bench.b)
    assert (again.attempt, again.attempts_before) == (2, 1)


# -- leases ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(41)
async def test_expired_lease(bench: Bench) -> None:
    """What a lost worker held is due at once with its attempt counted, and dead when the schedule is used up."""
    await bench.add(retry_seconds=[3600, 3600])
    await bench.enqueue()
    for attempt in (1, 2, 3):
        assert [delivery.attempt for delivery in await claim(bench.a)] == [attempt]
        assert await bench.b.reap() == 0
        await bench.pass_time(31)
        assert await bench.b.reap() == 1
        assert await bench.b.reap() == 0
    assert await bench.states() == [("dead", 3)]
    assert await claim(bench.a) == []


async def test_reap_frees_the_slots(bench: Bench) -> None:
    """A lost worker's deliveries no longer count as in flight."""
    await bench.add(max_in_flight=2)
    for _ in range(3):
        await bench.enqueue()
    assert len(await claim(bench.a)) == 2
    await bench.pass_time(31)
    assert await bench.a.reap() == 2
    assert len(await claim(bench.b)) == 2


async def test_extend(bench: Bench) -> None:
    """An extended lease holds for its whole length again; claims that are gone are not among the answer."""
    await bench.add()
    await bench.enqueue()
    claimed = await bench.a.claim(10, 1 << 20)
    assert claimed.claim is not None
    own = claimed.claim.id
    await bench.pass_time(20)
    assert await bench.a.extend([own, own + 1000]) == {own}
    await bench.pass_time(20)
    assert await bench.b.reap() == 0
    assert await record(bench.a, claimed.deliveries) == 1
    assert await bench.a.extend([own]) == set()


# -- limits ----------------------------------------------------------------------------------------------------------


async def test_in_flight_cap(bench: Bench) -> None:
    """Both workers together never hold more than the cap, and a free slot is used at once."""
    await bench.add(max_in_flight=3)
    for _ in range(10):
        await bench.enqueue()
    first = await bench.a.claim(2, 1 << 20)
    assert (2, False) == (len(first.deliveries), first.full)
    last = await bench.b.claim(100, 1 << 20)
    assert (1, True) == (len(last.deliveries), last.full)
    assert await claim(bench.a) == []
    assert await record(bench.a, first.deliveries) == 2
    assert len(await claim(bench.b)) == 2
    assert await claim(bench.b) == []


@pytest.mark.parametrize("cap", [3, 20])
@pytest.mark.parametrize("more", [0, 1])
async def test_a_cap_that_nobody_waits_for(bench: Bench, cap: int, more: int) -> None:
    """An endpoint is full when more is due to it than it may have in flight: not when it has just as much."""
    await bench.add(max_in_flight=cap)
    for _ in range(cap + more):
        await bench.enqueue()
    claimed = await bench.a.claim(100, 1 << 20)
    assert (cap, bool(more)) == (len(claimed.deliveries), claimed.full)


async def test_burst(bench: Bench) -> None:
    """A burst is sent at once; what follows waits for the rate."""
    await bench.add(rate=1, burst=3)
    for _ in range(10):
        await bench.enqueue()
    claimed = await bench.a.claim(10, 1 << 20)
    assert [0.0, 0.0, 0.0] == [send_at(delivery) - claimed.database_now for delivery in claimed.deliveries]
    assert await claim(bench.b) == []
    await bench.pass_time(1)
    claimed = await bench.b.claim(10, 1 << 20)
    assert len(claimed.deliveries) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_planned_sends_conform(bench: Bench, seed: int) -> None:
    """Planned sends never exceed rate × time + burst, over both workers, and are at most half a second ahead."""
    chance = random.Random(seed)
    rate, burst = chance.choice([0.5, 4.0, 40.0]), chance.choice([1, 2, 10])
    endpoint = await bench.add(rate=rate, burst=burst, max_in_flight=1000)
    for _ in range(120):
        await bench.enqueue()
    sends: list[float] = []
    for _ in range(25):
        claimed = await chance.choice([bench.a, bench.b]).claim(chance.choice([1, 5, 100]), 1 << 20)
        planned = [send_at(delivery) for delivery in claimed.deliveries]
        assert all(0.0 <= at - claimed.database_now < 0.5 + 1e-4 for at in planned)
        assert {endpoint} >= {delivery.endpoint.id for delivery in claimed.deliveries}
        sends += [at + bench.shifted for at in planned]
        await bench.pass_time(chance.choice([0.0, 0.05, 0.3, 3 / rate]))
    assert sorted(sends) == sends
    assert len(sends) > burst
    for first, start in enumerate(sends):
        for last in range(first, len(sends)):
            assert last - first + 1 <= rate * (sends[last] - start) + burst + 1e-3 * rate


async def test_rate_is_used(bench: Bench) -> None:
    """A limited endpoint with work gets its whole rate, when it is asked often enough."""
    await bench.add(rate=20, burst=1)
    for _ in range(60):
        await bench.enqueue()
    sent, began = 0, time.monotonic()
    for _ in range(20):
        deliveries = await claim(bench.a)
        sent += await record(bench.a, deliveries) if deliveries else 0
        await bench.pass_time(0.1)
    assert 40 <= sent <= 54 + 20 * (time.monotonic() - began)  # in Postgres real time passes as well


@pytest.mark.parametrize("rate", [None, 100])
@pytest.mark.fault(63)
async def test_limit_changed_while_running(bench: Bench, rate: float | None) -> None:
    """A higher limit applies at once, whatever the old one had planned."""
    endpoint = await bench.add(rate=0.001)
    for _ in range(10):
        await bench.enqueue()
    assert len(await claim(bench.a)) == 1
    assert await claim(bench.a) == []
    await bench.change(endpoint, rate=rate)
    assert len(await claim(bench.a)) == 9


async def test_lower_limit_applies_at_once(bench: Bench) -> None:
    """A lower limit holds from the next claim on."""
    endpoint = await bench.add(rate=100, burst=5)
    for _ in range(20):
        await bench.enqueue()
    assert len(await claim(bench.a, 5)) == 5
    await bench.pass_time(1)
    await bench.change(endpoint, rate=1, burst=2)
    assert len(await claim(bench.a)) == 2
    await bench.change(endpoint, rate=None, max_in_flight=10)
    assert len(await claim(bench.a)) == 3


async def test_a_first_limit_is_charged_with_what_is_in_flight(bench: Bench) -> None:
    """What workers have in hand goes out without a plan: it counts, as if the limit had been there before."""
    endpoint = await bench.add()
    for _ in range(20):
        await bench.enqueue()
    assert len(await claim(bench.a, 5)) == 5
    await bench.change(endpoint, rate=1, burst=2)
    await bench.pass_time(2.4)  # of the five that are charged, two are the burst: the next may go after 4 s
    assert await claim(bench.a) == []
    await bench.pass_time(2)
    assert len(await claim(bench.a)) == 1


# -- endpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hold", "release"), [("pause", "resume"), ("disable", "enable")])
async def test_held(bench: Bench, hold: str, release: str) -> None:
    """A paused or disabled endpoint holds what it has and what comes; what is in flight may end; then all is due."""
    endpoint = await bench.add()
    await bench.enqueue()
    in_flight = await claim(bench.a)
    await bench.enqueue()
    await bench.steer(hold, endpoint)
    await bench.enqueue()
    assert await claim(bench.a) == []
    assert await record(bench.a, in_flight, "released") == 1
    assert await claim(bench.a) == []
    assert await bench.states() == [("held", 0)] * 3
    await bench.steer(release, endpoint)
    assert len(await claim(bench.a)) == 3


@pytest.mark.fault(34)
async def test_gone_disables(bench: Bench) -> None:
    """A receiver that answers 410 is disabled; its deliveries are held, not lost."""
    endpoint = await bench.add()
    for _ in range(3):
        await bench.enqueue()
    (gone,) = await claim(bench.a, 1)
    await record(bench.a, [gone], "retry", disable="the receiver answered 410 Gone")
    assert await bench.endpoint_state(endpoint) == "disabled"
    assert await claim(bench.a) == []
    assert [("held", 0), ("held", 0), ("held", 1)] == sorted(await bench.states())


@pytest.mark.fault(35)
async def test_retry_after_holds_the_endpoint(bench: Bench) -> None:
    """An endpoint that asked for quiet gets nothing until then: not this delivery, not the others, not new ones."""
    endpoint = await bench.add()
    for _ in range(3):
        await bench.enqueue()
    await record(bench.a, await claim(bench.a, 1), "retry", retry=120, hold=120)
    await bench.enqueue()
    assert await claim(bench.a) == []
    assert not await bench.a.has_due()
    await bench.change(endpoint, burst=5)
    await bench.steer("pause", endpoint)
    await bench.steer("resume", endpoint)
    assert await claim(bench.a) == []
    await bench.pass_time(118)
    assert await claim(bench.a) == []
    await bench.pass_time(2.1)
    assert len(await claim(bench.a)) == 4


async def test_retry_after_holds_while_others_end(bench: Bench) -> None:
    """Outcomes of sends that were under way when the endpoint asked for quiet do not shorten it."""
    await bench.add()
    for _ in range(4):
        await bench.enqueue()
    first, second, third = await claim(bench.a, 3)
    await record(bench.a, [first], "retry", retry=60, hold=60)
    await record(bench.a, [second], "retry", retry=1)
    await record(bench.a, [third], "released")
    await bench.pass_time(58)
    assert await claim(bench.b) == []
    await bench.pass_time(2.1)
    assert len(await claim(bench.b)) == 4


@pytest.mark.fault(35)
async def test_retry_after_is_never_cut_short_by_the_run_queue(bench: Bench) -> None:
    """An endpoint that waits for its turn when quiet is asked for is not visited in its turn."""
    await bench.add()
    for _ in range(40):
        await bench.enqueue()
    first, *others = await claim(bench.a, 20)
    await record(bench.a, [first], "retry", retry=60, hold=60)
    assert await claim(bench.b) == []
    await record(bench.a, others)
    assert await claim(bench.b) == []
    await bench.pass_time(60.1)
    assert len(await claim(bench.b)) == 21


# -- who is served next ----------------------------------------------------------------------------------------------


async def drain(store: Store, rows: int, claims: int) -> list[str]:
    """Claim and deliver a few times; return the tenants in the order in which they were served."""
    served: list[str] = []
    for _ in range(claims):
        deliveries = await claim(store, rows)
        await record(store, deliveries)
        served += [delivery.endpoint.tenant for delivery in deliveries]
    return served


async def test_a_crowd_does_not_hide_a_small_tenant(bench: Bench) -> None:
    """A tenant with fifty busy endpoints is ahead in the queue; one with a single endpoint is served at once."""
    for _ in range(50):
        await bench.add("crowd")
    await bench.add("small")
    for _ in range(4):
        await bench.enqueue(tenant="crowd")
    assert {"crowd"} == set(await drain(bench.a, 8, 3))
    await bench.enqueue(tenant="small")
    assert "small" in await drain(bench.b, 8, 2)
    assert [("delivered", 1)] == (await bench.states())[-1:]


async def test_tenants_share_equally(bench: Bench) -> None:
    """With more work than is claimed, a tenant with one endpoint gets as much as one with twenty."""
    for _ in range(20):
        await bench.add("crowd")
    await bench.add("small")
    for _ in range(120):
        await bench.enqueue(tenant="crowd")
        await bench.enqueue(tenant="small")
    await drain(bench.a, 16, 4)  # what is new goes first: the crowd has more of that
    served = Counter(await drain(bench.a, 16, 8))
    assert abs(served["small"] - served["crowd"]) <= 32, served


async def test_tenants_share_by_weight(bench: Bench) -> None:
    """A tenant with three times the weight gets three times as much."""
    for tenant in ("heavy", "light"):
        await bench.add(tenant, max_in_flight=1000)
        for _ in range(200):
            await bench.enqueue(tenant=tenant)
    await bench.weigh("heavy", 3.0)
    served = Counter(await drain(bench.a, 16, 12))
    assert 2.0 <= served["heavy"] / served["light"] <= 4.0, served


async def test_an_endpoint_takes_turns_with_its_siblings(bench: Bench) -> None:
    """Within a tenant nobody waits for an endpoint with a long backlog."""
    await bench.add(event_types=["long"])
    for _ in range(200):
        await bench.enqueue(event_type="long")
    assert len(await claim(bench.a, 32)) == 32
    others = {await bench.add(event_types=["short"]) for _ in range(5)}
    await bench.enqueue(event_type="short")
    served = [delivery.endpoint.id for _ in range(4) for delivery in await claim(bench.a, 16)]
    assert others <= set(served)


async def test_what_has_just_become_due_goes_ahead(bench: Bench) -> None:
    """One fresh delivery waits for one of each sibling that became due before it, and for as much of those that have more."""
    for _ in range(60):
        await bench.add(event_types=["burst"])
    fresh = await bench.add(event_types=["fresh"])
    for _ in range(30):
        await bench.enqueue(event_type="burst")
    before = 0
    for claimed in range(30):
        if claimed in (0, 8):
            await bench.enqueue(event_type="fresh")
            before = 0
        deliveries = await claim(bench.a, 30)
        await record(bench.a, deliveries)
        if fresh in [delivery.endpoint.id for delivery in deliveries]:
            assert before <= (120 if claimed < 8 else 30)
        before += len(deliveries)
    assert (await bench.states())[-2:] == [("delivered", 1)] * 2


async def test_what_is_new_goes_ahead_within_its_tenants_share(bench: Bench) -> None:
    """A tenant with fresh deliveries all the time, and a backlog beside them, gets about five quarters of its share at most."""
    for _ in range(4):
        await bench.add("both", event_types=["backlog"])
        await bench.add("other")
    for n in range(20):
        await bench.add("both", event_types=[f"fresh.{n}"])
    for _ in range(150):
        await bench.enqueue(tenant="both", event_type="backlog")
        await bench.enqueue(tenant="other")
    await drain(bench.a, 40, 4)
    served = Counter[str]()
    for _ in range(15):
        for n in range(10):
            await bench.enqueue(tenant="both", event_type=f"fresh.{n}")
        served.update(await drain(bench.a, 40, 1))
    assert 0.9 <= served["both"] / served["other"] <= 1.4, served


async def test_nothing_is_forgotten_in_the_queue(bench: Bench) -> None:
    """Whatever waits for its turn is served in the end, each delivery once."""
    for n in range(30):
        await bench.add(f"tenant {n % 4}")
    for n in range(4):
        for _ in range(5):
            await bench.enqueue(tenant=f"tenant {n}")
    seen: list[int] = []
    while deliveries := await claim(bench.a, 7):
        seen += [delivery.id for delivery in deliveries]
        await record(bench.a, deliveries)
    assert list(range(1, 151)) == sorted(seen)


# -- circuit ---------------------------------------------------------------------------------------------------------


async def fail(bench: Bench, times: int, outcome: str = "timeout") -> None:
    """Let so many deliveries fail, one after the other."""
    for _ in range(times):
        (delivery,) = await claim(bench.a, 1)
        await record(bench.a, [delivery], "retry", retry=3600, outcome=outcome)


async def test_circuit_opens_after_failures_in_a_row(bench: Bench) -> None:
    """Ten failures in a row, and nothing more is sent: what waits keeps its retries."""
    endpoint = await bench.add()
    for _ in range(13):
        await bench.enqueue()
    await fail(bench, 9)
    assert "closed" == await bench.circuit(endpoint)
    await fail(bench, 1)
    assert "open" == await bench.circuit(endpoint)
    assert await claim(bench.a) == []
    await bench.enqueue()
    assert await claim(bench.b) == []
    assert not await bench.a.has_due()
    assert [1] * 10 + [0] * 4 == [attempts for _, attempts in await bench.states()]


async def test_circuit_opens_at_a_ratio(bench: Bench) -> None:
    """Mostly failures open it, though a success now and then breaks the row."""
    endpoint = await bench.add(max_in_flight=1000)
    for _ in range(100):
        await bench.enqueue()
    for _ in range(8):
        deliveries = await claim(bench.a, 9)
        await record(bench.a, deliveries[:8], "retry", retry=3600)
        await record(bench.a, deliveries[8:])
        if await bench.circuit(endpoint) == "open":
            break
    assert "open" == await bench.circuit(endpoint)


async def test_our_own_faults_do_not_open_it(bench: Bench) -> None:
    """What a receiver is not to blame for does not count."""
    endpoint = await bench.add()
    for _ in range(20):
        await bench.enqueue()
    await fail(bench, 20, "interrupted")
    assert "closed" == await bench.circuit(endpoint)


@pytest.mark.fault(64)
async def test_exactly_one_probe(bench: Bench) -> None:
    """After the pause one delivery is sent to see, by one worker, and nothing else until it has ended."""
    endpoint = await bench.add()
    for _ in range(15):
        await bench.enqueue()
    await fail(bench, 10)
    await bench.pass_time(12.1)
    assert await bench.a.has_due()
    (probe,) = await claim(bench.a)
    assert "half_open" == await bench.circuit(endpoint)
    assert (probe.attempt, probe.attempts_before) == (1, 1)
    await bench.enqueue()
    assert await claim(bench.a) == await claim(bench.b) == []
    assert not await bench.a.has_due()
    await record(bench.a, [probe])
    assert "closed" == await bench.circuit(endpoint)


@pytest.mark.fault(64)
async def test_a_failed_probe_spends_no_retry(bench: Bench) -> None:
    """A probe that fails opens the circuit for twice as long, and its delivery has as many retries as before."""
    endpoint = await bench.add(retry_seconds=[1])
    for _ in range(11):
        await bench.enqueue()
    await fail(bench, 10)
    for pause in (10, 20, 40):
        await bench.pass_time(pause * 0.79)
        assert await claim(bench.b) == []
        await bench.pass_time(pause * 0.42)
        (probe,) = await claim(bench.b, 1)
        assert probe.attempt - probe.attempts_before == 0
        await record(bench.b, [probe], "retry", retry=0)
        assert "open" == await bench.circuit(endpoint)


@pytest.mark.parametrize("end", ["released", "interrupted", "lost"])
@pytest.mark.fault(64)
async def test_a_probe_without_an_answer_is_made_again(bench: Bench, end: str) -> None:
    """A probe that was not sent, or whose worker died, says nothing: another one follows at once."""
    await bench.add()
    for _ in range(11):
        await bench.enqueue()
    await fail(bench, 10)
    await bench.pass_time(12.1)
    probes = await claim(bench.a)
    if end == "released":
        await record(bench.a, probes, "released")
    elif end == "interrupted":
        await record(bench.a, probes, "retry", outcome="interrupted")
    else:
        await bench.pass_time(31)
        assert await bench.b.reap() == 1
    assert len(await claim(bench.b)) == 1
    assert await claim(bench.b) == []


@pytest.mark.parametrize("enabled_meanwhile", [False, True])
async def test_a_released_probe_leaves_the_budget_alone(bench: Bench, *, enabled_meanwhile: bool) -> None:
    """A probe that comes back unsent has neither spent nor won a retry, even if an operator closed the circuit meanwhile."""
    endpoint = await bench.add(retry_seconds=[0] * 20)
    await bench.enqueue()
    for _ in range(10):
        await record(bench.a, await claim(bench.a), "retry")
    await bench.pass_time(12.1)
    (probe,) = await claim(bench.b)
    assert (11, 1) == (probe.attempt, probe.attempts_before)
    if enabled_meanwhile:
        await bench.steer("enable", endpoint)
    await record(bench.b, [probe], "released")
    (again,) = await claim(bench.b)
    assert (11, 0 if enabled_meanwhile else 1) == (again.attempt, again.attempts_before)


@pytest.mark.fault(64)
async def test_stragglers_of_an_open_circuit(bench: Bench) -> None:
    """What is still in flight when the pause is over, and the probe waits for its turn, is recorded like everything else."""
    endpoint = await bench.add("t")
    for _ in range(15):
        await bench.enqueue(tenant="t")
    deliveries = await claim(bench.a, 12)
    await record(bench.a, deliveries[:10], "retry", retry=3600)
    assert "open" == await bench.circuit(endpoint)
    await bench.pass_time(12.1)
    assert [] == (await bench.b.claim(10, 1 << 20, Avoid(tenants=["t"]))).deliveries
    assert 1 == await record(bench.a, deliveries[10:11])
    assert 1 == await record(bench.a, deliveries[11:], "released")
    assert 1 == len(await claim(bench.b))
    assert "half_open" == await bench.circuit(endpoint)


async def test_recovery_is_paced(bench: Bench) -> None:
    """When the circuit has closed, the backlog comes at a growing rate, not as a flood."""
    await bench.add(max_in_flight=1000)
    for _ in range(500):
        await bench.enqueue()
    await fail(bench, 10)
    await bench.pass_time(12.1)
    await record(bench.a, await claim(bench.a))
    sent = []
    for _ in range(25):
        deliveries = await claim(bench.a, 500)
        sent.append(len(deliveries))
        await record(bench.a, deliveries)
        await bench.pass_time(1)
    assert all(count <= 3 for count in sent[:2])
    assert sum(sent[:4]) <= 12
    assert sum(sent) == 489


async def test_recovery_ends_at_a_relapse(bench: Bench) -> None:
    """Three failures are enough to open the circuit again while it recovers."""
    endpoint = await bench.add(max_in_flight=1000)
    for _ in range(100):
        await bench.enqueue()
    await fail(bench, 10)
    await bench.pass_time(12.1)
    await record(bench.a, await claim(bench.a))
    for _ in range(3):
        await bench.pass_time(1)
        await record(bench.a, await claim(bench.a, 1), "retry", retry=3600)
    assert "open" == await bench.circuit(endpoint)


async def test_disabled_after_days_of_failures(bench: Bench) -> None:
    """Five days of nothing but failures disable an endpoint; what it has is held, and enabling it starts afresh, paced."""
    endpoint = await bench.add(max_in_flight=1000)
    for _ in range(30):
        await bench.enqueue()
    await fail(bench, 10)
    await bench.pass_time(4 * 86_400)
    await record(bench.a, await claim(bench.a, 1), "retry", retry=60)
    assert "enabled" == await bench.endpoint_state(endpoint)
    await bench.pass_time(86_400)
    await record(bench.a, await claim(bench.a, 1), "retry", retry=60)
    assert "disabled" == await bench.endpoint_state(endpoint)
    assert {"held"} == {state for state, _ in await bench.states()}
    await bench.steer("enable", endpoint)
    assert "closed" == await bench.circuit(endpoint)
    assert 1 <= len(await claim(bench.a)) <= 2


async def test_enabling_closes_the_circuit(bench: Bench) -> None:
    """An operator who knows that the receiver is back need not wait for the probe."""
    endpoint = await bench.add()
    for _ in range(11):
        await bench.enqueue()
    await fail(bench, 10)
    assert await claim(bench.a) == []
    await bench.steer("enable", endpoint)
    assert "closed" == await bench.circuit(endpoint)
    assert len(await claim(bench.a)) == 1


async def test_pausing_does_not_lose_the_probe(bench: Bench) -> None:
    """An endpoint that is paused while its probe is out goes on from the probe's answer when it is resumed."""
    endpoint = await bench.add()
    for _ in range(12):
        await bench.enqueue()
    await fail(bench, 10)
    await bench.pass_time(12.1)
    probe = await claim(bench.a)
    await bench.steer("pause", endpoint)
    await record(bench.a, probe)
    await bench.steer("resume", endpoint)
    assert "closed" == await bench.circuit(endpoint)
    assert len(await claim(bench.a)) == 1


def send_at(delivery: Delivery) -> float:
    assert delivery.send_at is not None
    return delivery.send_at


# -- operational webhooks --------------------------------------------------------------------------------------------

LISTEN = ("endpoint.disabled", "endpoint.recovered", "delivery.dead")


async def heard(bench: Bench) -> list[tuple[int, str, dict[str, Any]]]:
    """Deliver what is due; return who got which operational event."""
    got = []
    while deliveries := await claim(bench.b):
        await record(bench.b, deliveries)
        got += [(d.endpoint.id, json.loads(d.payload or b"")) for d in deliveries if d.payload != b"{}"]
    return sorted((endpoint, document["type"], document["data"]) for endpoint, document in got)


async def disable(bench: Bench, endpoint: int, by: str) -> str:
    """Disable an endpoint that gets order.created; return the reason for it."""
    if by == "operator":
        await bench.steer("disable", endpoint)
        return ""
    assert [] == await claim(bench.a)  # the timers of new endpoints
    for _ in range(12):
        await bench.enqueue()
    if by == "410":
        await record(bench.a, await claim(bench.a), "retry", retry=3600, disable="gone")
        return "gone"
    await fail(bench, 10)
    await bench.pass_time(5 * 86_400)
    await record(bench.a, await claim(bench.a, 1), "retry", retry=3600)
    return "nothing but failures"


@pytest.mark.parametrize("by", ["410", "failures", "operator"])
async def test_told_of_a_disabled_endpoint(bench: Bench, by: str) -> None:
    """A tenant's other endpoints can be told that one was disabled, and why; the URL's query stays out of it."""
    listener = await bench.add(event_types=["endpoint.disabled"])
    endpoint = await bench.add(event_types=["order.created"])
    await bench.change(endpoint, url=URL + "?token=secret")
    reason = await disable(bench, endpoint, by)
    ((to, event_type, data),) = await heard(bench)
    assert (listener, "endpoint.disabled") == (to, event_type)
    assert data.pop("reason").startswith(reason)
    assert {"endpoint_id": endpoint, "url": URL} == data
    await bench.steer("disable", endpoint)
    assert [] == await heard(bench)


async def test_told_that_the_probe_was_answered(bench: Bench) -> None:
    """A circuit that closes after its probe is told; the opening is not, nor what follows."""
    listener = await bench.add(event_types=["endpoint.*"])
    endpoint = await bench.add(event_types=["order.created"])
    assert [] == await claim(bench.a)  # the timers of new endpoints
    for _ in range(12):
        await bench.enqueue()
    await fail(bench, 10)
    assert [] == await heard(bench)
    await bench.pass_time(12.1)
    await record(bench.a, await claim(bench.a))
    data = {"endpoint_id": endpoint, "url": URL, "reason": "the receiver answers again"}
    assert [(listener, "endpoint.recovered", data)] == await heard(bench)


async def test_told_that_an_endpoint_was_enabled(bench: Bench) -> None:
    """An operator who enables a disabled endpoint makes it known; pausing and resuming does not."""
    listener = await bench.add(event_types=["endpoint.recovered"])
    endpoint = await bench.add(event_types=["order.created"])
    for verb in ("pause", "resume", "disable", "enable", "enable"):
        await bench.steer(verb, endpoint)
    data = {"endpoint_id": endpoint, "url": URL, "reason": ""}
    assert [(listener, "endpoint.recovered", data)] == await heard(bench)


@pytest.mark.parametrize("by", ["receiver", "reaper"])
async def test_told_of_a_dead_delivery(bench: Bench, by: str) -> None:
    """A delivery whose attempts are used up is told, whoever recorded it."""
    listener = await bench.add(event_types=["delivery.*"])
    endpoint = await bench.add(event_types=["order.created"], retry_seconds=[])
    event = await bench.enqueue()
    (delivery,) = await claim(bench.a)
    if by == "receiver":
        await record(bench.a, [delivery], "dead")
    else:
        await bench.pass_time(31)
        await bench.b.reap()
    outcome = {"receiver": ("http_status", 500), "reaper": ("lease_expired", None)}[by]
    data = {
        "delivery_id": delivery.id,
        "event_id": event,
        "event_type": "order.created",
        "endpoint_id": endpoint,
        "attempts": 1,
        "last_outcome": outcome[0],
        "last_status": outcome[1],
    }
    assert [(listener, "delivery.dead", data)] == await heard(bench)


async def test_operational_events_are_for_those_who_name_them(bench: Bench) -> None:
    """An endpoint for every event type gets what producers enqueue; operational events go to those that name them."""
    endpoint = await bench.add(event_types=["order.created"])
    for types in ([], ["*"], ["order.*"], ["endpoint.recovered"]):
        await bench.add(event_types=types)
    named = [await bench.add(event_types=types) for types in (["endpoint.disabled"], ["*", "endpoint.*"])]
    await bench.add("another", event_types=["endpoint.disabled"])
    await bench.steer("disable", endpoint)
    assert named == [to for to, _, _ in await heard(bench)]


async def test_no_endpoint_hears_of_itself(bench: Bench) -> None:
    """What happened to an endpoint is told to others only."""
    first, second = [await bench.add(event_types=[*LISTEN, "order.created"]) for _ in range(2)]
    await bench.enqueue()
    await record(bench.a, await claim(bench.a), "dead")
    await bench.steer("disable", first)
    told = [(to, event_type, data["endpoint_id"]) for to, event_type, data in await heard(bench)]
    assert [(second, "delivery.dead", first), (second, "endpoint.disabled", first)] == told
    await bench.steer("enable", first)
    told = [(to, event_type, data["endpoint_id"]) for to, event_type, data in await heard(bench)]
    assert [(first, "delivery.dead", second), (second, "endpoint.recovered", first)] == told


@pytest.mark.parametrize("end", ["dead", "gone", "failing", "recovered"])
async def test_operational_deliveries_lead_to_no_events(bench: Bench, end: str) -> None:
    """Nobody is told what becomes of deliveries of operational events; they move their endpoint's circuit all the same."""
    listener = await bench.add(event_types=["endpoint.disabled"], max_in_flight=1000)
    endpoint = await bench.add(event_types=["order.created"])
    for verb in ("disable", "enable") * 12:
        await bench.steer(verb, endpoint)
    await bench.add(event_types=LISTEN)
    deliveries = await claim(bench.a)
    assert [listener] * 12 == [delivery.endpoint.id for delivery in deliveries]
    if end == "dead":
        await record(bench.a, deliveries, "dead")
    elif end == "gone":
        await record(bench.a, deliveries, "retry", disable="gone")
    else:
        await record(bench.a, deliveries, "retry")
        await bench.pass_time(5 * 86_400)
        await record(bench.a, await claim(bench.a), "delivered" if end == "recovered" else "retry")
    found = (await bench.circuit(listener), await bench.endpoint_state(listener))
    expected = {"dead": ("open", "enabled"), "gone": ("closed", "disabled"), "failing": ("open", "disabled")}
    assert expected.get(end, ("closed", "enabled")) == found
    assert 12 == len(await bench.states())


@pytest.mark.parametrize("answer", ["dead", "gone", "flapping"])
async def test_two_that_listen_to_each_other_come_to_rest(bench: Bench, answer: str) -> None:
    """Two broken endpoints that hear of each other make no more events than their ordinary deliveries had outcomes."""
    for _ in range(2):
        await bench.add(event_types=[*LISTEN, "order.created"])
    for _ in range(11):
        await bench.enqueue()
    for turn in range(80):
        deliveries = await claim(bench.a)
        if answer == "flapping":  # well when it is asked once, down when it is asked for more
            await record(bench.a, deliveries, "delivered" if turn % 2 else "retry", retry=1)
        else:
            await record(
                bench.a, deliveries, "dead" if answer == "dead" else "retry", disable="gone" if answer == "gone" else None
            )
        await bench.pass_time(3600)
    states = Counter(state for state, _ in await bench.states())
    assert {"dead": {"dead": 44}, "gone": {"held": 24}, "flapping": {"delivered": 44}}[answer] == states


async def test_told_once(bench: Bench) -> None:
    """A record that is made twice tells once."""
    await bench.add(event_types=LISTEN)
    await bench.add(event_types=["order.created"])
    for _ in range(2):
        await bench.enqueue()
    first, second = await claim(bench.a)
    for _ in range(2):
        await record(bench.a, [first], "dead")
        await record(bench.a, [second], "retry", disable="gone")
    assert ["delivery.dead", "endpoint.disabled"] == [event_type for _, event_type, _ in await heard(bench)]


async def test_a_trace_context_comes_with_the_delivery(bench: Bench) -> None:
    """Of the event that has one, and of no other."""
    await bench.add()
    await bench.enqueue()
    await bench.enqueue(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    await bench.enqueue(traceparent="none")
    claimed = await bench.a.claim(10, 10_000)

    expected = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)
    assert [(), expected, ()] == [d.trace for d in sorted(claimed.deliveries, key=lambda d: d.id)]
