"""What a seed chooses: who is there, what is enqueued, what goes wrong and when.

Plain data, so that a failing one can be made smaller.
"""

import random
from dataclasses import dataclass
from typing import Literal, get_args

Behaviour = Literal["ok", "slow", "fail", "refuse", "hang", "cut", "busy", "stale", "odd", "gone"]
"""What a receiver does: answers 200, at once or late; answers 500; refuses to connect; takes the request and never answers;
takes it and drops the connection; answers 429 with a Retry-After; has closed the kept connection just as it is written to;
answers with words that the database refuses; answers 410."""

FaultKind = Literal["kill", "stop", "freeze", "freeze_at_write", "no_files", "cut_off", "outage", "lock", "stall", "step"]
"""A process is killed at any await; is asked to stop; is frozen, or just between its last look and its next write; may open no
more files; loses the database; all of them do; an operator's open transaction makes records wait; nothing runs for a while,
the database included; the database's clock steps."""

FAULTS_SECONDS = 90.0
"""After this, nothing new goes wrong: what is broken is mended, and everything has to come to an end."""


@dataclass(frozen=True, slots=True)
class EndpointPlan:
    """One endpoint. `behaviours` are (from when, what); before the first it answers 200. `subscribes` empty: to everything."""

    number: int
    tenant: str
    subscribes: tuple[str, ...] = ()
    rate: float | None = None
    burst: int = 1
    max_in_flight: int = 64
    timeout_seconds: float = 5.0
    retry_seconds: tuple[float, ...] = (1.0, 5.0, 20.0)
    dial_seconds: float = 0.005
    latency_seconds: float = 0.01
    behaviours: tuple[tuple[float, Behaviour], ...] = ()

    @property
    def url(self) -> str:
        """Where it is: no name is looked up here."""
        return f"https://receiver-{self.number}.test/"

    @property
    def always_well(self) -> bool:
        """Whether nothing of its own delays it."""
        return not self.behaviours and self.rate is None and self.max_in_flight >= 64 and self.latency_seconds < 0.5


@dataclass(frozen=True, slots=True)
class EventPlan:
    """One call of `enqueue`, in a transaction that is open for `open_seconds`. `poison`: whoever sends it is killed."""

    at: float
    number: int
    tenant: str
    event_type: str = "order.created"
    open_seconds: float = 0.0
    commits: bool = True
    deliver_in: float | None = None
    idempotency_key: str | None = None
    poison: bool = False

    @property
    def payload(self) -> bytes:
        """What no other event has."""
        return b'{"n": %d}' % self.number


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong. `worker` and `seconds` as the kind needs them; a kill comes `steps` awaits after `at`."""

    at: float
    kind: FaultKind
    worker: int = 0
    seconds: float = 0.0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Operation:
    """What an operator does. `subject` is an endpoint's number; for `retry` and `retry_forced` it picks a delivery."""

    at: float
    verb: str
    subject: int
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that a run depends on, beside the code."""

    seed: int
    calm: bool
    """Nothing is wrong with processes and database: then receivers that are well must not notice the others (P5)."""
    workers: int
    lanes: int
    hang_database: float
    """How likely a call to the database takes a second or so."""
    lose_replies: float
    """How likely a call's reply is lost, or the call itself; or that it is carried out when nobody waits for it any more."""
    endpoints: tuple[EndpointPlan, ...] = ()
    events: tuple[EventPlan, ...] = ()
    faults: tuple[Fault, ...] = ()
    operations: tuple[Operation, ...] = ()

    @property
    def poisonous(self) -> frozenset[bytes]:
        """The payloads that kill whoever sends them."""
        return frozenset(event.payload for event in self.events if event.poison)


def draw(seed: int) -> Scenario:
    """Choose a scenario. Every part has a stream of chance of its own, so that leaving one out changes no other."""
    chance = random.Random(f"{seed} scenario")
    calm = seed % 5 == 0
    workers, lanes = chance.randint(1, 4), chance.choice((2, 4, 8) if not calm else (4, 8))
    tenants = ("", "b")[: chance.randint(1, 2)]
    endpoints = tuple(
        _endpoint(random.Random(f"{seed} endpoint {n}"), n, tenants, calm) for n in range(1, chance.randint(2, 9))
    )
    events = tuple(_event(random.Random(f"{seed} event {n}"), n, tenants) for n in range(1, chance.choice((20, 60, 150))))
    if not calm and chance.random() < 0.2:
        events = (*events, EventPlan(chance.uniform(0, 60), len(events) + 1, "", poison=True))
    faults = () if calm else tuple(_fault(random.Random(f"{seed} fault {n}"), workers) for n in range(chance.randint(0, 12)))
    operations = tuple(_operation(random.Random(f"{seed} operation {n}"), len(endpoints)) for n in range(chance.randint(0, 6)))
    lossy = not calm and chance.random() < 0.5
    return Scenario(
        seed,
        calm,
        workers,
        lanes,
        hang_database=0.0 if calm else chance.choice((0.0, 0.01, 0.05)),
        lose_replies=chance.choice((0.01, 0.05, 0.2)) if lossy else 0.0,
        endpoints=endpoints,
        events=tuple(sorted(events, key=lambda event: event.at)),
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
        operations=() if calm else tuple(sorted(operations, key=lambda operation: operation.at)),
    )


def _endpoint(chance: random.Random, number: int, tenants: tuple[str, ...], calm: bool) -> EndpointPlan:
    well = chance.random() < 0.5
    kinds: tuple[Behaviour, ...] = ("slow", "fail", "refuse", "hang", "cut", "busy", "stale", "odd", "ok")
    if calm:
        kinds = ("hang", "hang", "slow", "fail", "ok")
    moments = sorted(chance.uniform(10.0 if calm else 0.0, FAULTS_SECONDS) for _ in range(0 if well else chance.randint(1, 4)))
    behaviours = [(at, chance.choice(kinds)) for at in moments]
    if behaviours and chance.random() < 0.1:
        behaviours[-1] = (behaviours[-1][0], "gone")
    rate = round(chance.uniform(0.5, 10), 2) if chance.random() < 0.4 else None
    return EndpointPlan(
        number,
        chance.choice(tenants),
        chance.choice(((), (), (), ("order.*",), ("order.created", "endpoint.*", "delivery.dead"))),
        rate,
        chance.choice((1, 1, 3)) if rate else 1,
        chance.choice((64, 64, 1, 3)),
        chance.choice((2.0, 5.0, 15.0)),
        chance.choice(((1.0, 5.0, 20.0), (0.5,), (), (2.0, 2.0, 2.0, 2.0, 2.0, 2.0))),
        chance.choice((0.001, 0.005, 0.05)),
        chance.choice((0.001, 0.02, 0.2)),
        tuple(behaviours),
    )


def _event(chance: random.Random, number: int, tenants: tuple[str, ...]) -> EventPlan:
    return EventPlan(
        chance.choice((5.0, 20.0, 40.0)) if chance.random() < 0.5 else chance.uniform(0, FAULTS_SECONDS),
        number,
        chance.choice(tenants),
        chance.choice(("order.created", "order.created", "order.paid", "user.created")),
        chance.choice((0.0, 0.0, 0.0, 0.1, 3.0)),
        commits=chance.random() < 0.9,
        deliver_in=chance.choice((None, None, None, None, 7.0)),
        idempotency_key=chance.choice((None, None, f"key {number % 5}")),
    )


def _fault(chance: random.Random, workers: int) -> Fault:
    kind = chance.choice(("kill", "kill", "stop", "stop", *get_args(FaultKind)))
    seconds = {
        "kill": chance.choice((0.1, 2.0, 40.0)),  # until it is started again
        "stop": chance.choice((0.1, 2.0)),
        "freeze": chance.choice((0.2, 5.0, 31.0, 50.0)),
        "freeze_at_write": chance.choice((0.2, 31.0, 50.0)),
        "no_files": chance.choice((0.5, 10.0)),
        "cut_off": chance.choice((1.0, 10.0, 35.0, 60.0)),
        "outage": chance.choice((0.5, 5.0, 40.0)),
        "lock": chance.choice((1.0, 20.0, 70.0)),
        "stall": chance.choice((0.05, 0.3, 3.0, 40.0)),
        "step": chance.choice((-20.0, -0.2, 0.2, 5.0, 40.0, 3600.0)),
    }[kind]
    return Fault(chance.uniform(0, FAULTS_SECONDS), kind, chance.randrange(workers), seconds, chance.randrange(200))


def _operation(chance: random.Random, endpoints: int) -> Operation:
    verb = chance.choice(("pause", "resume", "disable", "enable", "rate", "cap", "retry", "retry_forced"))
    value = {"rate": round(chance.uniform(0.5, 5), 2), "cap": float(chance.choice((1, 2, 64)))}.get(verb)
    return Operation(chance.uniform(0, FAULTS_SECONDS), verb, chance.randint(1, max(1, endpoints)), value)
