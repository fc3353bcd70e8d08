"""The public API: see `worker.endpoints`."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from itertools import islice
from types import TracebackType
from typing import Any, Self, Unpack

import anyio

from worker.core.address import AddressRules
from worker.endpoints.checks import to_changes, to_document
from worker.endpoints.model import (
    CreatedEndpoint,
    EndpointRefusedError,
    EndpointSettings,
    NewEndpoint,
    NoSuchEndpointError,
    Page,
    RefusedEndpoint,
    RegisteredEndpoint,
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

    All of them raise DatabaseUnavailableError (`worker.store.database`) if the database is out of reach.
    """

    def __init__(self, dsn: str, *, actor: str, rules: AddressRules | None = None, allow_http: bool = False) -> None:
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
        self, url: str, *, tenant: str = "", keys: Sequence[str] = (), reason: str = "", **settings: Unpack[EndpointSettings]
    ) -> CreatedEndpoint:
        """Create an endpoint, or raise EndpointRefusedError. All of `keys` sign; without any, one is made."""
        document = to_document(NewEndpoint(url, tenant, settings, keys))
        warnings = await self._judge().judge(url)
        rows = await self._call("endpoints_create", dumps([document]), self._actor, reason)
        return CreatedEndpoint(rows[0]["id"], url, rows[0]["key"], warnings)

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
        documents: dict[int, dict[str, Any]] = {}
        for n, (new, url) in enumerate(zip(batch, explanations, strict=True)):
            try:
                if url.denied is not None:
                    raise EndpointRefusedError(url.denied)
                documents[n] = to_document(new)
            except EndpointRefusedError as refused:
                results[n] = RefusedEndpoint(new.url, str(refused))
        made = await self._insert(documents, reason)
        for n, outcome in made.items():
            if isinstance(outcome, EndpointRefusedError):
                results[n] = RefusedEndpoint(batch[n].url, str(outcome))
            else:
                warning = explanations[n].warning
                results[n] = CreatedEndpoint(outcome["id"], batch[n].url, outcome["key"], (warning,) if warning else ())
        return [results[n] for n in range(len(batch))]

    async def _insert(self, documents: dict[int, dict[str, Any]], reason: str) -> dict[int, Any]:
        """Write documents in one call. If the database refuses the call, halve it until what it refuses stands alone."""
        if not documents:
            return {}
        try:
            rows = await self._call("endpoints_create", dumps(list(documents.values())), self._actor, reason)
        except EndpointRefusedError as error:
            if len(documents) == 1:
                return dict.fromkeys(documents, error)
            items, middle = list(documents.items()), len(documents) // 2
            return {
                **await self._insert(dict(items[:middle]), reason),
                **await self._insert(dict(items[middle:]), reason),
            }
        return dict(zip(documents, rows, strict=True))

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


_MOMENTS = ("created_at", "not_before", "failing_since", "recovering_since")


def _registered(row: Row) -> RegisteredEndpoint:
    converted: Row = {name: tuple(row[name]) for name in ("event_types", "retry_seconds")}
    converted |= {name: row[name] and row[name].astimezone(UTC) for name in _MOMENTS}
    return RegisteredEndpoint(**{**row, **converted, "headers": loads(row["headers"])})


def _batches(items: Iterable[NewEndpoint], size: int) -> Iterator[Sequence[NewEndpoint]]:
    iterator = iter(items)
    while batch := tuple(islice(iterator, size)):
        yield batch
