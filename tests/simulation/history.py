"""What happened in a run, in order: what producers, database, workers, receivers and operators would have in their logs."""

from dataclasses import dataclass, fields

from worker.core.model import Disposition


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened. `at` is the simulation's time in seconds, `database_now` what the database's clock said then."""

    at: float
    database_now: float

    def __str__(self) -> str:
        said = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.name not in ("at", "database_now"))
        return f"{self.at:10.3f}  {type(self).__name__:<9}  {said}"


@dataclass(frozen=True, slots=True)
class Committed(Entry):
    """A producer's transaction ended well, and it was told that this is its event. `key` is its tenant and idempotency key."""

    event: int
    payload: bytes
    endpoints: tuple[int, ...]
    deliver_at: float
    """When it is due, on the database's clock."""
    key: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Changed(Entry):
    """The database says something else of a delivery than before. `by` names the call that did it."""

    by: str
    delivery: int
    event: int
    endpoint: int
    before: str
    after: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Granted(Entry):
    """The database leased a delivery to a process."""

    process: str
    claim: int
    delivery: int
    endpoint: int
    attempt: int
    lease_until: float
    circuit: str
    """The endpoint's circuit before this claim, as the database has it."""


@dataclass(frozen=True, slots=True)
class Brought(Entry):
    """A process was told what the database leased to it."""

    process: str
    claim: int


@dataclass(frozen=True, slots=True)
class Extended(Entry):
    """The database extended a lease."""

    claim: int
    lease_until: float


@dataclass(frozen=True, slots=True)
class TakenBack(Entry):
    """A process was told that a claim of its own is no longer there."""

    process: str
    claim: int


@dataclass(frozen=True, slots=True)
class Told(Entry):
    """An outcome reached the database, whatever it made of it."""

    process: str
    claim: int
    delivery: int
    disposition: Disposition
    status: int | None
    retry_seconds: float = 0.0
    hold_seconds: float | None = None
    disables: bool = False
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Written(Entry):
    """A request went into a socket.

    `again`: once more, on a fresh connection. `frozen`: the process stood still before this, after its last look. `timestamp`:
    as the receiver is told it. `on_time`: the process knew the database's clock well enough for P4, which excludes the others.
    """

    process: str
    claim: int
    delivery: int
    attempt: int
    endpoint: int
    event: int
    body: bytes
    verified: bool
    again: bool
    frozen: bool
    timestamp: int
    on_time: bool = True


@dataclass(frozen=True, slots=True)
class Answered(Entry):
    """What a process knows of a request when it has ended: a status, or none."""

    process: str
    claim: int
    delivery: int
    status: int | None


@dataclass(frozen=True, slots=True)
class Disturbed(Entry):
    """A process was killed, stands still until then, or (all of them) cannot trust the clocks that they go by."""

    process: str
    how: str
    until: float


@dataclass(frozen=True, slots=True)
class Failed(Entry):
    """A call to the database failed, or so it seemed to the process."""

    process: str
    how: str


@dataclass(frozen=True, slots=True)
class NotExtended(Entry):
    """A process tried to extend the leases of these claims, and does not know that it did: the call failed, or was given up."""

    process: str
    claims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Faulty(Entry):
    """A fault of the scenario began."""

    kind: str
    worker: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Operated(Entry):
    """An operator did something, or was refused."""

    verb: str
    subject: int
    value: float | None
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Ended(Entry):
    """A process that had been asked to stop has."""

    process: str
    seconds: float
    in_hand: int
