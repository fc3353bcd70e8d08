"""Plays a scenario: producers, operators, faults, and who starts the processes again."""

import math

import trio
from checker import ENDED
from history import Committed, Ended, Faulty, Operated
from process import Process
from scenario import FAULTS_SECONDS, EndpointPlan, EventPlan, Fault, Operation
from world import World

from worker.pipeline.ports import StoreError

OPERATOR_LOOKS_EVERY_SECONDS = 20.0

REST_SECONDS = 900.0
"""So long after the last fault everything has to have ended: circuits rest for minutes, leases for half of one, and what kills
who sends it has seven of them."""


class Play:
    """One run of a scenario in its world."""

    def __init__(self, world: World) -> None:
        self._world, self._scenario, self._store = world, world.scenario, world.store
        self._closing = trio.Event()

    async def run(self) -> None:
        """Play it until everything has ended, or a promise is broken."""
        for plan in self._scenario.endpoints:
            self._store.add_endpoint(
                plan.url,
                tenant=plan.tenant,
                event_types=plan.subscribes,
                rate=plan.rate,
                burst=plan.burst,
                max_in_flight=plan.max_in_flight,
                timeout_seconds=plan.timeout_seconds,
                retry_seconds=plan.retry_seconds,
            )
        with self._world.scope:
            async with trio.open_nursery() as background:
                self._world.background = background
                async with trio.open_nursery() as workers:
                    for slot in range(self._scenario.workers):
                        workers.start_soon(self._supervise, slot)
                    await self._play()
                    self._closing.set()
                    for process in self._world.processes.values():
                        self._stop(process)
                background.cancel_scope.cancel()
            self._world.finish()

    async def _supervise(self, slot: int) -> None:
        """Keep one worker running, as systemd would."""
        generation = 0
        while not self._closing.is_set():
            generation += 1
            process = self._world.processes[slot] = Process(self._world, slot, generation)
            try:
                await process.run()
            except Exception as error:  # noqa: BLE001 - whatever it is, no worker should end with it
                self._world.violate("P6", f"process {process.name} ended with {error!r}")
                return
            if process.stopped_at is not None and not process.scope.cancelled_caught:
                seconds = trio.current_time() - process.stopped_at
                self._world.log(Ended(*self._world.now(), process.name, seconds, process.pipeline.in_hand))
            with trio.move_on_after(0.1 if self._world.mended else process.restart_after):
                await self._closing.wait()

    async def _play(self) -> None:
        async with trio.open_nursery() as people:
            for event in self._scenario.events:
                people.start_soon(self._produce, event)
            for fault in self._scenario.faults:
                people.start_soon(self._break, fault)
            for operation in self._scenario.operations:
                people.start_soon(self._operate, operation)
            await trio.sleep_until(FAULTS_SECONDS)
        self._mend()
        await self._everything_ended()
        for id_, stored in sorted(self._store.deliveries.items()):
            if stored.state == "dead" and stored.event.payload not in self._scenario.poisonous:
                self._do(Operation(0.0, "retry", id_), id_)
        await self._everything_ended()

    async def _everything_ended(self) -> None:
        """Wait for it; an operator looks now and then, and undoes what holds deliveries."""
        looked = -math.inf
        with trio.move_on_after(REST_SECONDS):
            while any(stored.state not in ENDED for stored in self._store.deliveries.values()):
                if trio.current_time() - looked >= OPERATOR_LOOKS_EVERY_SECONDS:
                    looked = trio.current_time()
                    self._release_held()
                await trio.sleep(0.5)
        left = [id_ for id_, stored in self._store.deliveries.items() if stored.state not in ENDED]
        if left:
            said = f"{len(left)} deliveries had not ended after {REST_SECONDS:g} s without faults, such as {left[0]}"
            self._world.violate("P6", said)

    def _release_held(self) -> None:
        for plan in self._scenario.endpoints:
            state, _ = self._store.endpoint_state(plan.number)
            if state != "enabled":
                verb = "enable" if state == "disabled" else "resume"
                self._do(Operation(trio.current_time(), verb, plan.number), plan.number)

    async def _produce(self, event: EventPlan) -> None:
        await trio.sleep_until(event.at)
        began = self._world.database_now()  # now() is when a transaction began
        await trio.sleep(event.open_seconds)
        if not event.commits:
            return
        deliver_at = began + (event.deliver_in or 0.0)
        id_ = self._store.enqueue(
            event.event_type,
            event.payload,
            tenant=event.tenant,
            idempotency_key=event.idempotency_key,
            deliver_at=deliver_at,
        )
        self._world.events.add(id_)
        subscribers = tuple(
            plan.number
            for plan in self._scenario.endpoints
            if plan.tenant == event.tenant and _subscribes(plan, event.event_type)
        )
        key = None if event.idempotency_key is None else (event.tenant, event.idempotency_key)
        self._world.log(Committed(*self._world.now(), id_, event.payload, subscribers, deliver_at, key))
        self._world.look("enqueue")

    async def _break(self, fault: Fault) -> None:
        await trio.sleep_until(fault.at)
        self._world.log(Faulty(*self._world.now(), fault.kind, fault.worker, fault.seconds))
        process, until = self._world.processes[fault.worker], trio.current_time() + fault.seconds
        if fault.kind == "kill":
            process.steps_to_live, process.restart_after = fault.steps, fault.seconds
        elif fault.kind == "stop":
            process.restart_after = fault.seconds
            self._stop(process)
        elif fault.kind == "freeze":
            process.freeze(fault.seconds)
        elif fault.kind == "freeze_at_write":
            process.freeze_at_write = fault.seconds
        elif fault.kind == "no_files":
            process.no_files_until = until
        elif fault.kind == "cut_off":
            self._world.cut_off_until[fault.worker] = until
        elif fault.kind == "outage":
            self._world.away_until = max(self._world.away_until, until)
        elif fault.kind == "lock":
            self._world.locked_until = max(self._world.locked_until, min(until, FAULTS_SECONDS))
        elif fault.kind == "stall":
            self._world.disturb(None, "stalled")
            self._world.clock.jump(fault.seconds)
            self._world.disturb(None, "stalled")
        else:
            self._world.stepped += fault.seconds
            self._world.disturb(None, "the database's clock stepped")

    def _stop(self, process: Process) -> None:
        if process.stopped_at is None:
            process.stopped_at = trio.current_time()
            process.pipeline.stop()

    async def _operate(self, operation: Operation) -> None:
        await trio.sleep_until(operation.at)
        if operation.verb.startswith("retry"):
            if not self._store.deliveries:
                return
            self._do(operation, 1 + operation.subject * 7919 % len(self._store.deliveries))
        else:
            self._do(operation, operation.subject)

    def _do(self, operation: Operation, subject: int) -> None:
        store, refused = self._store, ""
        try:
            if operation.verb.startswith("retry"):
                store.retry(subject, force=operation.verb == "retry_forced")
            elif operation.verb == "rate":
                store.set_endpoint(subject, rate=operation.value)
            elif operation.verb == "cap":
                store.set_endpoint(subject, max_in_flight=int(operation.value or 1))
            else:
                getattr(store, operation.verb)(subject)
        except StoreError as error:
            refused = str(error)
        self._world.log(Operated(*self._world.now(), operation.verb, subject, operation.value, refused))
        self._world.look(operation.verb)

    def _mend(self) -> None:
        """End every fault."""
        now = trio.current_time()
        self._world.away_until = self._world.locked_until = now
        self._world.cut_off_until = [now] * self._scenario.workers
        for process in self._world.processes.values():
            process.freeze_at_write = process.steps_to_live = None
            process.no_files_until = now


def _subscribes(plan: EndpointPlan, event_type: str) -> bool:
    """Decide without the store's own code: `a.*` is everything that begins with `a.`, and who names nothing gets everything."""
    wanted = plan.subscribes or ("*",)
    return any(one == event_type or (one.endswith("*") and event_type.startswith(one[:-1])) for one in wanted)
