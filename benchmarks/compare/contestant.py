"""What a contestant is: its tables, how its producer enqueues, and the command of its worker."""

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.stage import ROOT, on_database
from worker.store.database import connect

LANES = 64
ENDPOINTS = 100
PAYLOAD = json.dumps({"type": "order.created", "data": "x" * 960})

Enqueue = Callable[[int], Awaitable[list[str]]]
"""Commit so many deliveries; their `webhook-id`s."""


@dataclass(frozen=True)
class Stage:
    """Where a contestant plays: a fresh database, the beginning of the receivers' URLs, what a service of its own told."""

    dsn: str
    prefix: str
    service: str = ""

    @property
    def receiver(self) -> str:
        """Host and port of the receiver."""
        return urlsplit(self.prefix).netloc


@dataclass(frozen=True)
class Command:
    """One process of a worker."""

    arguments: Sequence[str | Path]
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = ROOT


class Contestant(ABC):
    """One worker, in one configuration."""

    name: str
    family: str
    """What a plot groups it by."""
    deliveries: int
    """Of one run: some seconds' worth, and for a runtime with a compiler what that needs to see."""
    waits = True
    """It stays for events to come, so that its latency can be measured."""

    def install(self) -> None:  # noqa: B027 - most need nothing
        """Bring what is missing. Raises `CannotRunError`."""

    @contextmanager
    def service(self) -> Iterator[tuple[str, list[int]]]:
        """Run what it needs beside Postgres; yield what the worker must be told, and the processes to account for."""
        with nullcontext():
            yield "", []

    @abstractmethod
    def prepare(self, stage: Stage) -> None:
        """Make its tables."""

    @abstractmethod
    def producer(self, stage: Stage) -> Any:
        """Return an asynchronous context with an `Enqueue`."""

    @abstractmethod
    def commands(self, stage: Stage) -> list[Command]:
        """Return the processes of its worker."""


class InSql(Contestant):
    """One whose producer is a statement: `$1` deliveries, `$2` the URL's beginning, `$3` the payload."""

    schema: str
    enqueue: str

    def prepare(self, stage: Stage) -> None:
        """Run the script."""
        on_database(stage.dsn, lambda database: database.script([self.schema, "reset search_path"]))

    @asynccontextmanager
    async def producer(self, stage: Stage) -> AsyncIterator[Enqueue]:
        """Use one connection."""
        database = connect(stage.dsn)

        async def enqueue(count: int) -> list[str]:
            ids: list[str] = json.loads(await database.value(self.enqueue, count, stage.prefix, PAYLOAD))
            return ids

        try:
            yield enqueue
        finally:
            await database.close()
