"""Makes the database's endpoints what `dev` wants them to be: some that print, and one for each line of a file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from worker.core.signing import shown
from worker.dev.lookup import Lookup
from worker.endpoints import (
    EndpointRefusedError,
    Endpoints,
    EndpointSettings,
    NewEndpoint,
    NoSuchEndpointError,
    RegisteredEndpoint,
)
from worker.endpoints.checks import read_keys, to_changes
from worker.store.database import DatabaseError

ACTOR = "webhook-worker dev"
PAGE_ROWS = 500
OVERLAP_SECONDS = 365 * 86_400.0

DEFAULTS: EndpointSettings = {
    "event_types": (), "rate": None, "burst": 1, "max_in_flight": 64, "timeout_seconds": 15.0,
    "retry": "5s 5m 30m 2h 5h 10h 14h 20h 24h", "headers": {}, "transport": "default",
}  # fmt: skip
"""What a line that says nothing means: a setting that is taken out of a line goes back to this."""

Name = tuple[str, str]
"""An endpoint is known by its tenant and URL, since a file has no ids."""


class Keeper:
    """Keeps an endpoint for each line, and one that prints for each tenant. `tell` is called with what was done.

    What others have made is left alone, unless a line has the same tenant and URL, and `dev` has made none with them. Whatever
    it calls may raise StoreError; called again, it does what is left to do.
    """

    def __init__(self, printer_url: str, endpoints: Endpoints, lookup: Lookup, tell: Callable[[str], None]) -> None:
        self._printer_url, self._endpoints, self._lookup, self._tell = printer_url, endpoints, lookup, tell
        self._told: set[int] = set()

    async def bring_printer(self) -> None:
        """Let there be the endpoint that prints, of the empty tenant. Raises EndpointRefusedError."""
        there, _ = await self._every()
        await self._bring(NewEndpoint(self._printer_url), there.get(("", self._printer_url)))

    async def bring(self, lines: Mapping[int, NewEndpoint]) -> dict[int, Exception]:
        """Let the endpoints be as these lines say, and disable those that `dev` made for others.

        One that cannot be brought does not stop the others: returns why, by the number of the line, 0 for the endpoint that
        prints. A DatabaseError there may pass; EndpointRefusedError and NoSuchEndpointError will not.
        """
        there, own = await self._every()
        wanted = {("", self._printer_url): (0, NewEndpoint(self._printer_url))}
        for number, new in lines.items():
            wanted.setdefault((new.tenant, self._printer_url), (number, NewEndpoint(self._printer_url, new.tenant)))
            wanted[new.tenant, new.url] = number, new
        failed: dict[int, Exception] = {}
        for name, (number, new) in wanted.items():
            try:
                await self._bring(new, there.get(name))
            except (EndpointRefusedError, NoSuchEndpointError, DatabaseError) as error:
                failed[number] = error
        kept = {there[name].id for name in wanted if name in there}
        await self._drop(one for one in own if one.id not in kept and one.state != "disabled")
        return failed

    async def _every(self) -> tuple[dict[Name, RegisteredEndpoint], list[RegisteredEndpoint]]:
        """Return the endpoint that each name means, `dev`'s rather than another's and the newest; and all that `dev` made."""
        made = await self._lookup.made_by(ACTOR)
        found: list[RegisteredEndpoint] = []
        after: int | None = None
        while True:
            page = await self._endpoints.list(limit=PAGE_ROWS, after=after)
            found += page.items
            after = page.after
            if after is None:
                break
        found.sort(key=lambda one: (one.id in made, one.id))
        return {(one.tenant, one.url): one for one in found}, [one for one in found if one.id in made]

    async def _bring(self, new: NewEndpoint, one: RegisteredEndpoint | None) -> None:
        """Make an endpoint what a line says, and say what was done."""
        settings = cast("EndpointSettings", {**DEFAULTS, **new.settings})
        did = ""
        if one is None:
            created = await self._endpoints.create(new.url, tenant=new.tenant, keys=new.keys, **settings)
            for warning in created.warnings:
                self._tell(f"warning: {warning}")
            id_, did = created.id, "added"
        else:
            id_ = one.id
            if _differs(one, settings):
                await self._endpoints.set(id_, **settings)
                did = "changed"
            if new.keys and await self._bring_keys(one, new.keys):
                did = "changed"
            if one.state == "disabled":
                await self._endpoints.enable(id_, reason="it is in the file")
                did = "added"
        if new.url != self._printer_url and (did or id_ not in self._told):
            texts = " ".join(shown(key) for endpoint_id, key in await self._lookup.keys(new.url) if endpoint_id == id_)
            self._tell(f"endpoint {id_} {did or 'is there'}: {new.url}, signed with {texts}")
            self._told.add(id_)

    async def _bring_keys(self, one: RegisteredEndpoint, texts: Sequence[str]) -> bool:
        """Let these keys sign and no others, if they do not; return whether that was so."""
        there = {key.secret for endpoint_id, key in await self._lookup.keys(one.url) if endpoint_id == one.id}
        if {key.secret for key in read_keys(texts, "v1")} == there:
            return False
        for n, text in enumerate(texts):  # the first ends those before it
            await self._endpoints.rotate_key(one.id, key=text, overlap_seconds=OVERLAP_SECONDS if n else 0.0)
        return True

    async def _drop(self, unwanted: Iterable[RegisteredEndpoint]) -> None:
        for one in unwanted:
            with suppress(NoSuchEndpointError):
                await self._endpoints.disable(one.id, reason="it is not in the file any more")
            self._tell(f"endpoint {one.id} removed: {one.url}")


def _differs(one: RegisteredEndpoint, settings: EndpointSettings) -> bool:
    return any(_plain(getattr(one, name)) != _plain(value) for name, value in to_changes(settings).items())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
