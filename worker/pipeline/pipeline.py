"""The hot path, top to bottom: claim → pace → send → classify → record."""

import logging
import math
import random
import time
from collections.abc import Callable, Iterable
from functools import partial

import anyio
from anyio.abc import TaskGroup

from worker.core.classify import decide
from worker.core.clock import DatabaseClock
from worker.core.message import message_headers, message_id
from worker.core.model import Decision, Delivery, Exchange, Outcome, Request
from worker.core.trace import TRACE_HEADERS
from worker.pipeline.failures import FailureLog
from worker.pipeline.hand import Hand
from worker.pipeline.leases import Leases
from worker.pipeline.limits import Counts, Limits
from worker.pipeline.ports import Avoid, Claimed, NotSentError, OutOfFilesError, Sender, Store, StoreError
from worker.pipeline.ready import ReadyQueue
from worker.pipeline.recorder import Recorder
from worker.pipeline.tally import Tally

log = logging.getLogger("worker.pipeline")

LATE_SECONDS_MAX = 0.06
"""A planned send that is later than this is given back: its moment belongs to others by now. Promise P4 allows 0.1 s; the
rest is for the way from our last look at the clock to the socket."""

QUIET_SECONDS_MAX = 5.0
"""Long enough for what was claimed of a held or disabled endpoint to be given back; then its row decides alone."""

BEHIND_SECONDS = 0.25
"""How long a worker that misses planned moments claims nothing: others may keep up better, and it catches up."""

OUT_OF_FILES_SECONDS = 0.5
"""How long a worker that may open no more files claims nothing: others may have some, and its own connections end."""

SAID_AGAIN_SECONDS = 60.0
"""How often the log says so at most."""

INTERRUPTED = Exchange(outcome="interrupted", error="the worker stopped before an answer came")


class Pipeline:
    """One worker process's delivery of webhooks, from `run` until `stop`, or (`once`) until nothing is due."""

    def __init__(  # noqa: PLR0913 - the seams: each is something that a test or a simulation puts in place
        self,
        store: Store,
        sender: Sender,
        limits: Limits,
        message_id_prefix: str,
        *,
        once: bool = False,
        tally: Tally | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.counts = Counts()
        self.failures = FailureLog()
        self._claim_error: StoreError | None = None
        self.stopping = False
        self.turns = 0
        """How often the loop that claims came round: it turns at least once a second, unless it asks the store."""
        self.asks = False
        """Whether a claim is with the store just now, which may take as long as the store lets it."""
        self.claimed = anyio.Event()
        """Set when the first claim has come back, with or without deliveries."""
        self._store, self._sender, self._limits = store, sender, limits
        self._message_id_prefix = message_id_prefix
        self._once, self._clock, self._chance = once, clock, chance
        self._tally = tally
        self._database_clock = DatabaseClock() if tally is None else tally.clock
        self._ready = ReadyQueue(clock, limits)
        self._quiet_until: dict[int, float] = {}
        """Endpoints that asked for quiet while more of theirs was claimed, on the monotonic clock."""
        self._recorder = Recorder(store, clock, limits.retry_store_seconds, self._tally)
        self._leases = Leases(store, clock)
        self._hand = Hand(limits, clock)
        self._lanes_to_open = limits.concurrency
        self._full = False
        """Whether an endpoint waits for what this process has in hand to be recorded: see `Claimed.full`."""
        self._at_work = 0
        self._behind_until = -math.inf
        self._said_at = -math.inf
        self._stop_requested = anyio.Event()

    def stop(self) -> None:
        """Claim nothing more, give back what was not sent, finish what was; `run` then returns."""
        self.stopping = True
        for delivery in self._ready.close():
            self._release(delivery, "draining")
        self._stop_requested.set()

    def resize(self, limits: Limits) -> None:
        """Take on more or less from now on. What is on the wire stays there; a lane that is too many ends when it is free."""
        self._limits = self._hand.limits = limits
        self._lanes_to_open += self._ready.resize(limits)

    @property
    def store_error(self) -> Exception | None:
        """Why the last claim or record failed, or None since each succeeded."""
        return self._claim_error or self._recorder.error

    @property
    def fenced(self) -> int:
        """Outcomes that came too late: somebody else had the delivery by then."""
        return self._recorder.fenced

    @property
    def lanes(self) -> int:
        """Deliveries that it carries at once, at most."""
        return self._limits.concurrency

    @property
    def at_work(self) -> int:
        """Deliveries that lanes carry now."""
        return self._at_work

    @property
    def unrecorded(self) -> int:
        """Outcomes that the store has not confirmed yet."""
        return len(self._recorder)

    @property
    def in_hand(self) -> int:
        """Deliveries claimed and not yet recorded."""
        return len(self._ready) + self._at_work + len(self._recorder)

    async def run(self) -> None:
        """Deliver until stopped. Returns when every outcome is recorded, or cannot be: leases then expire, others take over."""
        async with anyio.create_task_group() as background:
            background.start_soon(self._recorder.run)
            background.start_soon(self._leases.keep)
            async with anyio.create_task_group() as work:
                work.start_soon(self._ready.release_planned)
                work.start_soon(self._cut_short, work.cancel_scope)
                async with anyio.create_task_group() as lanes:
                    await self._claim(lanes)
                work.cancel_scope.cancel()
            with anyio.move_on_after(self._limits.record_seconds_max):
                await self._recorder.drained()
            background.cancel_scope.cancel()

    # -- claim -------------------------------------------------------------------------------------------------------

    async def _claim(self, lanes: TaskGroup) -> None:
        """Keep the lanes supplied. Claims again at once while there is more, else when `_rest` has ended."""
        failures, more = 0, False
        while not self.stopping:
            self.turns += 1
            for _ in range(self._lanes_to_open):
                lanes.start_soon(self._lane)
            self._lanes_to_open = 0
            for delivery in self._ready.surplus():
                self._release(delivery, "no_lane")
            if more and not self._ready.waiting:
                self._hand.starved()
            rows = self._room()
            if rows < self._limits.ahead_min // 2:
                await _wait(self._recorder.progress, self._limits.poll_seconds)
                continue
            asked, progress = self._clock(), self._recorder.progress
            if asked < self._behind_until:
                await _wait(self._stop_requested, self._behind_until - asked)
                continue
            try:
                avoid = self._ready.avoid(self._hand.ahead)
                self.asks = True
                claimed = await self._store.claim(rows, self._limits.claim_bytes_max, avoid, self._patience())
                failures, self._claim_error = 0, None
                nothing = not claimed.deliveries and not claimed.more
                if self._once and nothing and not self.in_hand and not await self._store.has_due():
                    self.stop()
                self.claimed.set()
            except StoreError as error:
                self._claim_error = error
                delays = self._limits.retry_store_seconds
                await _wait(self._stop_requested, delays[min(failures, len(delays) - 1)])
                failures += 1
                continue
            finally:
                self.asks = False
            self._accept(claimed, asked)
            more = claimed.more
            if not more:
                await self._rest(claimed, avoid, progress)

    def _room(self) -> int:
        """How many more to claim. What is planned, parked or being recorded is in nobody's way: the limit of all counts it."""
        return min(self._limits.claimed_max - self.in_hand, self._hand.size - self._at_work - self._ready.waiting)

    def _patience(self) -> float:
        """How long a claim may wait in the store: with nothing in hand there is no reason to ask again and again.

        The first one does not wait: somebody may want to know that it came back.
        """
        return 0.0 if self._once or self.in_hand or not self.claimed.is_set() else self._limits.idle_wait_seconds

    def _accept(self, claimed: Claimed, asked: float) -> None:
        """Take what a claim brought that was made at monotonic time `asked`."""
        answered = self._clock()
        # What it waited is by the database's clock, which may step; its lease began after that, and before the answer.
        asked = min(asked + max(0.0, claimed.waited_seconds), answered)
        self._database_clock.observe(asked, claimed.database_now, answered, claimed.worked_seconds)
        if self._tally is not None:
            self._tally.claims.add(answered - asked)
        if claimed.claim is not None:
            self._leases.add(claimed.claim, asked, len(claimed.deliveries))
            self.counts.claimed += len(claimed.deliveries)
        self._full = claimed.full or (self._full and not claimed.deliveries)
        self._ready.weigh(claimed.weights)
        for delivery in _by_turns(claimed.deliveries):
            if self.stopping or delivery.endpoint.withheld:
                self._release(delivery, "draining" if self.stopping else "withheld")
            else:
                self._pace(delivery)

    async def _rest(self, claimed: Claimed, avoid: Avoid, progress: anyio.Event) -> None:
        """Wait between two claims, when there was no more just now: for as long as something new needs to be worth one.

        Or for as long as it takes to be through with much of what waits of a tenant that was left out, if it moves on.
        """
        if self._full:
            self._hurry()
            await _wait(progress, self._limits.poll_seconds)
        else:
            least = self._limits.ahead_min
            busy = len(claimed.deliveries) >= least or (bool(avoid.tenants) and self._hand.ahead > least)
            await _wait(self._stop_requested, self._limits.poll_busy_seconds if busy else self._limits.poll_seconds)

    def _hurry(self) -> None:
        """Let outcomes wait for no others, if an endpoint waits for them, and nothing else is in hand."""
        if self._full and self.in_hand == self.unrecorded:
            self._recorder.hurry()

    # -- pace --------------------------------------------------------------------------------------------------------

    def _pace(self, delivery: Delivery) -> None:
        """Hand it to the lanes, at its planned moment if its endpoint has a rate."""
        planned = delivery.send_at
        if planned is None:
            self._ready.put(delivery, None)
        else:
            lead = self._sender.lead_seconds(delivery.endpoint.url, delivery.endpoint.transport)
            self._ready.put(delivery, self._database_clock.earliest(planned) - lead)

    async def _check_before_write(self, delivery: Delivery, again: bool) -> None:
        """The last look before the first byte: the lease holds, the endpoint may be sent to, the planned moment is now."""
        if again and delivery.send_at is not None:
            delivery.send_at = await self._plan_again(delivery)
        if delivery.send_at is not None and (early := self._database_clock.earliest(delivery.send_at) - self._clock()) > 0:
            await anyio.sleep(early)  # it was handed over early, to have its connection by now
        now = self._clock()
        if now >= delivery.claim.lease_expires:
            raise NotSentError("the lease has expired", "lease_expired")
        if now < self._quiet_until.get(delivery.endpoint.id, now):
            raise NotSentError("its endpoint has asked for quiet since it was claimed", "quiet")
        if delivery.send_at is not None and now > self._database_clock.latest(delivery.send_at) + LATE_SECONDS_MAX:
            if not (delivery.parked or again):  # else it is its endpoint that is behind, or the store
                self._behind_until = now + BEHIND_SECONDS
            raise NotSentError("its planned moment has passed", "late")

    async def _plan_again(self, delivery: Delivery) -> float:
        """Ask for another planned moment: a request that is written twice counts twice."""
        try:
            planned = await self._store.plan_again(delivery)
        except StoreError as error:
            raise NotSentError(f"no other moment could be planned: {error}", "written_again") from error
        if planned is None:
            raise NotSentError("its endpoint's rate allows no other moment soon", "written_again")
        return planned

    # -- send --------------------------------------------------------------------------------------------------------

    async def _lane(self) -> None:
        """Carry one delivery at a time, for as long as there are any."""
        while (delivery := await self._ready.get()) is not None:
            self._at_work += 1
            attempted = False
            try:
                attempted = await self._deliver(delivery)
            finally:
                self._at_work -= 1
                self._hand.ended()
                self._ready.done(delivery, attempted=attempted)
                self._hurry()

    async def _deliver(self, delivery: Delivery) -> bool:
        """Send it, and hand its outcome on; return whether it was attempted, or given back unsent."""
        started = self._clock()
        try:
            if delivery.payload is None:
                exchange = Exchange(outcome="event_missing", error="the event is gone: it outlived its retention")
            elif not delivery.endpoint.keys:
                exchange = Exchange(outcome="no_key", error="the endpoint has no signing key: give it one")
            elif delivery.endpoint.problem:
                exchange = Exchange(outcome="bad_endpoint", error=delivery.endpoint.problem)
            else:
                exchange = await self._sender.send(
                    self._request(delivery, delivery.payload), partial(self._check_before_write, delivery)
                )
        except NotSentError as error:
            if isinstance(error, OutOfFilesError):
                self._pause_for_files(error)
            self._release(delivery, error.reason)
            return False
        except anyio.get_cancelled_exc_class():
            self._recorder.add(
                Outcome(delivery, Decision("retry", "interrupted"), started, self._clock() - started, INTERRUPTED)
            )
            raise
        except Exception as error:  # noqa: BLE001 - one delivery's surprise must not reach its siblings
            exchange = Exchange(outcome="internal_error", error=f"{type(error).__name__}: {error}")
        self._classify(delivery, exchange, started)
        return True

    def _request(self, delivery: Delivery, payload: bytes) -> Request:
        endpoint = delivery.endpoint
        headers = message_headers(
            delivery.content_type,
            endpoint.keys,
            message_id(self._message_id_prefix, delivery.event_id),
            int(self._database_clock.unix(self._clock())),
            payload,
        )
        return Request(
            endpoint.url,
            (*headers, *(_traced(delivery) if delivery.trace else endpoint.headers)),
            payload,
            endpoint.timeout_seconds,
            endpoint.transport,
            delivery,
        )

    # -- classify ----------------------------------------------------------------------------------------------------

    def _classify(self, delivery: Delivery, exchange: Exchange, started: float) -> None:
        now = self._clock()
        decision = decide(delivery, exchange, self._database_clock.unix(now), self._chance())
        if quiet := QUIET_SECONDS_MAX if decision.disable_reason else decision.hold_seconds:
            self._quiet_until = {endpoint: until for endpoint, until in self._quiet_until.items() if until > now}
            self._quiet_until[delivery.endpoint.id] = now + min(quiet, QUIET_SECONDS_MAX)
        if decision.disposition == "delivered":
            self.counts.delivered += 1
        elif decision.disposition == "retry":
            self.counts.retried += 1
        else:
            self.counts.dead += 1
        self._recorder.add(Outcome(delivery, decision, started, now - started, exchange))
        if decision.disposition != "delivered":
            self.failures.note(delivery, decision, exchange, now)

    def _release(self, delivery: Delivery, reason: str) -> None:
        """Give it back unsent: due at once, for anybody, and the attempt does not count."""
        self.counts.deferred[reason] += 1
        self._recorder.add(Outcome(delivery, Decision("released", "released"), self._clock(), 0.0))

    def _pause_for_files(self, error: OutOfFilesError) -> None:
        """Claim nothing for a moment, and say so."""
        now = self._clock()
        if now >= self._said_at + SAID_AGAIN_SECONDS:
            self._said_at = now
            log.warning("out of files, claims pause and deliveries wait: raise LimitNOFILE (%s)", error)
        self._behind_until = max(self._behind_until, now + OUT_OF_FILES_SECONDS)

    # -- around the path ---------------------------------------------------------------------------------------------

    async def _cut_short(self, work: anyio.CancelScope) -> None:
        """After `stop`, the lanes have the drain time to finish what they carry."""
        await self._stop_requested.wait()
        await anyio.sleep(self._limits.drain_seconds)
        work.cancel()


async def _wait(event: anyio.Event, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await event.wait()


def _traced(delivery: Delivery) -> tuple[tuple[str, str], ...]:
    """Custom headers, and the trace context; where an endpoint has one of its own, the event's counts: two would be none."""
    own = tuple((name, value) for name, value in delivery.endpoint.headers if name.lower() not in TRACE_HEADERS)
    return own + delivery.trace


def _by_turns(deliveries: Iterable[Delivery]) -> list[Delivery]:
    """Let endpoints take turns: a claim brings what it found at one of them in a row, which would wait for lanes in a row."""
    turns: dict[int, int] = {}

    def turn(delivery: Delivery) -> int:
        endpoint = delivery.endpoint.id
        turns[endpoint] = nth = turns.get(endpoint, 0) + 1
        return nth

    return sorted(deliveries, key=turn)
