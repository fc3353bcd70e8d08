"""Endpoints that follow a file: what is added, changed or removed there is so in the database, a moment later."""

from collections.abc import Callable
from pathlib import Path

import anyio

from worker.core.url import parse_url
from worker.dev.keeper import Keeper, Name
from worker.endpoints import NewEndpoint
from worker.endpoints.checks import read_keys, to_document
from worker.endpoints.lines import read_line
from worker.pipeline.ports import StoreError
from worker.store.database import DatabaseUnavailableError

LOOK_SECONDS = 0.2

_NEVER = object()


class EndpointsFile:
    """Looks at a file, and lets hold what it says once nobody writes it any more: when two looks find the same."""

    def __init__(self, path: Path, keeper: Keeper, tell: Callable[[str], None]) -> None:
        self._path, self._keeper, self._tell = path, keeper, tell
        self._looked: object = _NEVER
        self._done: object = _NEVER
        self._said: set[str] = set()  # of what is there now

    async def begin(self) -> None:
        """Let hold what is in the file already."""
        await self.look()
        await anyio.sleep(LOOK_SECONDS)
        await self.look()

    async def follow(self) -> None:
        """Look at the file for ever."""
        while True:
            await self.look()
            await anyio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Let hold what the file says, if it has changed since. A file that is not there, or has a mistake, changes nothing."""
        stamp = self._stamp()
        if stamp != self._looked:
            self._looked = stamp
            self._said.clear()
        elif stamp != self._done and await self._use(stamp):
            self._done = stamp

    async def _use(self, stamp: object) -> bool:
        """Return whether that is all there is to do about a file of this stamp."""
        if stamp is None:
            self._say("it is not there: the endpoints are as they were, and it is waited for")
            return True
        lines: dict[int, NewEndpoint] = {}
        mistake = None
        try:
            lines = read_endpoints(self._path)
        except (OSError, ValueError) as error:
            mistake = error
        if self._stamp() != stamp:  # somebody is writing it
            return False
        if mistake is not None:
            self._say(f"{mistake}; the endpoints stay as they were")
            return True
        try:
            failed = await self._keeper.bring(lines)
        except DatabaseUnavailableError:  # the worker says so
            return False
        except StoreError as error:
            self._say(f"{error}; it is tried again")
            return False
        for number, why in failed.items():
            where = f"line {number}" if number else "the endpoint that prints"
            self._say(f"{where}: {why}; the other lines hold")
        return not any(isinstance(why, StoreError) for why in failed.values())

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._tell(f"{self._path}: {text}")
            self._said.add(text)

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def read_endpoints(path: Path) -> dict[int, NewEndpoint]:
    """Read a file of endpoints, a JSON object a line as for `endpoints import`; return them by the numbers of their lines.

    Raises OSError, or ValueError that names the line.
    """
    found: dict[int, NewEndpoint] = {}
    names: set[Name] = set()
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            new = read_line(line)
            to_document(new)
            read_keys(new.keys, new.scheme)
            parse_url(new.url, allow_http=True)
            if (new.tenant, new.url) in names:
                raise ValueError("a line before has the same tenant and url")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        names.add((new.tenant, new.url))
        found[number] = new
    return found
