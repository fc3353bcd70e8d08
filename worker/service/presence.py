"""A worker among the others: what it says of itself every few seconds, and hears, which is whether it should drain."""

import logging
import os
import platform
import socket
import sys
from typing import Any, Protocol

import anyio

from worker import __version__
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.ports import StoreError
from worker.store.database import DatabaseUnavailableError

REPORT_EVERY_SECONDS = 3.0

log = logging.getLogger("worker")


class Roll(Protocol):
    """Where workers are listed. Each may raise StoreError, and may then be called again."""

    async def report(self, report: dict[str, Any]) -> bool:
        """Write down what a worker says of itself; return whether an operator has asked it to drain."""

    async def forget_me(self) -> None:
        """Say that it ends, so that it is listed no more."""


async def be_present(roll: Roll, pipeline: Pipeline) -> None:
    """Report, and stop the pipeline when asked to. That this fails keeps nobody from delivering: then it is said once."""
    about = {"host": socket.gethostname(), "pid": os.getpid(), "runtime": runtime(), "version": __version__}
    said = False
    while True:
        counts = pipeline.counts
        now = {
            "lanes": pipeline.lanes,
            "attempted": counts.delivered + counts.retried + counts.dead,
            "delivered": counts.delivered,
            "in_hand": pipeline.in_hand,
            "draining": pipeline.stopping,
        }
        try:
            if await roll.report(about | now) and not pipeline.stopping:
                log.info("an operator asks this worker to drain: %d deliveries in hand", pipeline.in_hand)
                pipeline.stop()
        except DatabaseUnavailableError as error:
            log.debug("report put off: %s", error)  # the pipeline says that the database is away
        except StoreError as error:
            if not said:
                log.warning("`workers list` does not know this worker: %s; apply deploy/postgres/roles.sql again", error)
            said = True
        await anyio.sleep(REPORT_EVERY_SECONDS)


def runtime() -> str:
    """Name the Python that this is: implementation and version of it."""
    version = getattr(sys, "pypy_version_info", sys.version_info)
    return f"{platform.python_implementation()} {version.major}.{version.minor}.{version.micro}"
