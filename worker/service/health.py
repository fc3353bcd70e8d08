"""Whether this worker can deliver just now, and if not, why not, in words."""

from typing import Protocol

import anyio

from worker.pipeline.pipeline import Pipeline
from worker.pipeline.ports import StoreError
from worker.store.migrate import IncompatibleSchemaError, Schema

EVERY_SECONDS = 5.0


class Schemas(Protocol):
    """What health needs of a store."""

    async def read_schema(self) -> Schema:
        """Return what the database says of itself. Raises IncompatibleSchemaError or StoreError."""


class Health:
    """Ready: the schema fits, the database answers, and the worker is not draining."""

    def __init__(self, store: Schemas, pipeline: Pipeline) -> None:
        self._store, self._pipeline = store, pipeline
        self._problem: str | None = "the database has not answered yet"

    async def watch(self) -> None:
        """Look for ever: the database may be migrated, or go away, under a running worker."""
        while True:
            await self.look()
            await anyio.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """Ask the database once."""
        try:
            await self._store.read_schema()
        except IncompatibleSchemaError as error:
            self._problem = f"the schema does not fit: {error}"
        except StoreError as error:
            self._problem = f"the database does not answer: {error}"
        else:
            self._problem = None

    @property
    def problem(self) -> str | None:
        """Why this worker is not ready; None if it is."""
        if self._pipeline.stopping:
            return "draining: it finishes what it has in hand, and claims nothing more"
        if self._pipeline.store_error is not None:
            return f"the store fails: {self._pipeline.store_error}"
        return self._problem
