"""What goes into and comes out of `worker.endpoints`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, TypedDict, TypeVar

from worker.core.signing import Scheme

State = Literal["enabled", "paused", "disabled"]

Item = TypeVar("Item")


class EndpointRefusedError(ValueError):
    """An endpoint may not be like this. The text says which rule forbids it."""


class NoSuchEndpointError(LookupError):
    """There is no endpoint with this id."""


class EndpointSettings(TypedDict, total=False):
    """What a caller may choose. At creation, what is left out has its default; in `set`, it stays as it is."""

    event_types: Sequence[str]  # 'order.created', 'order.*' or '*'; empty: every type
    rate: float | None  # a second, 1e-5 to 1e6; None: no limit
    burst: int  # how many may go at once under a rate
    max_in_flight: int
    timeout_seconds: float  # one deadline for the whole request
    retry: str  # delays like '5s 5m 30m'; '' for no retries
    headers: Mapping[str, str]
    transport: str  # how it is reached: a name in the workers' configuration, or 'default'


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """One endpoint to create. `keys` are `whsec_…` or `whsk_…`, of which all sign; without any, one of `scheme` is made."""

    url: str
    tenant: str = ""
    settings: EndpointSettings = field(default_factory=EndpointSettings)
    keys: Sequence[str] = field(default=(), repr=False)
    scheme: Scheme = "v1"


@dataclass(frozen=True, slots=True)
class CreatedEndpoint:
    """A new endpoint. `key` is what its receiver verifies with, of its first key.

    That is a secret (`whsec_…`), shown here, in no repr, and never again; or an Ed25519 key's public half (`whpk_…`).
    """

    id: int
    url: str
    key: str = field(repr=False)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that signs from now on. `key`: as that of CreatedEndpoint."""

    id: int
    endpoint_id: int
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class EndpointKey:
    """A key without its secret. `sealed_with` names the key-encryption key; None: it is stored as it is."""

    id: int
    scheme: Scheme
    sealed_with: str | None
    public_key: str | None
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Resealed:
    """What `reseal_keys` did. `failed` says of which keys, and why: these are as they were."""

    sealed_with: str
    keys: int
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RefusedEndpoint:
    """An endpoint of `create_many` that was not created, and why."""

    url: str
    error: str


@dataclass(frozen=True, slots=True)
class RegisteredEndpoint:
    """An endpoint as the view `webhook.endpoints` shows it. `headers` may hold credentials, so they are in no repr."""

    id: int
    tenant: str
    url: str
    event_types: tuple[str, ...]
    state: State
    state_reason: str
    rate: float | None
    burst: int
    max_in_flight: int
    timeout_seconds: float
    circuit: str
    created_at: datetime
    in_flight: int
    retry_seconds: tuple[float, ...]
    headers: Mapping[str, str] = field(repr=False)
    not_before: datetime | None
    failing_since: datetime | None
    recovering_since: datetime | None
    transport: str


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some of a list, newest first. `after` is where the next page starts; None: this was the last."""

    items: tuple[Item, ...]
    after: int | None
