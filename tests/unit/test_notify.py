"""What the service manager is told: the protocol, the line for people, and when the watchdog is fed."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest
import trio.testing

from worker.pipeline.limits import Counts
from worker.pipeline.ports import StoreError
from worker.service.notify import ServiceManager
from worker.service.sampler import Sample
from worker.service.status import ASKED_SECONDS_MAX, Progress, Status, feed_watchdog, tell_ready, tell_status

QUEUE = Sample({"pending": 10_231, "held": 7}, (), 4.4, {}, 0.0, 0, 0.0)
NOON = 1_700_049_600.0
virtual = pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})], ids=["virtual"]
)


@dataclass
class FakePipeline:
    """What is asked of a pipeline."""

    counts: Counts = field(default_factory=Counts)
    stopping: bool = False
    turns: int = 0
    asks: bool = False
    in_hand: int = 0
    store_error: Exception | None = None
    claimed: anyio.Event = field(default_factory=anyio.Event)


@pytest.fixture(params=["file", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[tuple[str, socket.socket]]:
    """A socket like the service manager's, and what NOTIFY_SOCKET says of it."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@webhook-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0"))
        listener.setblocking(False)
        yield name, listener


def test_it_is_told(listener: tuple[str, socket.socket]) -> None:
    """Assignments arrive in one message, one a line."""
    name, socket_ = listener
    manager = ServiceManager({"NOTIFY_SOCKET": name})
    manager.tell("READY=1", "STATUS=näher")
    assert (True, "READY=1\nSTATUS=näher") == (manager.listens, socket_.recv(4096).decode())


def test_nobody_listens() -> None:
    """Without a service manager there is nobody to tell, and no watchdog."""
    manager = ServiceManager({"WATCHDOG_USEC": "1000000"})
    manager.tell("READY=1")
    assert (False, None) == (manager.listens, manager.watchdog_seconds)


def test_it_is_gone(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A service manager that takes no message is no reason to stop: the log says so."""
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("WATCHDOG=1")
    assert "takes no message" in caplog.text


@pytest.mark.parametrize(
    ("usec", "meant", "seconds"),
    [("60000000", True, 60.0), ("60000000", False, None), ("", True, None), ("0", True, None), ("x", False, None)],
)
def test_watchdog_seconds(usec: str, meant: bool, seconds: float | None) -> None:
    """The watchdog's time is that of WATCHDOG_USEC, if it is meant for this process."""
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": usec, "WATCHDOG_PID": str(os.getpid() if meant else 1)}
    assert seconds == ServiceManager(environ).watchdog_seconds


def test_status_lines() -> None:
    """The line says in turn: not begun, how fast and how much is left, away since when, draining."""
    pipeline: Any = FakePipeline()
    samples: list[Sample | None] = [None]
    status = Status(pipeline, lambda: samples[-1])
    assert "waiting for the database's first answer" == status.line(100.0, NOON)
    pipeline.claimed.set()
    assert "delivering 0/s" == status.line(101.0, NOON + 1)
    pipeline.counts.delivered = 4
    samples.append(QUEUE)
    assert "delivering 2.0/s, backlog 10,231, oldest 4 s" == status.line(102.0, NOON + 2)
    pipeline.counts.delivered += 8120
    samples.append(replace(QUEUE, deliveries={}, oldest_due_seconds=300.0))
    assert "delivering 812/s, backlog 0, oldest 5 min" == [status.line(102.0 + n, NOON + 2 + n) for n in range(1, 11)][-1]
    pipeline.store_error = StoreError("refused")
    assert 2 * ["the database is away since 12:00:20 UTC, deliveries wait"] == [
        status.line(120.0 + n, NOON + 20 + n) for n in range(2)
    ]
    pipeline.store_error = None
    samples.append(replace(QUEUE, oldest_due_seconds=3 * 3600.0))
    assert status.line(122.0, NOON + 22).endswith("oldest 3 h")
    pipeline.stopping, pipeline.in_hand = True, 1204
    assert "draining: 1,204 in hand" == status.line(123.0, NOON + 23)


def test_progress() -> None:
    """A loop that turns makes progress; one that waits for the store, too, but not for ever; one that stands still does not."""
    pipeline: Any = FakePipeline()
    progress = Progress(pipeline)
    assert [True, False] == [progress.is_made(0.0), progress.is_made(1.0)]
    pipeline.turns += 1
    assert [True, False] == [progress.is_made(2.0), progress.is_made(3.0)]
    pipeline.asks = True
    assert [True, True] == [progress.is_made(4.0), progress.is_made(2.0 + ASKED_SECONDS_MAX - 1)]
    assert not progress.is_made(2.0 + ASKED_SECONDS_MAX)
    pipeline.stopping = True
    assert progress.is_made(1000.0)


class Told(ServiceManager):
    """Writes down what it is told, and when."""

    def __init__(self, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds, self.told = watchdog_seconds, list[tuple[float, str]]()
        self._began = anyio.current_time()

    def tell(self, *assignments: str) -> None:
        self.told += [(anyio.current_time() - self._began, one) for one in assignments]


@virtual
async def test_told_in_time() -> None:
    """READY comes with the first claim; STATUS when it changes; WATCHDOG four times as often as needed, while claims go on."""
    pipeline: Any = FakePipeline()
    manager = Told(watchdog_seconds=2.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tell_ready, pipeline, manager)
        tasks.start_soon(tell_status, pipeline, manager, lambda: None)
        tasks.start_soon(feed_watchdog, pipeline, manager)
        await anyio.sleep(1.2)
        pipeline.claimed.set()
        for _ in range(10):
            pipeline.turns += 1
            await anyio.sleep(0.3)
        await anyio.sleep(30)
        tasks.cancel_scope.cancel()
    assert [1.2] == [round(at, 3) for at, what in manager.told if what == "READY=1"]
    assert [0.0, 2.0] == [at for at, what in manager.told if what.startswith("STATUS=")]
    assert [0.0, *(n / 2 for n in range(3, 9))] == [at for at, what in manager.told if what == "WATCHDOG=1"]


async def test_no_watchdog() -> None:
    """Who is not watched feeds nobody."""
    pipeline: Any = FakePipeline()
    manager = Told()
    await feed_watchdog(pipeline, manager)
    assert [] == manager.told
