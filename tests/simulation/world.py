"""What the processes of a run share: the clock, the database, the receivers, and the history."""

import base64
import contextvars
import hmac
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio
import trio.testing
from checker import Checker
from history import Changed, Committed, Disturbed, Entry, Extended, Failed, Granted, Told
from scenario import FAULTS_SECONDS, Scenario
from violation import Violation

from worker.core.model import Outcome, Request
from worker.pipeline.ports import Claimed, StoreError
from worker.store.memory import MemoryStore

if TYPE_CHECKING:
    from process import Process

UNIX_EPOCH = 1_800_000_000.0
"""The database's time when a run begins."""


class World:
    """Everything that the processes share, and the only writer of the history."""

    def __init__(self, scenario: Scenario, steps_max: int) -> None:
        self.scenario, self.steps_max = scenario, steps_max
        self.clock = trio.testing.MockClock(autojump_threshold=0)
        self.history: list[Entry] = []
        self.steps = 0
        self.stepped = 0.0
        self.away_until = self.locked_until = -math.inf
        self.cut_off_until = [-math.inf] * scenario.workers
        self.store = MemoryStore(self.database_now, random.Random(f"{scenario.seed} store").random)
        self.plan_of_url = {plan.url: plan for plan in scenario.endpoints}
        self.checker = Checker(scenario)
        self.violation: Violation | None = None
        self.error: Exception | None = None
        """What went wrong in the checker itself."""
        self.work_came = trio.Event()
        self.processes: dict[int, Process] = {}
        self._known: dict[int, tuple[str, int]] = {}
        self.events: set[int] = set()
        self._circuits: dict[int, str] = {}
        self.scope = trio.CancelScope()
        self.background: trio.Nursery

    # -- time ----------------------------------------------------------------------------------------------------------

    def database_now(self) -> float:
        """The database's clock."""
        return UNIX_EPOCH + trio.current_time() + self.stepped

    @property
    def mended(self) -> bool:
        """Whether nothing is wrong any more."""
        return trio.current_time() >= FAULTS_SECONDS

    # -- history -------------------------------------------------------------------------------------------------------

    def log(self, entry: Entry) -> None:
        """Append to the history, and let the checker look at it."""
        if self.violation is not None:
            return
        self.history.append(entry)
        try:
            found = self.checker.look(entry)
        except Exception as error:  # noqa: BLE001 - who logs may catch it, and go on
            self.error = self.error or error
            self.scope.cancel()
            return
        if found is not None:
            self.violate(*found)

    def violate(self, promise: str, text: str) -> None:
        """End the run: a promise is broken."""
        if self.violation is None:
            self.violation = Violation(promise, text)
            self.scope.cancel()

    def finish(self) -> None:
        """Let the checker judge the whole."""
        found = self.checker.finish()
        if found is not None:
            self.violate(*found)

    def now(self) -> tuple[float, float]:
        """What every entry begins with."""
        return trio.current_time(), self.database_now()

    def disturb(self, process: "Process | None", how: str, until: float = -math.inf) -> None:
        """Note that a process (None: every one) met what may cost it a lease."""
        for met in [process] if process else self.processes.values():
            self.log(Disturbed(*self.now(), met.name, how, max(until, trio.current_time())))

    # -- the database's side -------------------------------------------------------------------------------------------

    async def claim(self, process: "Process", ask: Callable[[], Awaitable[Claimed]]) -> Claimed:
        """Let the store claim, and log what it granted."""
        claimed = await ask()
        if claimed.claim is not None:
            lease_until = claimed.database_now + claimed.claim.lease_seconds
            for one in claimed.deliveries:
                endpoint = one.endpoint.id
                circuit = self._circuits.get(endpoint, "closed")
                self.log(Granted(*self.now(), process.name, one.claim.id, one.id, endpoint, one.attempt, lease_until, circuit))
        self.look("claim")
        return claimed

    async def record(self, process: "Process", outcomes: list[Outcome], ask: Callable[[], Awaitable[int]]) -> int:
        """Let the store record, and log what it was told."""
        changed = await ask()
        for one in outcomes:
            claim, delivery, decision = one.delivery.claim.id, one.delivery.id, one.decision
            self.log(
                Told(
                    *self.now(), process.name, claim, delivery, decision.disposition, one.exchange.status,
                    decision.retry_seconds, decision.hold_seconds, decision.disable_reason is not None, decision.outcome,
                )
            )  # fmt: skip
        self.look("record")
        return changed

    async def extend(self, ask: Callable[[], Awaitable[set[int]]]) -> set[int]:
        """Let the store extend leases, and log until when."""
        kept = await ask()
        for claim in sorted(kept):
            self.log(Extended(*self.now(), claim, self.store._batches[claim].lease_until))
        return kept

    async def reap(self, ask: Callable[[], Awaitable[int]]) -> int:
        """Let the store take back what expired leases hold."""
        taken = await ask()
        self.look("reap")
        return taken

    def look(self, by: str) -> None:
        """Log what a call has changed, in every delivery."""
        store = self.store
        for id_, stored in store.deliveries.items():
            state = stored.state, stored.attempt
            before = self._known.get(id_)
            if state == before:
                continue
            event = stored.event
            if event.id not in self.events:  # nobody enqueued it: the store tells of something itself
                targets = tuple(other.endpoint_id for other in store.deliveries.values() if other.event is event)
                self.events.add(event.id)
                self.log(Committed(*self.now(), event.id, event.payload, targets, stored.run_at))
            self._known[id_] = state
            old = before[0] if before else "none"
            self.log(Changed(*self.now(), by, id_, event.id, stored.endpoint_id, old, *state))
        self._circuits = {id_: sched.circuit.state for id_, sched in store._endpoints.items()}
        if by != "claim":
            self.work_came.set()
            self.work_came = trio.Event()

    def later(self, process: "Process", seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        """Let the database do something when nobody waits for it any more."""

        async def wait_and_work() -> None:
            await trio.sleep(max(0.0, min(seconds, FAULTS_SECONDS - 1 - trio.current_time())))
            with suppress(StoreError):
                await work()
            self.log(Failed(*self.now(), process.name, "the database did what nobody waited for"))

        contextvars.Context().run(self.background.start_soon, wait_and_work)

    def is_away(self, process: "Process") -> bool:
        """Whether a process cannot reach the database."""
        return trio.current_time() < max(self.away_until, self.cut_off_until[process.slot])

    # -- receivers' side -----------------------------------------------------------------------------------------------

    def verified(self, endpoint: int, request: Request) -> bool:
        """Whether a request's signature is that of its endpoint's key, by the specification and nothing of ours."""
        headers = dict(request.headers)
        key = self.store._endpoints[endpoint].config.keys[0]
        content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
        secret = getattr(key, "secret", b"")
        return headers["webhook-signature"] == "v1," + base64.b64encode(hmac.digest(secret, content, "sha256")).decode()
