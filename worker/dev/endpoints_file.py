"""Endpoints that follow a file: what is added, changed or removed there is so in the database, a moment later."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import anyio

from worker.core.signing import shown
from worker.core.url import parse_url
from worker.dev.lookup import Lookup
from worker.endpoints import Endpoints, EndpointSettings, NewEndpoint, RegisteredEndpoint
from worker.endpoints.checks import read_keys, to_changes, to_document
from worker.endpoints.lines import read_line
from worker.pipeline.ports import StoreError
from worker.store.database import DatabaseUnavailableError

ACTOR = "webhook-worker dev"
LOOK_SECONDS = 0.2
PAGE_ROWS = 500
OVERLAP_SECONDS = 365 * 86_400.0

DEFAULTS: EndpointSettings = {
    "event_types": (), "rate": None, "burst": 1, "max_in_flight": 64, "timeout_seconds": 15.0,
    "retry": "5s 5m 30m 2h 5h 10h 14h 20h 24h", "headers": {}, "transport": "default",
}  # fmt: skip
"""What a line that says nothing means: a setting that is taken out of a line goes back to this."""

_UNSEEN = object()

Name = tuple[str, str]
"""An endpoint is known by its tenant and URL, since a file has no ids."""


class EndpointsFile:
    """Keeps the endpoints as a file says, and one that prints for each tenant that it names.

    Without a file there is only that of the empty tenant. Endpoints that others have made are left alone, unless the file has
    the same tenant and URL.
    """

    def __init__(
        self, path: Path | None, printer_url: str, endpoints: Endpoints, lookup: Lookup, tell: Callable[[str], None]
    ) -> None:
        self._path, self._printer_url = path, printer_url
        self._endpoints, self._lookup, self._tell = endpoints, lookup, tell
        self._seen: object = _UNSEEN
        self._told: set[int] = set()

    async def follow(self) -> None:
        """Look at the file for ever."""
        while True:
            await self.look()
            await anyio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Let hold what the file says, if it has changed. A file that cannot be used changes nothing."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        try:
            if stamp is None and self._path is not None:
                self._tell(f"{self._path} is not there: the endpoints are as they were, and it is waited for")
            lines = [] if stamp is None or self._path is None else read_endpoints(self._path)
            if stamp is not None or self._seen is _UNSEEN:
                await self._apply(lines)
        except DatabaseUnavailableError:
            return  # the worker says so; the next look tries again
        except (OSError, ValueError, StoreError) as error:
            self._tell(f"{self._path}: {error}; the endpoints stay as they were")
        self._seen = stamp

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            found = self._path and self._path.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None

    async def _apply(self, lines: Sequence[NewEndpoint]) -> None:
        there = {(one.tenant, one.url): one for one in await self._every()}
        printing = [NewEndpoint(self._printer_url, tenant) for tenant in sorted({"", *(line.tenant for line in lines)})]
        wanted = {(new.tenant, new.url): new for new in (*printing, *lines)}
        done = {name: await self._bring(new, there.get(name)) for name, new in wanted.items()}
        made = await self._lookup.made_by(ACTOR)
        for name, one in there.items():
            if name not in wanted and one.id in made and one.state != "disabled":
                await self._endpoints.disable(one.id, reason="it is not in the file any more")
                self._tell(f"endpoint {one.id} removed: {one.url}")
        await self._tell_of({name: one for name, one in done.items() if name[1] != self._printer_url})

    async def _every(self) -> list[RegisteredEndpoint]:
        """Return all endpoints, the oldest first."""
        found: list[RegisteredEndpoint] = []
        after: int | None = None
        while True:
            page = await self._endpoints.list(limit=PAGE_ROWS, after=after)
            found += page.items
            after = page.after
            if after is None:
                return found[::-1]

    async def _bring(self, new: NewEndpoint, one: RegisteredEndpoint | None) -> tuple[int, str]:
        """Make an endpoint what a line says; return its id, and what was done, if anything was."""
        settings = cast("EndpointSettings", {**DEFAULTS, **new.settings})
        if one is None:
            created = await self._endpoints.create(new.url, tenant=new.tenant, keys=new.keys, **settings)
            for warning in created.warnings:
                self._tell(f"warning: {warning}")
            return created.id, "added"
        did = ""
        if _differs(one, settings):
            await self._endpoints.set(one.id, **settings)
            did = "changed"
        if await self._bring_keys(one.id, new.keys):
            did = "changed"
        if one.state == "disabled":
            await self._endpoints.enable(one.id, reason="it is in the file")
            did = "added"
        return one.id, did

    async def _bring_keys(self, endpoint_id: int, texts: Sequence[str]) -> bool:
        """Let these keys sign and no others, if there are any and they do not; return whether that was so."""
        there = {key.secret for id_, key in await self._lookup.keys() if id_ == endpoint_id}
        if not texts or {key.secret for key in read_keys(texts, "v1")} == there:
            return False
        for n, text in enumerate(texts):  # the first ends those before it
            await self._endpoints.rotate_key(endpoint_id, key=text, overlap_seconds=OVERLAP_SECONDS if n else 0.0)
        return True

    async def _tell_of(self, done: Mapping[Name, tuple[int, str]]) -> None:
        """Say what was done, and of each endpoint once what its receiver verifies with."""
        keys = await self._lookup.keys()
        for (_, url), (id_, did) in done.items():
            if did or id_ not in self._told:
                texts = " ".join(shown(key) for endpoint_id, key in keys if endpoint_id == id_)
                self._tell(f"endpoint {id_} {did or 'is there'}: {url}, signed with {texts}")
            self._told.add(id_)


def read_endpoints(path: Path) -> list[NewEndpoint]:
    """Read a file of endpoints, a JSON object a line as for `endpoints import`; OSError, or ValueError that names the line."""
    found: dict[Name, NewEndpoint] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            new = read_line(line)
            to_document(new)
            read_keys(new.keys, new.scheme)
            parse_url(new.url, allow_http=True)
            if (new.tenant, new.url) in found:
                raise ValueError("a line before has the same tenant and url")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        found[new.tenant, new.url] = new
    return list(found.values())


def _differs(one: RegisteredEndpoint, settings: EndpointSettings) -> bool:
    return any(_plain(getattr(one, name)) != _plain(value) for name, value in to_changes(settings).items())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
