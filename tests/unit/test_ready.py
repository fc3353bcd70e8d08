"""The queue between claims and lanes, under both backends; its timing under trio's virtual clock."""

from dataclasses import replace
from typing import Any

import anyio
import pytest
import trio.testing
from anyio.lowlevel import checkpoint

from worker.core.model import Claim, Delivery, Endpoint
from worker.pipeline.limits import Limits
from worker.pipeline.ready import ReadyQueue

ENDPOINT = Endpoint(1, 1, "", "https://example.com/", (), 15.0, (), ())
CLAIM = Claim(1, 30.0, 30.0)


@pytest.fixture(params=["asyncio", "trio", "virtual"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both backends, and trio with a clock that jumps to the next timer when nothing else is left to do."""
    if request.param == "virtual":
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return request.param, {}


virtual = pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)


def delivery(number: int) -> Delivery:
    """One of an endpoint of its own."""
    return Delivery(CLAIM, number, replace(ENDPOINT, id=number), 1, 0, None, number, "application/json", b"{}")


class Lanes:
    """Takes from the queue and writes down what came, and when."""

    def __init__(self) -> None:
        self.queue = ReadyQueue(anyio.current_time, Limits())
        self.took: list[int] = []
        self.at: list[float] = []
        self.ended = 0

    async def one(self) -> None:
        while (taken := await self.queue.get()) is not None:
            self.took.append(taken.id)
            self.at.append(anyio.current_time())
            await checkpoint()
        self.ended += 1


async def test_order() -> None:
    """What is ready is handed out first in, first out, without waiting."""
    lanes = Lanes()
    for number in range(5):
        lanes.queue.put(delivery(number), None)
    assert 5 == len(lanes.queue)
    taken = [await lanes.queue.get() for _ in range(5)]
    assert list(range(5)) == [one.id for one in taken if one]
    assert 0 == len(lanes.queue)


async def test_waiting_lanes_are_served() -> None:
    """Every waiting lane gets its delivery."""
    lanes = Lanes()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(lanes.one)
        await anyio.wait_all_tasks_blocked()
        for number in range(7):
            lanes.queue.put(delivery(number), None)
        await anyio.wait_all_tasks_blocked()
        assert list(range(7)) == sorted(lanes.took)
        assert [] == lanes.queue.close()
    assert 3 == lanes.ended


async def test_cancelled_lane_loses_no_wake_up() -> None:
    """A delivery that was meant for a lane that is cancelled goes to the next."""
    lanes = Lanes()
    async with anyio.create_task_group() as tasks:
        first = anyio.CancelScope()

        async def cancelled() -> None:
            with first:
                await lanes.one()

        tasks.start_soon(cancelled)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(lanes.one)
        await anyio.wait_all_tasks_blocked()
        lanes.queue.put(delivery(1), None)
        first.cancel()  # woken and cancelled in the same step
        await anyio.wait_all_tasks_blocked()
        assert [1] == lanes.took
        lanes.queue.close()


async def test_cancelled_lane_takes_no_wake_up() -> None:
    """A lane that was cancelled while it waited is not woken in place of one that lives."""
    lanes = Lanes()
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as first:
            first.start_soon(lanes.one)
            await anyio.wait_all_tasks_blocked()
            first.cancel_scope.cancel()
        tasks.start_soon(lanes.one)
        await anyio.wait_all_tasks_blocked()
        lanes.queue.put(delivery(1), None)
        await anyio.wait_all_tasks_blocked()
        assert [1] == lanes.took
        lanes.queue.close()


async def test_close() -> None:
    """Closing ends the lanes and the release of planned ones, and returns what was not handed out."""
    lanes = Lanes()
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(lanes.one)
        tasks.start_soon(lanes.queue.release_planned)
        await anyio.wait_all_tasks_blocked()
        lanes.queue.put(delivery(2), anyio.current_time() + 3600)
        lanes.queue.put(delivery(1), None)
        assert [1, 2] == [left.id for left in lanes.queue.close()]
    assert (2, [], 0) == (lanes.ended, lanes.took, len(lanes.queue))
    assert await lanes.queue.get() is None


async def test_planned_in_the_past() -> None:
    """A moment that has come is at once."""
    queue = ReadyQueue(anyio.current_time, Limits())
    queue.put(delivery(1), anyio.current_time() - 1)
    taken = await queue.get()
    assert taken is not None


@virtual
async def test_planned_moments() -> None:
    """Planned deliveries go out at their moments, in the order of these, equal ones as they came."""
    lanes = Lanes()
    start = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lanes.one)
        tasks.start_soon(lanes.queue.release_planned)
        for number, at in ((1, 5.0), (2, 1.0), (3, 3.0), (4, 1.0)):
            lanes.queue.put(delivery(number), start + at)
        lanes.queue.put(delivery(0), None)
        assert 5 == len(lanes.queue)
        await anyio.sleep(10)
        lanes.queue.close()
    assert [0, 2, 4, 3, 1] == lanes.took
    assert [0.0, 1.0, 1.0, 3.0, 5.0] == [pytest.approx(at - start) for at in lanes.at]


@virtual
async def test_an_earlier_moment_comes_in() -> None:
    """One that is planned earlier than all others does not wait for them."""
    lanes = Lanes()
    start = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lanes.one)
        tasks.start_soon(lanes.queue.release_planned)
        lanes.queue.put(delivery(1), start + 100)
        await anyio.sleep(1)
        lanes.queue.put(delivery(2), start + 2)
        await anyio.sleep(10)
        assert [1] == [left.id for left in lanes.queue.close()]
    assert [2] == lanes.took
    assert [2.0] == [pytest.approx(at - start) for at in lanes.at]
