"""The hot path over a scripted store and sender, on both backends."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import standardwebhooks
import trio.testing

from worker.core.model import Claim, Delivery, Endpoint, Exchange, Outcome, Request
from worker.core.signing import SigningKey
from worker.pipeline import pipeline as module
from worker.pipeline.limits import Limits
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.ports import NOBODY, Avoid, Claimed, NotSentError, OutOfFilesError, Store, StoreError
from worker.pipeline.recorder import GATHER_SECONDS
from worker.store.memory import MemoryStore

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ENDPOINT = Endpoint(1, 1, "", "https://example.com/", (("x-own", "1"),), 15.0, (5.0,), (SigningKey.from_text(KEY),))
AHEAD = 1_700_000_000.0
"""The database's clock is so far ahead of the monotonic one."""

BeforeWrite = Callable[[bool], Awaitable[None]]
Answer = Callable[[Request], Awaitable[Exchange]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both backends; trio with a clock that jumps to the next timer when nothing else is left to do."""
    if request.param == "trio":
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return request.param, {}


virtual = pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
"""For what takes seconds."""


def now() -> float:
    return anyio.current_time()


def delivery(number: int, **changes: Any) -> Delivery:
    return replace(Delivery(Claim(1, 30.0, 0.0), number, ENDPOINT, 1, 0, None, number, "text/plain", b"%d" % number), **changes)


@dataclass
class FakeStore:
    """Hands out prepared batches, one a claim, and keeps what is recorded."""

    batches: list[list[Delivery]]
    lease_seconds: float = 30.0
    extended: bool = True
    extends_that_hang: int = 0
    failures: int = 0
    claims: int = 0
    recorded: list[Outcome] = field(default_factory=list)
    record_hangs: bool = False
    avoided: list[set[int]] = field(default_factory=list)
    plan_after: float | None = 0.0
    plans_fail: bool = False
    planned_again: list[int] = field(default_factory=list)

    async def claim(self, rows_max: int, bytes_max: int, avoid: Avoid = NOBODY, wait_seconds: float = 0.0) -> Claimed:  # noqa: ARG002 - the port's
        assert rows_max > 0 < bytes_max
        self.avoided.append(set(avoid.endpoints))
        await anyio.lowlevel.checkpoint()
        self.claims += 1
        if self.failures:
            self.failures -= 1
            raise StoreError("away")
        if not self.batches:
            return Claimed(now() + AHEAD)
        claim = Claim(self.claims, self.lease_seconds, 0.0)
        return Claimed(now() + AHEAD, claim, [replace(one, claim=claim) for one in self.batches.pop(0)])

    async def record(self, outcomes: Sequence[Outcome], now: float) -> int:
        if self.record_hangs:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        assert all(one.started + one.duration_seconds <= now for one in outcomes)
        self.recorded += outcomes
        return len(outcomes)

    async def extend(self, claims: Sequence[int]) -> set[int]:
        if self.extends_that_hang:
            self.extends_that_hang -= 1
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        return set(claims) if self.extended else set()

    async def plan_again(self, delivery: Delivery) -> float | None:
        await anyio.lowlevel.checkpoint()
        if self.plans_fail:
            raise StoreError("away")
        self.planned_again.append(delivery.id)
        return None if self.plan_after is None else now() + AHEAD + self.plan_after

    async def has_due(self) -> bool:
        return bool(self.batches)

    @property
    def results(self) -> dict[int, tuple[str, str]]:
        """What became of each delivery: disposition and outcome by id."""
        assert len(self.recorded) == len({outcome.delivery.id for outcome in self.recorded}), "recorded twice"
        return {one.delivery.id: (one.decision.disposition, one.decision.outcome) for one in self.recorded}


class FakeSender:
    """Asks `before_write`, keeps the request, and answers as told. `connect_seconds` pass before the first byte."""

    def __init__(
        self, answer: Answer | None = None, connect: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
    ) -> None:
        self.sent: list[Request] = []
        self._answer, self._connect = answer, connect

    def lead_seconds(self, _url: str, _transport: str) -> float:
        return 0.0

    async def send(self, request: Request, before_write: BeforeWrite) -> Exchange:
        await self._connect()
        await before_write(bool(self.sent) and self.sent[-1] is request)
        self.sent.append(request)
        return await self._answer(request) if self._answer else Exchange(200)

    async def aclose(self) -> None:
        return

    @property
    def bodies(self) -> list[bytes]:
        return [request.body for request in self.sent]


def pipeline(store: Store, sender: FakeSender, *, once: bool = False, **limits: Any) -> Pipeline:
    settings = replace(Limits(concurrency=4, poll_seconds=0.01, record_seconds_max=1.0, retry_store_seconds=(0.01,)), **limits)
    return Pipeline(store, sender, settings, "test", once=once, clock=now, chance=lambda: 0.5)


@asynccontextmanager
async def at_work(subject: Pipeline) -> AsyncIterator[None]:
    """Run it in the background until the block is left, then stop it and wait for its end."""
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(subject.run)
            yield
            subject.stop()


async def run_once(subject: Pipeline) -> None:
    with anyio.fail_after(20):
        await subject.run()


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - the condition is the subject's own state: nobody sets an event for it
            await anyio.sleep(0.001)


async def test_once() -> None:
    """In once mode everything due is delivered and recorded, and then it ends by itself."""
    store, sender = FakeStore([[delivery(1), delivery(2)], [delivery(3)]]), FakeSender()
    subject = pipeline(store, sender, once=True)
    await run_once(subject)
    assert dict.fromkeys((1, 2, 3), ("delivered", "ok")) == store.results
    assert (3, 3, 0, 0) == (subject.counts.claimed, subject.counts.delivered, subject.counts.released, subject.in_hand)
    assert [0, 0, 0] == [outcome.delivery.claim.open for outcome in store.recorded]


async def test_once_with_nothing() -> None:
    """In once mode with nothing due, one claim is enough."""
    store = FakeStore([])
    await run_once(pipeline(store, FakeSender(), once=True))
    assert 1 == store.claims


async def test_endpoints_take_turns() -> None:
    """What a claim brings of one endpoint in a row alternates with the others', each in its own order."""
    other = replace(ENDPOINT, id=2)
    batch = [delivery(1), delivery(2), delivery(3), delivery(4, endpoint=other), delivery(5, endpoint=other)]
    store, sender = FakeStore([batch]), FakeSender()
    await run_once(pipeline(store, sender, once=True, concurrency=1))
    assert [b"1", b"4", b"2", b"5", b"3"] == sender.bodies


@pytest.mark.fault(35)
async def test_quiet() -> None:
    """When an endpoint asks for quiet, what was claimed of it with the same batch is given back, and others go on."""
    other = replace(ENDPOINT, id=2)

    async def answer(request: Request) -> Exchange:
        return Exchange(429, retry_after="7") if request.body == b"1" else Exchange(200)

    store = FakeStore([[delivery(1), delivery(2), delivery(3, endpoint=other)]])
    await run_once(pipeline(store, FakeSender(answer), once=True, concurrency=1))
    assert {1: ("retry", "http_status"), 2: ("released", "released"), 3: ("delivered", "ok")} == store.results


async def test_bad_endpoint() -> None:
    """An endpoint that may not be sent to, for a header that somebody wrote past the checks, gets nothing, and it shows."""
    store, sender = FakeStore([[delivery(1, endpoint=replace(ENDPOINT, problem="a forbidden header"))]]), FakeSender()
    await run_once(pipeline(store, sender, once=True))
    assert ([], {1: ("retry", "bad_endpoint")}) == (sender.sent, store.results)


async def test_request() -> None:
    """The request carries the exact payload, its type, the endpoint's own headers, and a signature over the database's time."""
    store, sender = FakeStore([[delivery(7, payload=b'{ "n":7}')]]), FakeSender()
    at = int(now() + AHEAD)
    await run_once(pipeline(store, sender, once=True))
    request, headers = sender.sent[0], dict(sender.sent[0].headers)
    assert ("https://example.com/", b'{ "n":7}', 15.0) == (request.url, request.body, request.timeout_seconds)
    assert ("text/plain", "msg_test_7", "1") == (headers["content-type"], headers["webhook-id"], headers["x-own"])
    assert at <= int(headers["webhook-timestamp"]) <= at + 1
    signed = standardwebhooks.Webhook(KEY).sign(
        "msg_test_7", datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC), request.body.decode()
    )
    assert signed == headers["webhook-signature"]


class ResendingSender(FakeSender):
    """Finds its connection closed after the first writing: it writes again, if it may."""

    async def send(self, request: Request, before_write: BeforeWrite) -> Exchange:
        await super().send(request, before_write)
        try:
            return await super().send(request, before_write)
        except NotSentError as error:
            return Exchange(None, "disconnected", str(error))


@virtual
@pytest.mark.fault(36)
async def test_written_again() -> None:
    """A request that is written once more waits for a moment that is planned for it, since it counts twice in the rate."""
    store, sender = FakeStore([[delivery(1, send_at=now() + AHEAD), delivery(2)]], plan_after=0.3), ResendingSender()
    began = now()
    await run_once(pipeline(store, sender, once=True))
    assert dict.fromkeys((1, 2), ("delivered", "ok")) == store.results
    assert ([1], 4) == (store.planned_again, len(sender.sent))
    assert 0.3 <= now() - began < 0.5


@virtual
@pytest.mark.fault(36)
@pytest.mark.parametrize(("fails", "said"), [(False, "no other moment soon"), (True, "away")])
async def test_not_written_again(fails: bool, said: str) -> None:
    """If the rate has no moment for it, or nobody can tell, the attempt has failed and its schedule decides."""
    store, sender = FakeStore([[delivery(1, send_at=now() + AHEAD)]], plan_after=None, plans_fail=fails), ResendingSender()
    await run_once(pipeline(store, sender, once=True))
    assert ({1: ("retry", "disconnected")}, 1) == (store.results, len(sender.sent))
    assert said in (store.recorded[0].exchange.error or "")


@pytest.mark.fault(55)
async def test_lease_expired() -> None:
    """When the lease has run out before the first byte, nothing is sent and the delivery is given back."""

    async def slow_connect() -> None:
        await anyio.sleep(0.1)

    store, sender = FakeStore([[delivery(1)]], lease_seconds=0.05, extended=True), FakeSender(connect=slow_connect)
    await run_once(pipeline(store, sender, once=True))
    assert ([], {1: ("released", "released")}) == (sender.sent, store.results)


@virtual
@pytest.mark.fault(55)
async def test_lease_taken_back() -> None:
    """When the store no longer knows the claim, what is unsent of it is given back."""
    connected = anyio.Event()
    store, sender = FakeStore([[delivery(1)]], lease_seconds=1.5, extended=False), FakeSender(connect=connected.wait)
    async with at_work(pipeline(store, sender)):
        await until(lambda: store.claims > 1)
        await anyio.sleep(1.1)  # a lease of 1.5 s is looked at after a second, and found gone
        connected.set()
        await until(lambda: store.recorded)
    assert ([], {1: ("released", "released")}) == (sender.sent, store.results)


@virtual
async def test_lease_extended() -> None:
    """While it is in hand, a delivery's lease is extended, however long connecting takes."""

    async def slow_connect() -> None:
        await anyio.sleep(2.2)

    store, sender = FakeStore([[delivery(1)]], lease_seconds=2.0), FakeSender(connect=slow_connect)
    await run_once(pipeline(store, sender, once=True))
    assert {1: ("delivered", "ok")} == store.results


@virtual
@pytest.mark.parametrize(("hang", "result"), [(2, ("delivered", "ok")), (3, ("released", "released"))])
async def test_extensions_that_hang(hang: int, result: tuple[str, str]) -> None:
    """A try that gets no answer, as over a connection that is half open, is given up: two of them leave time for a third."""

    async def slow_connect() -> None:
        await anyio.sleep(31)

    store = FakeStore([[delivery(1)]], extends_that_hang=hang)
    await pipeline(store, FakeSender(connect=slow_connect), once=True).run()
    assert {1: result} == store.results


@pytest.mark.fault(59)
async def test_out_of_files(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be sent for want of our own files is given back, nothing is claimed for a moment, and that is said once."""
    monkeypatch.setattr(module, "OUT_OF_FILES_SECONDS", 0.3)
    failed_at: list[float] = []

    async def connect() -> None:
        if len(failed_at) < 2:
            failed_at.append(now())
            raise OutOfFilesError("too many open files")

    store, sender = FakeStore([[delivery(1), delivery(2)], [delivery(3)]]), FakeSender(connect=connect)
    await run_once(pipeline(store, sender, once=True))
    released, delivered = ("released", "released"), ("delivered", "ok")
    assert {1: released, 2: released, 3: delivered} == store.results
    assert now() - failed_at[0] >= 0.3
    assert ["worker.pipeline"] == [record.name for record in caplog.records]


async def test_planned_moment() -> None:
    """A planned delivery is not sent before its moment; the others do not wait for it."""
    planned = now() + 0.2
    sent_at: dict[bytes, float] = {}

    async def answer(request: Request) -> Exchange:
        sent_at[request.body] = now()
        return Exchange(200)

    store = FakeStore([[delivery(1, send_at=planned + AHEAD), delivery(2)]])
    await run_once(pipeline(store, FakeSender(answer), once=True))
    assert sent_at[b"2"] < planned - 0.1
    assert planned - 1e-4 <= sent_at[b"1"] < planned + 0.1


async def test_late_planned_send() -> None:
    """A planned delivery whose moment has passed is given back: that moment belongs to others by now."""

    async def slow_connect() -> None:
        await anyio.sleep(0.2)

    store, sender = FakeStore([[delivery(1, send_at=now() + AHEAD)]]), FakeSender(connect=slow_connect)
    await run_once(pipeline(store, sender, once=True))
    assert ([], {1: ("released", "released")}) == (sender.sent, store.results)


@virtual
async def test_a_planned_send_that_waits_for_a_lane() -> None:
    """One that misses its moment because its endpoint may have no more lanes is given back, and the worker goes on claiming."""
    begun, sent = now(), dict[bytes, float]()

    async def answer(request: Request) -> Exchange:
        sent[request.body] = now() - begun
        await anyio.sleep(0.5 if int(request.body) < 10 else 0)
        return Exchange(200)

    slow = [delivery(number, send_at=begun + AHEAD + 0.01 * number) for number in range(5)]
    store = FakeStore([slow])
    async with at_work(pipeline(store, FakeSender(answer))):
        await anyio.sleep(0.55)  # the first has ended, and the others were too late for its lane
        store.batches.append([delivery(10, endpoint=replace(ENDPOINT, id=2))])
        await anyio.sleep(0.1)
    assert [0, 10] == [int(body) for body in sent]
    assert dict.fromkeys(range(1, 5), ("released", "released")) | dict.fromkeys((0, 10), ("delivered", "ok")) == store.results


@pytest.mark.fault(60)
async def test_unknown_exception() -> None:
    """A surprise in one delivery is recorded as a failure that is retried; its siblings are delivered."""

    async def answer(request: Request) -> Exchange:
        if request.body == b"2":
            raise RuntimeError("a\0surprise")
        return Exchange(200)

    store = FakeStore([[delivery(number) for number in range(5)], [delivery(5)]])
    await run_once(pipeline(store, FakeSender(answer), once=True, concurrency=1))
    assert dict.fromkeys((0, 1, 3, 4, 5), ("delivered", "ok")) | {2: ("retry", "internal_error")} == store.results
    assert "RuntimeError: a\0surprise" in [outcome.exchange.error for outcome in store.recorded]


@pytest.mark.fault(61)
async def test_slow_sibling() -> None:
    """A receiver that hangs takes one lane; those of others go on."""
    answered = anyio.Event()

    async def answer(request: Request) -> Exchange:
        if request.body == b"0":
            await answered.wait()
        return Exchange(200)

    store = FakeStore([[delivery(number, endpoint=replace(ENDPOINT, id=number)) for number in range(20)]])
    async with at_work(pipeline(store, FakeSender(answer), concurrency=4)):
        await until(lambda: len(store.recorded) == 19)
        assert 0 not in store.results
        answered.set()
    assert ("delivered", "ok") == store.results[0]


@virtual
@pytest.mark.fault(61)
async def test_hanging_endpoints_share_the_lanes() -> None:
    """Endpoints that hang together hold no more than the share; others are delivered at once, and all ends in good order."""
    begun = now()
    arrived: dict[bytes, float] = {}

    async def answer(request: Request) -> Exchange:
        arrived[request.body] = now() - begun
        if int(request.body) < 1000:
            await anyio.sleep(15)
            return Exchange(outcome="timeout")
        await anyio.sleep(0.02)
        return Exchange(200)

    hanging = [
        delivery(10 * endpoint + n, endpoint=replace(ENDPOINT, id=endpoint)) for endpoint in range(16) for n in range(10)
    ]
    healthy = [delivery(1000 + n, endpoint=replace(ENDPOINT, id=1000 + n % 10)) for n in range(80)]
    store = FakeStore([hanging, healthy[:40], healthy[40:]])
    subject = pipeline(store, FakeSender(answer), concurrency=64)
    async with at_work(subject):
        await anyio.sleep(2)
        at_once = [at for body, at in arrived.items() if int(body) >= 1000]
        assert (80, True) == (len(at_once), max(at_once) < 0.5)
        assert 21 == len(arrived) - len(at_once)  # of 64 lanes half, but for a quarter of it, and of that seven eighths
        assert set(range(16)) == store.avoided[-1]
        assert 16 * (10 - 8 - 1) == subject.counts.released  # a few of each are kept for the next lane
    assert ({"delivered", "retry", "released"}, 240) == ({one for one, _ in store.results.values()}, len(store.results))
    assert 0 == subject.in_hand


async def p99_beside(hanging: int) -> float:
    """Deliver twice to 2,000 healthy endpoints, the second time beside so many deliveries a claim of one that hangs.

    Return p99 from claim to arrival, of the second time: at first nobody knew them.
    """
    claimed: dict[int, float] = {}
    took: list[float] = []

    async def answer(request: Request) -> Exchange:
        number = int(request.body)
        if number >= 10_000:
            await anyio.sleep(15)
            return Exchange(outcome="timeout")
        took.append(now() - claimed[number])
        await anyio.sleep(0.02)
        return Exchange(200)

    class Supply(FakeStore):
        """Leaves out who is avoided, and hands out again what was given back."""

        async def claim(self, rows_max: int, bytes_max: int, avoid: Avoid = NOBODY, wait_seconds: float = 0.0) -> Claimed:
            if self.batches:
                batch = self.batches.pop(0)
                later = [one for one in batch if one.endpoint.id in avoid.endpoints]
                self.batches[:1] = [later + [one for following in self.batches[:1] for one in following]]
                self.batches.insert(0, [one for one in batch if one.endpoint.id not in avoid.endpoints])
            found = await super().claim(rows_max, bytes_max, avoid, wait_seconds)
            for one in found.deliveries:
                claimed.setdefault(one.id, now())
            return found

        async def record(self, outcomes: Sequence[Outcome], now: float) -> int:
            back = [one.delivery for one in outcomes if one.decision.disposition == "released"]
            self.batches[:1] = [back + [one for batch in self.batches[:1] for one in batch]]
            return await super().record(outcomes, now)

    hangs = replace(ENDPOINT, id=10_000)
    store = Supply(
        [
            [delivery(10_000 + hanging * nth + n, endpoint=hangs) for n in range(hanging * (nth >= 100))]
            + [delivery(number, endpoint=replace(ENDPOINT, id=number % 2_000)) for number in range(20 * nth, 20 * nth + 20)]
            for nth in range(200)
        ]
    )
    async with at_work(pipeline(store, FakeSender(answer), concurrency=64, poll_seconds=0.03, poll_busy_seconds=0.03)):
        await until(lambda: len(took) == 4_000)
    return sorted(took[2_000:])[1_979]


@virtual
@pytest.mark.fault(61)
async def test_a_hanging_endpoint_leaves_the_others_p99() -> None:
    """Thousands of endpoints that are known to answer do not notice one that hangs, however much is due there."""
    assert await p99_beside(0) == pytest.approx(await p99_beside(5), abs=1e-3)


@virtual
@pytest.mark.fault(61)
async def test_a_slow_endpoint_alone_is_served() -> None:
    """An endpoint that always answers slowly gets all that is due, on as many lanes of the share as it may have."""
    at: list[float] = []

    async def answer(_: Request) -> Exchange:
        at.append(now())
        await anyio.sleep(2)
        return Exchange(200)

    store = FakeStore([[delivery(number) for number in range(6)]])
    await run_once(pipeline(store, FakeSender(answer), once=True, concurrency=16))
    assert dict.fromkeys(range(6), ("delivered", "ok")) == store.results
    assert [0.0, *[pytest.approx(1.0, abs=0.1)] * 5] == [one - at[0] for one in at]


@virtual
async def test_a_full_endpoint_waits_for_nobody() -> None:
    """What is due to an endpoint with as many in flight as it may is claimed when these are recorded, which is at once."""
    store = MemoryStore(lambda: now() + AHEAD)
    store.add_endpoint("https://example.com/", max_in_flight=4)
    events = [store.enqueue("order.created", b"{}") for _ in range(40)]
    subject = pipeline(store, FakeSender())
    began = now()
    async with at_work(subject):
        await until(lambda: subject.counts.delivered == len(events))
        took = now() - began
    assert took < 2 * GATHER_SECONDS  # without it, each four of them would take as long


@virtual
async def test_a_full_endpoint_with_a_rate_is_in_no_hurry() -> None:
    """Its deliveries in hand wait for their moments: what has been sent is recorded by several, as ever."""
    store = MemoryStore(lambda: now() + AHEAD)
    store.add_endpoint("https://example.com/", max_in_flight=8, rate=200.0)
    events = [store.enqueue("order.created", b"{}") for _ in range(100)]
    subject, records = pipeline(store, FakeSender()), list[int]()
    record = store.record

    async def counted(outcomes: Sequence[Outcome], now: float) -> int:
        records.append(len(outcomes))
        return await record(outcomes, now)

    store.record = counted  # type: ignore[method-assign]
    async with at_work(subject):
        await until(lambda: subject.counts.delivered == len(events))
    assert len(records) <= len(events) / 3


@pytest.mark.fault(40)
async def test_no_key() -> None:
    """Without a key nothing is sent, least of all unsigned."""
    store, sender = FakeStore([[delivery(1, endpoint=replace(ENDPOINT, keys=()))]]), FakeSender()
    await run_once(pipeline(store, sender, once=True))
    assert ([], {1: ("retry", "no_key")}) == (sender.sent, store.results)


async def test_event_missing() -> None:
    """Without its payload nothing is sent, and the delivery is dead."""
    store, sender = FakeStore([[delivery(1, payload=None)]]), FakeSender()
    await run_once(pipeline(store, sender, once=True))
    assert ([], {1: ("dead", "event_missing")}) == (sender.sent, store.results)


@pytest.mark.fault(54)
async def test_stop() -> None:
    """Stopping gives back at once what was not sent, planned ones too, and finishes what is in the lanes."""
    answered = anyio.Event()

    async def answer(request: Request) -> Exchange:
        await answered.wait()
        return Exchange(200)

    batch = [delivery(number, endpoint=replace(ENDPOINT, id=number)) for number in (1, 2, 3)]
    store, sender = FakeStore([[*batch, delivery(4, send_at=now() + AHEAD + 15)]]), FakeSender(answer)
    subject = pipeline(store, sender, concurrency=2, slow_share=1.0)
    async with at_work(subject):
        await until(lambda: len(sender.sent) == 2)
        subject.stop()
        await until(lambda: store.recorded)
        assert dict.fromkeys((3, 4), ("released", "released")) == store.results
        claims = store.claims
        answered.set()
    assert dict.fromkeys((1, 2), ("delivered", "ok")) | dict.fromkeys((3, 4), ("released", "released")) == store.results
    assert (claims, 2, 2) == (store.claims, subject.counts.delivered, subject.counts.released)


@pytest.mark.fault(54)
async def test_drain_time_over() -> None:
    """What gets no answer within the drain time is recorded as interrupted, and due again."""

    async def answer(request: Request) -> Exchange:
        await anyio.sleep_forever()
        return Exchange(200)

    store, sender = FakeStore([[delivery(1)]]), FakeSender(answer)
    async with at_work(pipeline(store, sender, drain_seconds=0.1)):
        await until(lambda: sender.sent)
    assert {1: ("retry", "interrupted")} == store.results


@pytest.mark.fault(54)
async def test_stop_while_a_claim_hangs() -> None:
    """A database that does not answer keeps nothing that is unsent from being given back."""
    answered, hanging = anyio.Event(), anyio.Event()

    class Hangs(FakeStore):
        async def claim(self, rows_max: int, bytes_max: int, avoid: Avoid = NOBODY, wait_seconds: float = 0.0) -> Claimed:  # noqa: ARG002 - the port's
            if self.claims:
                hanging.set()
                await anyio.sleep_forever()
            return await super().claim(rows_max, bytes_max, avoid)

    async def answer(request: Request) -> Exchange:
        await answered.wait()
        return Exchange(200)

    store, sender = Hangs([[delivery(1), delivery(2)]]), FakeSender(answer)
    async with at_work(pipeline(store, sender, concurrency=1, drain_seconds=0.2)):
        await until(lambda: sender.sent and hanging.is_set())
    assert {1: ("retry", "interrupted"), 2: ("released", "released")} == store.results


@pytest.mark.fault(45)
async def test_stop_without_a_store() -> None:
    """A store that never comes back does not keep the worker: the leases expire, and others take over."""
    store, sender = FakeStore([[delivery(1)]], record_hangs=True), FakeSender()
    subject = pipeline(store, sender, record_seconds_max=0.1)
    async with at_work(subject):
        await until(lambda: sender.sent)
    assert (1, {}) == (subject.in_hand, store.results)


@pytest.mark.fault(43)
@pytest.mark.fault(45)
async def test_store_away() -> None:
    """Claims are tried again while the store is away, and go on when it is back."""
    store = FakeStore([[delivery(1)]], failures=5)
    subject = pipeline(store, FakeSender(), once=True)
    await run_once(subject)
    assert ({1: ("delivered", "ok")}, None) == (store.results, subject.store_error)


@virtual
@pytest.mark.fault(45)
async def test_ten_minutes_without_a_store() -> None:
    """What is in hand is sent while its lease holds, outcomes wait in memory, and on return each is recorded, once."""
    seconds_away, bound = 600, 20

    class Away(FakeStore):
        since = math.inf

        def look(self) -> None:
            if self.since <= now() < self.since + seconds_away:
                raise StoreError("away")

        async def claim(self, rows_max: int, bytes_max: int, avoid: Avoid = NOBODY, wait_seconds: float = 0.0) -> Claimed:
            self.look()
            return await super().claim(rows_max, bytes_max, avoid, wait_seconds)

        async def record(self, outcomes: Sequence[Outcome], now: float) -> int:
            self.look()
            return await super().record(outcomes, now)

        async def extend(self, claims: Sequence[int]) -> set[int]:
            self.look()
            return await super().extend(claims)

    sent_at: list[float] = []

    async def answer(_: Request) -> Exchange:
        sent_at.append(now())
        await anyio.sleep(0.9)
        return Exchange(200)

    batches = [[delivery(10 * batch + number) for number in range(10)] for batch in range(10)]
    store, sender = Away(batches), FakeSender(answer)
    subject = pipeline(store, sender, claimed_max=bound, poll_seconds=0.5, retry_store_seconds=(0.1, 1.0))
    held: list[int] = []
    with anyio.fail_after(3600):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(subject.run)
            await anyio.sleep(15)
            store.since = now()
            for _ in range(seconds_away - 1):
                await anyio.sleep(1)
                held.append(subject.in_hand)
            recorded = len(store.recorded)
            assert isinstance(subject.store_error, StoreError)
            while store.batches or subject.in_hand:  # noqa: ASYNC110 - as in `until`
                await anyio.sleep(1)
            subject.stop()
    meanwhile = [at - store.since for at in sent_at if store.since <= at < store.since + seconds_away]
    assert 0 <= meanwhile[0] <= meanwhile[-1] < store.lease_seconds
    assert 0 < len(meanwhile) <= held[-1] == max(held) <= bound
    assert 0 < recorded < 100 == len(store.results)
    delivered = [id_ for id_, (disposition, _) in store.results.items() if disposition == "delivered"]
    assert len(sender.sent) == len(set(sender.bodies)) == len(delivered)


@pytest.mark.fault(45)
async def test_unrecorded_outcomes_are_bounded() -> None:
    """While outcomes cannot be recorded, claims stop when enough is in hand."""
    store = FakeStore([[delivery(10 * batch + number) for number in range(10)] for batch in range(10)], record_hangs=True)
    subject = pipeline(store, FakeSender(), claimed_max=20, record_seconds_max=0.1)
    async with at_work(subject):
        await until(lambda: subject.in_hand >= 20)
        await anyio.wait_all_tasks_blocked()
        assert (20, 8) == (subject.in_hand, len(store.batches))


@dataclass
class Busy:
    """A store that always has more, each for an endpoint of its own, over receivers that take a moment to answer."""

    store: FakeStore = field(default_factory=lambda: FakeStore([[one(number) for number in range(12)] for _ in range(80)]))
    at_once: int = 0
    most: int = 0

    async def answer(self, _: Request) -> Exchange:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await anyio.sleep(0.1)
        self.at_once -= 1
        return Exchange(200)

    async def most_within(self, seconds: float) -> int:
        """So many were on the wire at once, at most, from now on."""
        self.most = self.at_once
        await anyio.sleep(seconds)
        return self.most


def one(number: int) -> Delivery:
    """A delivery of an endpoint and a tenant of its own: neither has to leave a lane for others."""
    return delivery(number, endpoint=replace(ENDPOINT, id=number, tenant=str(number)))


@virtual
async def test_resized() -> None:
    """Lanes become fewer as they end what they carry, and more at once; every delivery is recorded."""
    busy = Busy()
    subject = pipeline(busy.store, FakeSender(busy.answer), concurrency=8, slow_share=1.0)
    async with at_work(subject):
        await anyio.sleep(1)
        assert 8 == await busy.most_within(1)
        subject.resize(replace(subject._limits, concurrency=2))
        assert 8 == busy.at_once
        await anyio.sleep(1)
        assert 2 == await busy.most_within(1)
        subject.resize(replace(subject._limits, concurrency=11))
        await anyio.sleep(1)
        assert 11 == await busy.most_within(1)
        subject.resize(replace(subject._limits, concurrency=1))  # and again before the first of them has ended
        subject.resize(replace(subject._limits, concurrency=5))
        await anyio.sleep(1)
        assert 5 == await busy.most_within(1)
    assert (0, subject.counts.claimed) == (subject.in_hand, len(busy.store.recorded))


@virtual
async def test_idle_lanes_end() -> None:
    """Lanes that wait for something to do end as well, and what comes then finds those that are left."""
    store, busy = FakeStore([]), Busy()
    subject = pipeline(store, FakeSender(busy.answer), concurrency=8, slow_share=1.0)
    async with at_work(subject):
        await anyio.sleep(1)
        subject.resize(replace(subject._limits, concurrency=3))
        await anyio.sleep(1)
        assert 3 == len(subject._ready._idle_lanes)
        store.batches += busy.store.batches[:2]
        assert 3 == await busy.most_within(1)


@virtual
async def test_a_share_that_grows() -> None:
    """What waits for the share of slow and unknown endpoints goes when that has become larger."""
    store, busy = FakeStore([[one(number) for number in range(4)]]), Busy()

    async def never(request: Request) -> Exchange:
        busy.at_once += 1
        await anyio.sleep(14)
        return await busy.answer(request)

    subject = pipeline(store, FakeSender(never), concurrency=4, slow_share=0.25)
    async with at_work(subject):
        await anyio.sleep(2)
        assert 1 == busy.at_once
        subject.resize(replace(subject._limits, slow_share=1.0))
        store.batches.append([one(number) for number in range(10, 14)])
        await until(lambda: busy.at_once > 1)


@virtual
async def test_the_drain_time_that_holds() -> None:
    """The drain time is what was said last."""
    store = FakeStore([[delivery(1)]])

    async def hangs(_: Request) -> Exchange:
        await anyio.sleep(10)
        return Exchange(200)

    subject = pipeline(store, FakeSender(hangs), drain_seconds=20.0)
    async with at_work(subject):
        await anyio.sleep(1)
        subject.resize(replace(subject._limits, drain_seconds=2.0))
    assert {1: ("retry", "interrupted")} == store.results
