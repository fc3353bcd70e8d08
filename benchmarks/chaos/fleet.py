"""The workers, and who starts them again when they end: as systemd would."""

import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import time

import anyio

from benchmarks.chaos.evidence import Frozen
from benchmarks.report import progress
from benchmarks.stage import ROOT

LANES = 16
LOOK_EVERY_SECONDS = 0.2
RESTART_SECONDS = 1.0
BEGIN_SECONDS = 3.0
STOP_SECONDS_MAX = 30.0


@dataclass
class Worker:
    """One worker, whichever process it is just now. `prefix` goes before its command, and becomes it."""

    name: str
    python: str
    environment: Mapping[str, str]
    prefix: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    killed: bool = False

    @property
    def is_at_work(self) -> bool:
        """Whether its process runs, and has had time to begin."""
        return self.process is not None and self.process.poll() is None and time() - self.started > BEGIN_SECONDS

    def start(self, folder: Path) -> None:
        """Start a new process, which appends to its log."""
        command = [*self.prefix, self.python, "-m", "worker", "run", "--concurrency", str(LANES)]
        self.killed, self.started = False, time()
        with (folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **self.environment}, stderr=log)


@dataclass
class Fleet:
    """All of them. `exits` counts the statuses with which they ended by themselves."""

    folder: Path
    workers: list[Worker] = field(default_factory=list)
    killed: dict[int, float] = field(default_factory=dict)
    frozen: list[Frozen] = field(default_factory=list)
    exits: Counter[int] = field(default_factory=Counter)

    async def choose(self, chance: random.Random, name: str | None = None) -> Worker:
        """Draw one that is at work, or wait for the one that is named."""
        while True:
            if able := [worker for worker in self.workers if worker.is_at_work and name in (None, worker.name)]:
                return chance.choice(able)
            await anyio.sleep(LOOK_EVERY_SECONDS)

    def kill(self, worker: Worker) -> None:
        """SIGKILL."""
        assert worker.process is not None
        self.killed[worker.process.pid] = time()
        worker.killed = True
        worker.process.kill()

    def stop(self, worker: Worker) -> Frozen:
        """SIGSTOP."""
        assert worker.process is not None
        worker.process.send_signal(signal.SIGSTOP)
        return Frozen(worker.process.pid, time(), float("inf"))

    def proceed(self, frozen: Frozen) -> None:
        """SIGCONT, after `stop`."""
        self.frozen.append(frozen._replace(until=time()))
        os.kill(frozen.pid, signal.SIGCONT)

    async def supervise(self) -> None:
        """Start again who has ended, for ever."""
        while True:
            for worker in self.workers:
                if worker.process is not None and (status := worker.process.poll()) is not None:
                    if not worker.killed:
                        self.exits[status] += 1
                        progress(f"the worker {worker.name} ended with status {status}")
                    await anyio.sleep(RESTART_SECONDS)
                    worker.start(self.folder)
            await anyio.sleep(LOOK_EVERY_SECONDS)

    async def drain(self) -> list[int]:
        """SIGTERM for all, and their statuses."""
        processes = [worker.process for worker in self.workers if worker.process is not None]
        for process in processes:
            process.terminate()
        return [await anyio.to_thread.run_sync(process.wait, STOP_SECONDS_MAX) for process in processes]


@asynccontextmanager
async def fleet(folder: Path, workers: Sequence[Worker]) -> AsyncIterator[Fleet]:
    """Run them; whoever still runs afterwards is killed."""
    made = Fleet(folder, list(workers))
    try:
        for worker in workers:
            worker.start(folder)
        yield made
    finally:
        for worker in workers:
            if worker.process is not None:
                worker.process.kill()
                worker.process.wait()


def with_own_resolver(resolv_conf: Path) -> list[str]:
    """Return a prefix for a command that is to have another /etc/resolv.conf."""
    mount = f"mount --bind {resolv_conf} /etc/resolv.conf"
    return ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]
