"""Who may take one more lane, under a clock that the test moves."""

from collections import Counter
from dataclasses import dataclass, field, replace

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.model import Claim, Delivery, Endpoint
from worker.pipeline import lanes
from worker.pipeline.lanes import SLOW_SECONDS, Lanes
from worker.pipeline.limits import Limits
from worker.pipeline.parked import AVOIDED_MAX, SLOW_KEPT
from worker.pipeline.ports import Avoid
from worker.pipeline.ready import ReadyQueue

ENDPOINT = Endpoint(1, 1, "", "https://example.com/", (), 15.0, (), ())
CLAIM = Claim(1, 30.0, 30.0)


@dataclass
class Bench:
    """A queue, its clock, and what its lanes carry."""

    concurrency: int = 64
    slow_share: float = 0.5
    claimed_max: int = 512
    now: float = 100.0
    numbers: int = 0
    out: list[Delivery] = field(default_factory=list)

    def __post_init__(self) -> None:
        limits = Limits(self.concurrency, self.claimed_max, slow_share=self.slow_share)
        self.queue = ReadyQueue(lambda: self.now, limits)

    def put(self, endpoint: int, count: int = 1, tenant: str = "") -> None:
        for _ in range(count):
            self.numbers += 1
            config = replace(ENDPOINT, id=endpoint, tenant=tenant)
            self.queue.put(Delivery(CLAIM, self.numbers, config, 1, 0, None, self.numbers, "text/plain", b""), None)

    async def fill(self) -> list[int]:
        """Let every free lane take what it can get; return the endpoints that were served."""
        served: list[int] = []
        with anyio.CancelScope() as scope:
            scope.cancel()  # a lane that would have to wait gives up
            while len(self.out) < self.concurrency and (taken := await self.queue.get()):
                self.out.append(taken)
                served.append(taken.endpoint.id)
        return served

    def end(self, *endpoints: int, attempted: bool = True) -> None:
        """End everything, or everything of these endpoints."""
        for delivery in [one for one in self.out if not endpoints or one.endpoint.id in endpoints]:
            self.out.remove(delivery)
            self.queue.done(delivery, attempted=attempted)

    async def turn_over(self) -> None:
        """Let each lane end what it carries and take the next, as lanes do."""
        for delivery in list(self.out):
            self.out.remove(delivery)
            self.queue.done(delivery)
            await self.fill()

    async def prove(self, *endpoints: int, tenant: str = "") -> None:
        for endpoint in endpoints:
            self.put(endpoint, 1, tenant)
            await self.fill()
            self.end(endpoint)

    @property
    def avoided(self) -> Avoid:
        return self.queue.avoid(16)

    @property
    def held(self) -> Counter[int]:
        return Counter(one.endpoint.id for one in self.out)


@pytest.mark.fault(61)
async def test_unknown_endpoints_share() -> None:
    """Endpoints of which nobody knows anything get a lane each, and those of one tenant seven eighths of the share."""
    bench = Bench()
    for endpoint in range(40):
        bench.put(endpoint, 3)
    await bench.fill()
    assert dict.fromkeys(range(28), 1) == bench.held
    bench.put(100, 3, "another")
    assert [100] == await bench.fill()


@pytest.mark.fault(61)
async def test_hanging_endpoints_leave_the_rest() -> None:
    """While hanging endpoints have used up their part, a proven one goes at once, and an unknown one too."""
    bench = Bench()
    await bench.prove(100)
    for endpoint in range(20):
        bench.put(endpoint, 20)
    await bench.fill()
    bench.now += SLOW_SECONDS
    await bench.fill()
    assert 21 == bench.held.total()
    bench.put(100)
    bench.put(101)
    assert [100, 101] == await bench.fill()


@pytest.mark.fault(61)
async def test_one_endpoint_never_holds_every_lane() -> None:
    """Alone, a proven endpoint that goes on answering comes to some seven eighths of the lanes, and no further."""
    bench = Bench()
    bench.put(1, 500)
    await bench.fill()
    for _ in range(4):
        await bench.turn_over()
    assert {1: 54} == bench.held  # two of 64 are for endpoints without a lane


@pytest.mark.fault(61)
async def test_a_lone_slow_endpoint_uses_the_share() -> None:
    """An endpoint that answers slowly and is alone has the share but for what is kept for unknown ones."""
    bench = Bench()
    bench.put(1, 100)
    await bench.fill()
    for _ in range(5):
        bench.now += 2 * SLOW_SECONDS
        bench.end()
        bench.put(1, 30)
        await bench.fill()
    assert {1: 21} == bench.held


@pytest.mark.fault(61)
async def test_a_proven_endpoint_that_begins_to_hang() -> None:
    """It keeps what it holds, and from SLOW_SECONDS on it gets no lane beyond the share."""
    bench = Bench(16)
    await bench.prove(1)
    bench.put(1, 8)
    await bench.fill()
    assert {1: 8} == bench.held  # the two that its answer earned, and the share but for a quarter
    bench.now += SLOW_SECONDS
    bench.put(1)
    assert [] == await bench.fill()
    bench.put(2)
    bench.put(3)
    assert [] == await bench.fill()  # what it holds counts: the share is used up, for unknown ones too


@pytest.mark.fault(61)
async def test_a_quick_answer_gives_the_right_back() -> None:
    """An endpoint that was slow and answers quickly has lanes beyond the share again."""
    bench = Bench(16)
    bench.put(1, 9)
    await bench.fill()
    bench.now += SLOW_SECONDS
    await bench.fill()
    assert {1: 6} == bench.held
    bench.end()  # too late to prove anything
    assert [1, 1, 1] == await bench.fill()
    bench.put(1, 100)
    await bench.turn_over()
    assert {1: 14} == bench.held


async def test_one_hanging_request_outweighs_quick_ones() -> None:
    """While one of its requests hangs, an endpoint's quick answers prove nothing."""
    bench = Bench(16)
    await bench.prove(1)
    bench.put(1)
    await bench.fill()
    bench.now += SLOW_SECONDS
    hanging = bench.out.pop()
    for _ in range(4):
        bench.put(1, 20)
        await bench.fill()
        await bench.turn_over()
    assert {1: 5} == bench.held  # six of the share with the one that hangs
    bench.queue.done(hanging)
    bench.put(1, 100)
    await bench.turn_over()
    await bench.turn_over()
    assert {1: 14} == bench.held


@pytest.mark.fault(61)
async def test_one_slow_answer_is_forgiven() -> None:
    """While others hang, one that was proven until a single request was slow has a lane to show itself; then no more."""
    bench = Bench()
    await bench.prove(100)
    for endpoint in range(20):
        bench.put(endpoint, 20)
    bench.put(100)
    await bench.fill()
    bench.now += SLOW_SECONDS
    await bench.fill()
    bench.put(100)
    assert [100] == await bench.fill()
    bench.now += SLOW_SECONDS
    bench.put(100)
    assert [] == await bench.fill()


async def test_what_was_not_sent_proves_nothing() -> None:
    """A delivery that was given back unsent says nothing of its endpoint, neither good nor bad."""
    bench = Bench(16)
    bench.put(1, 20)
    await bench.fill()
    bench.end(attempted=False)
    await bench.fill()
    assert {1: 1} == bench.held
    await bench.turn_over()
    for _ in range(9):
        bench.end(attempted=False)
        await bench.fill()
        bench.put(1, 8)
    assert {1: 8} == bench.held


@pytest.mark.fault(61)
async def test_the_surplus_of_a_slow_endpoint_is_given_back() -> None:
    """Of an endpoint that is found slow a few deliveries stay, the rest is for others; no claim asks for it for a while."""
    bench = Bench()
    bench.put(1, 100)
    bench.put(2, 3)
    await bench.fill()
    assert [] == bench.queue.surplus()
    bench.end(2)
    bench.now += SLOW_SECONDS
    surplus = [one.id for one in bench.queue.surplus()]
    assert list(range(100, 1 + SLOW_KEPT, -1)) == surplus
    assert [] == bench.queue.surplus()
    assert [1] == list(bench.avoided.endpoints)
    await bench.fill()
    assert {1: 1 + SLOW_KEPT, 2: 2} == bench.held
    assert [1] == list(bench.avoided.endpoints)
    bench.now += SLOW_SECONDS
    assert [] == list(bench.avoided.endpoints)


@pytest.mark.fault(61)
async def test_unproven_endpoints_do_not_fill_the_hand() -> None:
    """What waits for lanes of the share is at most half of what a worker may have in hand; the endpoints are avoided."""
    bench = Bench(4, claimed_max=64)
    for endpoint in range(10):
        bench.put(endpoint, 10)
    await bench.fill()
    surplus = bench.queue.surplus()
    assert (32, 100 - 2 - 32) == (len(bench.queue), len(surplus))
    assert set(range(10)) == set(bench.avoided.endpoints)


@pytest.mark.fault(61)
async def test_a_busy_tenant_leaves_lanes() -> None:
    """A tenant with any number of endpoints, all with much to do, leaves lanes for the one that has little."""
    bench = Bench()
    await bench.prove(*range(100), tenant="crowd")
    await bench.prove(1000, tenant="small")
    for endpoint in range(100):
        bench.put(endpoint, 3, "crowd")
    await bench.fill()
    assert 62 == bench.held.total()
    bench.put(2000, 1, "crowd")
    bench.put(1000, 1, "small")
    bench.put(1001, 1, "small")
    assert [1000, 1001] == await bench.fill()


@pytest.mark.fault(61)
async def test_an_unknown_endpoint_is_not_last() -> None:
    """Of a tenant that always has more to do than lanes: who is unknown waits its turn among the proven."""
    bench = Bench()
    await bench.prove(*range(100))
    for _ in range(4):
        for endpoint in range(100):
            bench.put(endpoint)
        await bench.fill()
    bench.put(1000)
    served: list[int] = []
    for _ in range(110):
        first = bench.out.pop(0)
        bench.queue.done(first)
        bench.put(first.endpoint.id)
        served += await bench.fill()
    assert 1000 in served


@pytest.mark.fault(61)
async def test_the_least_busy_tenant_goes_first() -> None:
    """When every lane is taken, the next that ends is for whoever holds least, however long others have waited."""
    bench = Bench(8)
    await bench.prove(*range(20), tenant="crowd")
    await bench.prove(100, tenant="small")
    for endpoint in range(20):
        bench.put(endpoint, 2, "crowd")
    await bench.fill()
    for number in range(10):
        bench.put(100 + number, 1, "small")
    await bench.fill()
    assert 8 == len(bench.out)
    for _ in range(3):
        first = next(one for one in bench.out if one.endpoint.tenant == "crowd")
        bench.out.remove(first)
        bench.queue.done(first)
        (served,) = await bench.fill()
        assert served >= 100


@pytest.mark.fault(61)
async def test_a_busy_endpoint_leaves_lanes_for_its_siblings() -> None:
    """Of one tenant: an endpoint with a million to do does not keep those without a lane waiting."""
    bench = Bench(16)
    await bench.prove(1)
    bench.put(1, 100)
    for _ in range(4):
        await bench.fill()
        await bench.turn_over()
    assert 14 == bench.held[1]
    for endpoint in range(2, 4):
        bench.put(endpoint)
    assert [2, 3] == await bench.fill()


async def test_weights_divide_the_lanes() -> None:
    """Two tenants that could take everything: lanes by weight."""
    bench = Bench()
    bench.queue.weigh({"heavy": 3.0, "light": 1.0})
    for start, tenant in ((0, "heavy"), (100, "light")):
        await bench.prove(*range(start, start + 100), tenant=tenant)
    for _ in range(3):
        for endpoint in range(100):
            bench.put(endpoint, 1, "heavy")
            bench.put(100 + endpoint, 1, "light")
    await bench.fill()
    for _ in range(3):
        await bench.turn_over()
    heavy = sum(count for endpoint, count in bench.held.items() if endpoint < 100)
    assert 2.5 < heavy / (bench.held.total() - heavy) < 3.5
    bench.queue.weigh({"heavy": 1.0})
    for _ in range(3):
        for endpoint in range(100):
            bench.put(endpoint, 1, "heavy")
        await bench.turn_over()
    heavy = sum(count for endpoint, count in bench.held.items() if endpoint < 100)
    assert 0.8 < heavy / (bench.held.total() - heavy) < 1.25


async def test_a_tenant_with_enough_parked_is_avoided() -> None:
    """A worker in which much of a tenant waits for lanes claims no more of it; of one endpoint, no more of that."""
    bench = Bench(8)
    await bench.prove(*range(80), tenant="crowd")
    for endpoint in range(70):
        bench.put(endpoint, 1, "crowd")
    await bench.fill()
    assert Avoid() == bench.avoided
    for endpoint in range(70, 72):
        bench.put(endpoint, 1, "crowd")
    await bench.fill()
    assert Avoid(tenants=("crowd",)) == bench.avoided
    bench = Bench(8)
    await bench.prove(1)
    bench.put(1, 30)
    await bench.fill()
    await bench.turn_over()
    assert Avoid(endpoints=(1,)) == bench.avoided


async def test_avoided_endpoints_are_bounded() -> None:
    """However many endpoints wait, a claim is not asked to avoid more than a few hundred."""
    bench = Bench(4, claimed_max=8 * AVOIDED_MAX)
    for endpoint in range(2 * AVOIDED_MAX):
        bench.put(endpoint)
    await bench.fill()
    assert AVOIDED_MAX == len(list(bench.avoided.endpoints))


@pytest.mark.parametrize("concurrency", [1, 2, 3])
async def test_few_lanes(concurrency: int) -> None:
    """With one lane, or a few, unproven endpoints have one, and everything gets its turn."""
    bench = Bench(concurrency, slow_share=0.1)
    for endpoint in (1, 2, 1, 2):
        bench.put(endpoint)
    assert [1] == await bench.fill()
    bench.now += 20
    bench.end()
    assert [2] == await bench.fill()
    bench.end()
    served = await bench.fill()
    bench.end()
    assert [1, 2] == sorted(served + await bench.fill())


@pytest.mark.fault(61)
async def test_idle_lanes_are_woken_for_what_is_parked() -> None:
    """A quick answer wakes as many idle lanes as its endpoint may have now."""
    bench = Bench(16, slow_share=0.1)
    taken: list[int] = []

    async def lane() -> None:
        while one := await bench.queue.get():
            bench.out.append(one)
            taken.append(one.id)
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(lane)
        await anyio.wait_all_tasks_blocked()
        bench.put(1, 10)
        await anyio.wait_all_tasks_blocked()
        assert [1] == taken
        bench.end()
        tasks.start_soon(lane)  # the lane that ended comes for the next one
        await anyio.wait_all_tasks_blocked()
        assert [1, 2, 3, 4] == taken  # two that the answer earned, and one of the share
        tasks.cancel_scope.cancel()


async def test_close_returns_all() -> None:
    """Closing returns what is parked, and what is to be given back."""
    bench = Bench(4, claimed_max=16)
    bench.put(1, 20)
    await bench.fill()
    assert 19 == len(bench.queue)
    assert set(range(2, 21)) == {one.id for one in bench.queue.close()}
    bench.end()
    assert (0, [], []) == (len(bench.queue), await bench.fill(), list(bench.avoided.endpoints)[1:])


def test_accounts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of at most KNOWN_MAX endpoints something is remembered; those in use stay."""
    monkeypatch.setattr(lanes, "KNOWN_MAX", 10)
    subject = Lanes(4, 1.0)
    one = Delivery(CLAIM, 1, replace(ENDPOINT, id=0), 1, 0, None, 1, "", b"")
    account = subject.account(0, "a")
    ground = subject.may_take(account)
    assert ground is lanes.TRIAL
    subject.take(account, ground, one, 0.0)
    accounts = [subject.account(endpoint, str(endpoint)) for endpoint in range(100)]
    assert accounts[0] is subject.account(0, "a")
    assert accounts[50] is not subject.account(50, "b")
    assert (10, 10) == (len(subject._known), len(subject._tenants))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 6), st.integers(1, 12)),
        st.tuples(st.just("end"), st.integers(0, 20), st.booleans()),
        st.tuples(st.just("wait"), st.sampled_from([0.3, 1.0, 2.0]), st.just(0)),
        st.tuples(st.just("claim"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


class Model(Bench):
    """The same, with what there is to know of an endpoint written down in the plainest way."""

    def __init__(self, concurrency: int, slow_share: float) -> None:
        super().__init__(concurrency, slow_share, claimed_max=40)
        self.gone: list[int] = []
        self.started: dict[int, float] = {}
        self.quick: dict[int, bool] = {}

    def step(self, verb: str, which: float, much: int) -> None:
        if verb == "put":
            self.put(int(which), much, str(int(which) % 2))
        elif verb == "end" and self.out:
            one = self.out.pop(int(which) % len(self.out))
            self.gone.append(one.id)
            self.queue.done(one, attempted=bool(much))
            if self.hangs(one):
                self.quick[one.endpoint.id] = False
            elif much:
                self.quick[one.endpoint.id] = True
        elif verb == "wait":
            self.now += which
        elif verb == "claim":
            assert len(self.avoided.tenants) <= 2
            self.gone += [one.id for one in self.queue.surplus()]

    async def fill(self) -> list[int]:
        already = len(self.out)
        served = await super().fill()
        self.started |= {one.id: self.now for one in self.out[already:]}
        return served

    def hangs(self, delivery: Delivery) -> bool:
        return self.now - self.started[delivery.id] >= SLOW_SECONDS

    def proven(self, endpoint: int) -> bool:
        return self.quick.get(endpoint, False) and not any(self.hangs(one) for one in self.out if one.endpoint.id == endpoint)

    @property
    def waiting(self) -> set[int]:
        return {one.endpoint.id for one in self.queue._ready} | set(self.queue._parked._of)


@pytest.mark.fault(61)
@given(concurrency=st.integers(1, 20), slow_share=st.sampled_from([0.05, 0.3, 0.5, 1.0]), steps=STEPS)
async def test_any_schedule(concurrency: int, slow_share: float, steps: list[tuple[str, float, int]]) -> None:
    """Whatever happens: the share bounds what the unproven take, no delivery is lost, no lane idles while one may go."""
    bench = Model(concurrency, slow_share)
    share = max(1, int(concurrency * slow_share + 1e-9))
    all_may = max(1, share - max(1, share // 4))
    for step in steps:
        bench.step(*step)
        served = await bench.fill()
        held = bench.held
        assert all(held[endpoint] <= max(7, 7 * (concurrency + 1) // 8) + 1 for endpoint in served)
        if not all(map(bench.proven, served)):
            assert sum(count for endpoint, count in held.items() if not bench.proven(endpoint)) <= share
        without_a_lane = bench.waiting - held.keys()
        if len(bench.out) < concurrency:
            assert not any(map(bench.proven, without_a_lane))
        if 8 * len(bench.out) < 7 * all_may:
            assert set() == without_a_lane
        assert bench.numbers == len(bench.gone) + len(bench.out) + len(bench.queue)
    bench.gone += [one.id for one in [*bench.out, *bench.queue.close()]]
    assert list(range(1, bench.numbers + 1)) == sorted(bench.gone)
