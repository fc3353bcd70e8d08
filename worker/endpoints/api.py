"""The public API: see `worker.endpoints`."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Self, Unpack

import anyio

from worker.core.address import AddressRules
from worker.core.sealing import KeyRing
from worker.core.signing import Ed25519Key, Scheme, SigningKey, shown
from worker.endpoints.checks import read_keys, to_changes, to_document
from worker.endpoints.keys import key_document, registered_key, sealed_anew
from worker.endpoints.model import (
    CreatedEndpoint,
    EndpointKey,
    EndpointRefusedError,
    EndpointSettings,
    NewEndpoint,
    NewKey,
    NoSuchEndpointError,
    Page,
    RefusedEndpoint,
    RegisteredEndpoint,
    Resealed,
    State,
)
from worker.endpoints.urls import URLJudge
from worker.store.codec import dumps, loads
from worker.store.database import DatabaseError, Row, connect
from worker.store.sql import statements

BATCH_ROWS = 500

Rows = list[Row]

_NO_DATA_FOUND = "P0002"
_REFUSALS = ("22", "23", "54")
"""SQLSTATE classes with which the database refuses values: data, constraints, limits."""


class Endpoints:
    """Endpoints of one database. Its methods may be called from several tasks; they take turns on one connection.

    All of them raise DatabaseUnavailableError (`worker.store.database`) if the database is out of reach. With a `key_ring`
    (`worker.settings.read_key_ring`) keys are sealed before they are sent there.
    """

    def __init__(
        self,
        dsn: str,
        *,
        actor: str,
        rules: AddressRules | None = None,
        allow_http: bool = False,
        key_ring: KeyRing | None = None,
    ) -> None:
        self._key_ring = key_ring or KeyRing()
        self._database = connect(dsn)
        self._turn = anyio.Lock()
        self._actor = actor
        self._rules, self._allow_http = rules or AddressRules(), allow_http
        self._sql = statements()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._database.close()

    async def create(
        self,
        url: str,
        *,
        tenant: str = "",
        keys: Sequence[str] = (),
        scheme: Scheme = "v1",
        reason: str = "",
        **settings: Unpack[EndpointSettings],
    ) -> CreatedEndpoint:
        """Create an endpoint, or raise EndpointRefusedError. All of `keys` sign; without any, one of `scheme` is made."""
        new = _checked(NewEndpoint(url, tenant, settings, keys, scheme))
        warnings = await self._judge().judge(url)
        ((endpoint_id, key),) = await self._write([new], reason)
        return CreatedEndpoint(endpoint_id, url, key, warnings)

    async def create_many(
        self, endpoints: Iterable[NewEndpoint], *, reason: str = ""
    ) -> tuple[CreatedEndpoint | RefusedEndpoint, ...]:
        """Create endpoints by the thousand: one round trip for every 500. Returns what became of each, in order.

        A refused one does not stop the others. If this raises, whole batches before may have been written.
        """
        judge = self._judge()
        results: list[CreatedEndpoint | RefusedEndpoint] = []
        for batch in _batches(endpoints, BATCH_ROWS):
            results += await self._create_batch(batch, judge, reason)
        return tuple(results)

    async def get(self, endpoint_id: int) -> RegisteredEndpoint:
        """Return one endpoint, or raise NoSuchEndpointError."""
        rows = await self._call("endpoints_page", endpoint_id, None, None, None, 1)
        if not rows:
            raise NoSuchEndpointError(f"there is no endpoint {endpoint_id}")
        return _registered(rows[0])

    async def list(
        self, *, tenant: str | None = None, state: State | None = None, limit: int = 100, after: int | None = None
    ) -> Page[RegisteredEndpoint]:
        """Return up to `limit` endpoints, newest first, that come `after` a page before."""
        rows = await self._call("endpoints_page", None, tenant, state, after, limit + 1)
        items = tuple(_registered(row) for row in rows[:limit])
        return Page(items, items[-1].id if len(rows) > limit else None)

    async def set(
        self, endpoint_id: int, *, url: str | None = None, reason: str = "", **settings: Unpack[EndpointSettings]
    ) -> tuple[str, ...]:
        """Change what is given and leave the rest; return warnings. Raises EndpointRefusedError or NoSuchEndpointError."""
        changes = to_changes(settings)
        warnings: tuple[str, ...] = ()
        if url is not None:
            warnings = await self._judge().judge(url)
            changes["url"] = url
        await self._call("endpoint_set", endpoint_id, dumps(changes), self._actor, reason)
        return warnings

    async def pause(self, endpoint_id: int, *, reason: str = "") -> None:
        """Hold the endpoint's deliveries until it is resumed."""
        await self._call("endpoint_pause", endpoint_id, self._actor, reason)

    async def resume(self, endpoint_id: int, *, reason: str = "") -> None:
        """Let a paused endpoint's deliveries go. A disabled endpoint is refused (DatabaseError, with a hint)."""
        await self._call("endpoint_resume", endpoint_id, self._actor, reason)

    async def count_waiting(self, endpoint_id: int, count_max: int) -> int:
        """Return how many of its deliveries wait or are held, counted up to `count_max`."""
        (row,) = await self._call("endpoint_waiting", endpoint_id, count_max)
        waiting: int = row["waiting"]
        return waiting

    async def rotate_key(
        self,
        endpoint_id: int,
        *,
        key: str | None = None,
        scheme: Scheme = "v1",
        overlap_seconds: float = 86_400.0,
        reason: str = "",
    ) -> NewKey:
        """Let a new key sign from now on, and end the others after the overlap, in which all sign.

        `key` is `whsec_…` or `whsk_…`; without it, one of `scheme` is made. Raises EndpointRefusedError or NoSuchEndpointError.
        """
        (new,) = read_keys([key] if key is not None else [], scheme)
        document = dumps(key_document(new, self._key_ring, endpoint_id))
        rows = await self._call("endpoint_rotate_key", endpoint_id, document, overlap_seconds, self._actor, reason)
        return NewKey(rows[0]["id"], endpoint_id, shown(new))

    async def keys(self, endpoint_id: int) -> tuple[EndpointKey, ...]:
        """Return an endpoint's valid keys without their secrets, the newest first, or raise NoSuchEndpointError."""
        await self.get(endpoint_id)
        return tuple(registered_key(row) for row in await self._call("endpoint_keys", endpoint_id))

    async def reseal_keys(self, *, reason: str = "") -> Resealed:
        """Seal every key with the ring's first key: those that are not sealed, and those that others of the ring sealed.

        It may be interrupted and run again. ValueError without a key ring.
        """
        name = self._key_ring.sealing
        if name is None:
            raise ValueError("there is no key-encryption key to seal with")
        after, written, failed = 0, 0, list[str]()
        while rows := await self._call("keys_page", name, after, BATCH_ROWS):
            documents, refused = sealed_anew(rows, self._key_ring)
            failed += refused
            written += (await self._call("keys_reseal", dumps(documents), self._actor, reason))[0]["reseal_keys"]
            after = rows[-1]["id"]
        return Resealed(name, written, tuple(failed))

    async def disable(self, endpoint_id: int, *, reason: str = "") -> None:
        """Hold the endpoint's deliveries until it is enabled."""
        await self._call("endpoint_disable", endpoint_id, self._actor, reason)

    async def enable(self, endpoint_id: int, *, reason: str = "") -> None:
        """Enable the endpoint, whatever state it is in."""
        await self._call("endpoint_enable", endpoint_id, self._actor, reason)

    def _judge(self) -> URLJudge:
        return URLJudge(self._rules, allow_http=self._allow_http)

    async def _create_batch(
        self, batch: Sequence[NewEndpoint], judge: URLJudge, reason: str
    ) -> Iterable[CreatedEndpoint | RefusedEndpoint]:
        explanations = await judge.explain_many([new.url for new in batch])
        results: dict[int, CreatedEndpoint | RefusedEndpoint] = {}
        checked: dict[int, _Checked] = {}
        for n, (new, url) in enumerate(zip(batch, explanations, strict=True)):
            try:
                if url.denied is not None:
                    raise EndpointRefusedError(url.denied)
                checked[n] = _checked(new)
            except EndpointRefusedError as refused:
                results[n] = RefusedEndpoint(new.url, str(refused))
        for n, outcome in (await self._insert(checked, reason)).items():
            if isinstance(outcome, EndpointRefusedError):
                results[n] = RefusedEndpoint(batch[n].url, str(outcome))
            else:
                warning = explanations[n].warning
                results[n] = CreatedEndpoint(outcome[0], batch[n].url, outcome[1], (warning,) if warning else ())
        return [results[n] for n in range(len(batch))]

    async def _insert(self, endpoints: dict[int, "_Checked"], reason: str) -> dict[int, tuple[int, str] | EndpointRefusedError]:
        """Write endpoints in one call. If the database refuses the call, halve it until what it refuses stands alone."""
        if not endpoints:
            return {}
        try:
            return dict(zip(endpoints, await self._write(list(endpoints.values()), reason), strict=True))
        except EndpointRefusedError as error:
            if len(endpoints) == 1:
                return dict.fromkeys(endpoints, error)
            items, middle = list(endpoints.items()), len(endpoints) // 2
            return {
                **await self._insert(dict(items[:middle]), reason),
                **await self._insert(dict(items[middle:]), reason),
            }

    async def _write(self, endpoints: Sequence["_Checked"], reason: str) -> Sequence[tuple[int, str]]:
        """Write endpoints; return the id of each, and what its receiver verifies with."""
        ids = [row["id"] for row in await self._call("endpoint_ids", len(endpoints))]
        documents = [
            {**new.document, "id": id_, "keys": [key_document(key, self._key_ring, id_) for key in new.keys]}
            for id_, new in zip(ids, endpoints, strict=True)
        ]
        await self._call("endpoints_create", dumps(documents), self._actor, reason)
        return [(id_, shown(new.keys[0])) for id_, new in zip(ids, endpoints, strict=True)]

    async def _call(self, statement: str, *args: Any) -> Rows:
        try:
            async with self._turn:
                return await self._database.rows(self._sql[statement], *args)
        except DatabaseError as error:
            message = str(error).partition("\n")[0].removeprefix("webhook: ")
            if error.sqlstate == _NO_DATA_FOUND:
                raise NoSuchEndpointError(message) from error
            if error.sqlstate.startswith(_REFUSALS):
                raise EndpointRefusedError(message) from error
            raise


class _Checked(NamedTuple):
    """A new endpoint as `endpoints_create` takes it, but for its id, and its keys, which are sealed for that id."""

    document: dict[str, Any]
    keys: Sequence[SigningKey | Ed25519Key]


def _checked(new: NewEndpoint) -> _Checked:
    return _Checked(to_document(new), read_keys(new.keys, new.scheme))


_MOMENTS = ("created_at", "not_before", "failing_since", "recovering_since")


def _registered(row: Row) -> RegisteredEndpoint:
    converted: Row = {name: tuple(row[name]) for name in ("event_types", "retry_seconds")}
    converted |= {name: row[name] and row[name].astimezone(UTC) for name in _MOMENTS}
    return RegisteredEndpoint(**{**row, **converted, "headers": loads(row["headers"])})


def _batches(items: Iterable[NewEndpoint], size: int) -> Iterator[Sequence[NewEndpoint]]:
    iterator = iter(items)
    while batch := tuple(islice(iterator, size)):
        yield batch
