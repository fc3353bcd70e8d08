"""One worker process of a run: it is killed, stands still, is asked to stop."""

import contextvars
import math
import random
from typing import TYPE_CHECKING

import anyio
import trio
from link import Link
from network import MESSAGE_ID_PREFIX, Network
from scenario import FAULTS_SECONDS

from worker.core.clock import WIDTH_MAX_SECONDS
from worker.core.retention import Retention
from worker.pipeline.limits import Limits
from worker.pipeline.pipeline import Pipeline
from worker.service.housekeeping import HouseCounts, keep_house

if TYPE_CHECKING:
    from world import World

DRAIN_SECONDS = 3.0
"""Less than a receiver may take, so that some requests are cut short."""

RECORD_SECONDS = 5.0
ROUNDING_SECONDS = 1e-5
"""What is lost where seconds since 1970 are added and taken away again."""


class Process:
    """One worker process: it ends, stands still, or loses the database."""

    def __init__(self, world: "World", slot: int, generation: int) -> None:
        self.world, self.slot, self.name = world, slot, f"{slot}.{generation}"
        self.scope = trio.CancelScope()
        self.frozen_until = -math.inf
        self.freeze_at_write: float | None = None
        self.no_files_until = -math.inf
        self.restart_after = 0.1
        self.steps_to_live: int | None = None
        self.stopped_at: float | None = None
        self.chance = random.Random(f"{world.scenario.seed} process {self.name}")
        limits = Limits(
            world.scenario.lanes,
            claimed_max=max(16, 4 * world.scenario.lanes),
            ahead_min=8,
            drain_seconds=DRAIN_SECONDS,
            record_seconds_max=RECORD_SECONDS,
        )
        since_boot = self.chance.uniform(0, 1e6)  # no two machines agree on monotonic time
        self._link = Link(world, self)
        self.pipeline = Pipeline(
            self._link,
            Network(world, self),
            limits,
            MESSAGE_ID_PREFIX,
            clock=lambda: trio.current_time() + since_boot,
            chance=self.chance.random,
        )

    async def run(self) -> None:
        """What `worker.service.serve` runs."""
        _PROCESS.set(self)
        with self.scope:
            async with anyio.create_task_group() as group:
                group.start_soon(keep_house, self._link, Retention(), HouseCounts())
                await self.pipeline.run()
                group.cancel_scope.cancel()

    @property
    def knows_the_clock(self) -> bool:
        """Whether its bounds of the database's clock are as narrow as P4 takes for granted (docs/guarantees.md)."""
        clock = self.pipeline._database_clock
        return clock.earliest(0.0) - clock.latest(0.0) < WIDTH_MAX_SECONDS - ROUNDING_SECONDS

    @property
    def is_frozen(self) -> bool:
        """Whether it stands still."""
        return self.frozen_until > trio.current_time()

    def freeze(self, seconds: float) -> None:
        """Let it stand still for so long."""
        self.frozen_until = min(trio.current_time() + seconds, FAULTS_SECONDS)
        self.world.disturb(self, "frozen", self.frozen_until)

    async def thawed(self) -> bool:
        """Wait while the process stands still; say whether it did."""
        frozen = False
        while (until := self.frozen_until) > trio.current_time():
            frozen = True
            await trio.sleep_until(until)
        if frozen:
            self.world.disturb(self, "thawed")
        return frozen

    def kill(self) -> None:
        """End it at once: what it has not sent is not sent any more, and nobody is told."""
        self.world.disturb(self, "killed", math.inf)
        self.scope.cancel()


_PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


class Steps(trio.abc.Instrument):
    """Counts what tasks do between two awaits, and kills a process at the await that was chosen for it."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See trio."""
        self._world.steps += 1
        process = task.context.get(_PROCESS)
        if process is not None and process.steps_to_live is not None:
            process.steps_to_live -= 1
            if process.steps_to_live <= 0:
                process.steps_to_live = None
                process.kill()
        if self._world.steps == self._world.steps_max:
            self._world.violate("P6", f"after {self._world.steps} steps it had not come to an end")
