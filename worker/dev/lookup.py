"""What `dev` reads from its database: signing keys, and what events are."""

import anyio

from worker.core.sealing import CannotUnsealError, KeyRing
from worker.core.signing import Ed25519Key, SigningKey
from worker.store.database import Database, Row
from worker.store.postgres import read_signer
from worker.store.sql import statements

Key = SigningKey | Ed25519Key


class Lookup:
    """Questions of several tasks, which take turns on one connection. All of them may raise StoreError."""

    def __init__(self, database: Database, key_ring: KeyRing) -> None:
        self._database, self._key_ring = database, key_ring
        self._turn = anyio.Lock()

    async def keys(self, url: str | None = None) -> list[tuple[int, Key]]:
        """Return the valid keys of the endpoints with this URL, or of all, with the endpoints' ids, the newest first.

        Keys that cannot be unsealed are left out.
        """
        found: list[tuple[int, Key]] = []
        for row in await self._ask("dev_keys", url):
            try:
                key = read_signer(row["endpoint_id"], self._key_ring, row["scheme"], row["secret"], row["sealed_with"])
            except CannotUnsealError:
                continue
            found.append((row["endpoint_id"], key))
        return found

    async def event(self, event_id: int) -> tuple[str, str] | None:
        """Return an event's type and tenant, or None if there is no such event."""
        rows = await self._ask("dev_event", event_id)
        return (rows[0]["event_type"], rows[0]["tenant"]) if rows else None

    async def made_by(self, actor: str) -> set[int]:
        """Return the ids of the endpoints that somebody created: the audit log remembers."""
        return {row["endpoint_id"] for row in await self._ask("dev_made", actor)}

    async def _ask(self, statement: str, *arguments: object) -> list[Row]:
        async with self._turn:
            return await self._database.rows(statements()[statement], *arguments)
