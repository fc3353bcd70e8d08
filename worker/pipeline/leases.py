"""Keeping the leases of what is in hand, until the very end: draining included."""

from collections.abc import Callable
from contextlib import suppress

import anyio

from worker.core.model import Claim
from worker.pipeline.ports import Store, StoreError

LOOK_EVERY_SECONDS = 1.0
RENEW_BELOW = 2 / 3
"""A lease is extended when less than this share of it is left."""

TRY_SECONDS = 7.5
"""A try may take a quarter of the shortest lease; then another is made, over a new connection: two hang before it runs out."""


class Leases:
    """The claims of this process that are not yet recorded. Their `lease_expires` is what the last look before a write asks."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock
        self._claims: list[Claim] = []

    def add(self, claim: Claim, asked: float, deliveries: int) -> None:
        """Take a claim that was asked for at monotonic time `asked`: its lease began no earlier than that."""
        claim.lease_expires = asked + claim.lease_seconds
        claim.open = deliveries
        self._claims.append(claim)

    async def keep(self) -> None:
        """Extend for ever. A lease that cannot be extended runs out, and nothing more of it is sent."""
        while True:
            now = self._clock()
            self._claims = [claim for claim in self._claims if claim.open]
            ending = [claim for claim in self._claims if claim.lease_expires - now < claim.lease_seconds * RENEW_BELOW]
            if ending:
                with suppress(StoreError), anyio.move_on_after(TRY_SECONDS):
                    kept = await self._store.extend([claim.id for claim in ending])
                    for claim in ending:  # one that was taken back has ended now
                        claim.lease_expires = now + claim.lease_seconds if claim.id in kept else now
            await anyio.sleep(LOOK_EVERY_SECONDS)
