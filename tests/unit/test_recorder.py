"""Outcomes reach the store, however it misbehaves."""

from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trio.testing

from worker.core.model import Claim, Decision, Delivery, Endpoint, Exchange, Outcome
from worker.pipeline.ports import NOBODY, Avoid, Claimed, StoreError
from worker.pipeline.recorder import BATCH_MAX, ENOUGH, GATHER_SECONDS, Recorder

ENDPOINT = Endpoint(1, 1, "", "https://example.com/", (), 15.0, (), ())
RETRIES = (0.001, 0.002)


class RefusedError(StoreError):
    refused = True


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both backends; trio with a clock that jumps to the next timer when nothing else is left to do."""
    if request.param == "trio":
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return request.param, {}


class FakeStore:
    """Records what `script` lets through: it is called with each batch and may raise, or return how many changed something."""

    def __init__(self, script: Callable[[Sequence[Outcome]], int] = len) -> None:
        self.script = script
        self.calls: list[list[int]] = []
        self.recorded: list[Outcome] = []

    async def record(self, outcomes: Sequence[Outcome], now: float) -> int:
        assert all(outcome.started <= now for outcome in outcomes)
        self.calls.append([outcome.delivery.id for outcome in outcomes])
        changed = self.script(outcomes)
        self.recorded += outcomes
        return changed

    async def claim(self, rows_max: int, bytes_max: int, avoid: Avoid = NOBODY, wait_seconds: float = 0.0) -> Claimed:
        raise NotImplementedError

    async def extend(self, claims: Sequence[int]) -> set[int]:
        raise NotImplementedError

    async def plan_again(self, delivery: Delivery) -> float | None:
        raise NotImplementedError

    async def has_due(self) -> bool:
        raise NotImplementedError


def outcomes(count: int) -> list[Outcome]:
    claim = Claim(1, 30.0, 30.0, open=count)
    return [
        Outcome(
            Delivery(claim, number, ENDPOINT, 1, 0, None, number, "application/json", b"{}"),
            Decision("retry", "http_status"),
            0.0,
            0.1,
            Exchange(500, "", "words", b"body", "5"),
        )
        for number in range(count)
    ]


@asynccontextmanager
async def recording(store: FakeStore) -> Any:
    """A recorder at work; at the end, everything is recorded."""
    recorder = Recorder(store, anyio.current_time, RETRIES)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.run)
        yield recorder
        with anyio.fail_after(20):
            await recorder.drained()
        tasks.cancel_scope.cancel()


async def test_batches() -> None:
    """What has gathered is recorded in one call, at most a thousand at once, in order."""
    store, given = FakeStore(), outcomes(BATCH_MAX + 5)
    async with recording(store) as recorder:
        for outcome in given:
            recorder.add(outcome)
        assert len(given) == len(recorder)
    assert [BATCH_MAX, 5] == [len(call) for call in store.calls]
    assert given == store.recorded
    assert (0, 0, 0) == (given[0].delivery.claim.open, recorder.fenced, recorder.errors)


async def test_hurried(anyio_backend_name: str) -> None:
    """What is there waits for more, until somebody knows that there is none; the next one waits again."""
    store, given, began = FakeStore(), outcomes(3), anyio.current_time()
    async with recording(store) as recorder:
        recorder.add(given[0])
        recorder.add(given[1])
        recorder.hurry()
        await recorder.drained()
        if anyio_backend_name == "trio":  # whose clock is virtual
            assert anyio.current_time() == began
        recorder.add(given[2])
    assert anyio.current_time() >= began + GATHER_SECONDS
    assert [[0, 1], [2]] == store.calls


@pytest.mark.parametrize(("number", "waits"), [(ENOUGH, GATHER_SECONDS / 3), (ENOUGH - 1, GATHER_SECONDS)])
async def test_enough(anyio_backend_name: str, number: int, waits: float) -> None:
    """So many outcomes make a record at once; with one less, the first waits for others."""
    store, given = FakeStore(), outcomes(number)
    async with recording(store) as recorder:
        begun = anyio.current_time()
        recorder.add(given[0])
        await anyio.sleep(GATHER_SECONDS / 3)
        for outcome in given[1:]:
            recorder.add(outcome)
        await recorder.drained()
        if anyio_backend_name == "trio":  # whose clock is virtual
            assert pytest.approx(waits) == anyio.current_time() - begun
    assert [number] == [len(call) for call in store.calls]


async def test_drained_when_empty() -> None:
    """With nothing to record there is nothing to wait for."""
    with anyio.fail_after(0.5):
        await Recorder(FakeStore(), anyio.current_time, RETRIES).drained()


@pytest.mark.fault(46)
async def test_fenced() -> None:
    """Outcomes that changed nothing are counted, and their claims are done with."""
    store, given = FakeStore(lambda batch: len(batch) - 2), outcomes(5)
    async with recording(store) as recorder:
        for outcome in given:
            recorder.add(outcome)
    assert (2, 0) == (recorder.fenced, given[0].delivery.claim.open)


@pytest.mark.fault(43)
@pytest.mark.fault(45)
@pytest.mark.fault(48)
async def test_unavailable() -> None:
    """While the store is away the whole batch is tried again, however often; then it is recorded once, complete."""
    failures = 12

    def away(batch: Sequence[Outcome]) -> int:
        if len(store.calls) <= failures:
            raise StoreError("away")
        return len(batch)

    store, given = FakeStore(away), outcomes(4)
    async with recording(store) as recorder:
        for outcome in given:
            recorder.add(outcome)
    assert [[0, 1, 2, 3]] * (failures + 1) == store.calls
    assert given == store.recorded
    assert (0, failures, None) == (given[0].delivery.claim.open, recorder.errors, recorder.error)


@pytest.mark.fault(50)
async def test_refused_for_a_while() -> None:
    """A deadlock or a full disk passes: the same batch is tried again before anybody is suspected."""

    def deadlock(batch: Sequence[Outcome]) -> int:
        if len(store.calls) <= len(RETRIES) + 3:
            raise StoreError("deadlock")
        return len(batch)

    store, given = FakeStore(deadlock), outcomes(2)
    async with recording(store) as recorder:
        for outcome in given:
            recorder.add(outcome)
    assert given == store.recorded


@pytest.mark.fault(60)
async def test_a_surprise_of_the_store() -> None:
    """An exception that no store should raise loses no outcome either."""

    def broken(batch: Sequence[Outcome]) -> int:
        if len(store.calls) <= 2:
            raise KeyError("surprise")
        return len(batch)

    store, given = FakeStore(broken), outcomes(1)
    async with recording(store) as recorder:
        recorder.add(given[0])
    assert given == store.recorded


@pytest.mark.fault(30)
@pytest.mark.fault(60)
@pytest.mark.parametrize("guilty", [0, 3, 6])
async def test_guilty_one(guilty: int) -> None:
    """The one outcome that the store refuses is found by halves and recorded without its words; the others are complete."""

    def picky(batch: Sequence[Outcome]) -> int:
        if any(outcome.delivery.id == guilty and outcome.exchange.body for outcome in batch):
            raise RefusedError
        return len(batch)

    store, given = FakeStore(picky), outcomes(7)
    async with recording(store) as recorder:
        for outcome in given:
            recorder.add(outcome)
    assert [*range(7)] == [outcome.delivery.id for outcome in store.recorded]
    assert [outcome for outcome in given if outcome.delivery.id != guilty] == [
        outcome for outcome in store.recorded if outcome.delivery.id != guilty
    ]
    assert Exchange(500, "", "details refused by the store") == store.recorded[guilty].exchange
    assert (given[guilty].decision, 0) == (store.recorded[guilty].decision, given[0].delivery.claim.open)


async def test_refused_for_good(caplog: pytest.LogCaptureFixture) -> None:
    """An outcome that is refused even without its words is said and let go: its lease will expire, and the others pass."""

    def picky(batch: Sequence[Outcome]) -> int:
        if any(outcome.delivery.id == 1 for outcome in batch):
            raise RefusedError
        return len(batch)

    store, given = FakeStore(picky), outcomes(3)
    async with recording(store) as recorder:
        for outcome in given:
            recorder.add(outcome)
    assert [0, 2] == [outcome.delivery.id for outcome in store.recorded]
    assert 0 == given[0].delivery.claim.open
    assert "delivery 1" in caplog.text


async def test_progress() -> None:
    """Whoever waits for room learns of it when a batch is recorded."""
    store = FakeStore()
    async with recording(store) as recorder:
        recorder.add(outcomes(1)[0])
        with anyio.fail_after(5):
            await recorder.progress.wait()
        assert 0 == len(recorder)
